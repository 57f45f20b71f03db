internal import CLinux
internal import CSeccomp
internal import Glibc
internal import Linux
package import SystemPackage

/// Confines this process to the calls of its loop. An attacker who takes it over from a guest gets nothing new: no file,
/// no program, no connection, no privilege.
///
/// It does not take away what the process already holds. Above all, a dma-buf remains a capability to read and write its
/// pages.
///
/// The process must have only one thread, because the sandbox does not reach others.
package struct Sandbox {
  /// Each phase allows less than the one before.
  package enum Phase: CaseIterable, Sendable {
    /// A socket waits for its connection. The connection may be accepted, and the socket's file removed.
    case waiting
    /// Connected. Others may still connect: to a control socket, or as the next front end.
    case offering
    /// Connected. Only descriptors from the peer and memory for buffers are new.
    case serving
  }

  /// Gives up privileges, capabilities and core files for good. Everything that needs them was opened before.
  ///
  /// From now on the process ends with status 1 and a line on standard error when a phase denies a system
  /// call, and a crash ends it without a backtrace, which would be the work of another program.
  /// - Parameters:
  ///   - program: the beginning of the line.
  ///   - remedy: its end: how the program runs without a sandbox.
  package init(program: String, remedy: String) throws(SandboxError) {
    // A filter cannot see addresses, so it could not keep these from sending to any socket.
    if let number = unboundSockets().first {
      throw SandboxError(
        step:
          "the inherited descriptor \(number) is a socket that can send to any other socket; do not pass it",
        error: .notPermitted)
    }
    try step("dropping its capabilities") { () throws(Errno) in try dropCapabilities() }
    try step("giving up new privileges") { () throws(Errno) in _ = try retrying { cl_no_new_privileges() } }
    try step("switching core dumps off") { () throws(Errno) in
      _ = try retrying { cl_no_core_file() }
      _ = try retrying { cl_not_dumpable() }
    }
    try step("watching for denied calls") { () throws(Errno) in try exitOnDeniedCall(program, remedy) }
  }

  /// From now on allows only the calls that `phase` needs, and traps the rest. There is no way back.
  /// The corresponding system call is `seccomp` with `SECCOMP_SET_MODE_FILTER`.
  package func enter(_ phase: Phase) throws(SandboxError) {
    guard let filter = unsafe seccomp_init(SCMP_ACT_TRAP) else {
      throw SandboxError(step: "making a filter", error: .noMemory)
    }
    defer { unsafe seccomp_release(filter) }
    let attributes: [(scmp_filter_attr, UInt32)] = [
      // Calls by the numbers of another architecture are denied like the rest.
      (SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_TRAP),
      // Done already, and in a later phase no longer allowed.
      (SCMP_FLTATR_CTL_NNP, 0),
      (SCMP_FLTATR_API_SYSRAWRC, 1),
    ]
    for (attribute, value) in attributes {
      try check(unsafe seccomp_attr_set(filter, attribute, value), "making a filter")
    }
    for call in AllowedCall.all where call.phases.contains(phase) { unsafe try call.add(to: filter) }
    try check(unsafe seccomp_load(filter), "loading its filter")
  }
}

/// Why the sandbox cannot be entered.
package struct SandboxError: Error, CustomStringConvertible {
  /// The step that failed.
  package let step: String
  package let error: Errno

  package var description: String {
    let cause =
      error == .invalidArgument || error == .noFunction ? "the kernel has no seccomp filters" : "\(error)"
    return "the sandbox cannot be entered: \(step): \(cause)"
  }
}

extension AllowedCall {
  fileprivate func add(to filter: UnsafeMutableRawPointer) throws(SandboxError) {
    let numbers = names.map { unsafe seccomp_syscall_resolve_name($0) }.filter { $0 >= 0 }
    precondition(!numbers.isEmpty, "no system call \(names) on this architecture")
    for number in numbers {
      for condition in conditions.isEmpty ? [[]] : conditions {
        let comparisons = condition.map {
          scmp_arg_cmp(arg: $0.argument, op: SCMP_CMP_MASKED_EQ, datum_a: $0.mask, datum_b: $0.value)
        }
        let result = unsafe comparisons.withUnsafeBufferPointer {
          unsafe seccomp_rule_add_array(
            filter, SCMP_ACT_ALLOW, number, UInt32($0.count), $0.isEmpty ? nil : $0.baseAddress)
        }
        try check(result, "allowing \(names[0])")
      }
    }
  }
}

/// Empties all five sets; the bounding set only where the process may.
private func dropCapabilities() throws(Errno) {
  do throws(Errno) {
    for capability: UInt in 0... { _ = try retrying { cl_drop_bounding_capability(capability) } }
  } catch {
    // Past the last capability, or without the right to: then it has none to pass on either.
    if error != .invalidArgument && error != .notPermitted { throw error }
  }
  _ = try retrying { cl_drop_capabilities() }
}

/// Makes a trapped call end the process with a line that names it. Swift's handlers of crashes go: what they do
/// is denied, and would hide what had happened.
private func exitOnDeniedCall(_ program: String, _ remedy: String) throws(Errno) {
  for signal in [SIGILL, SIGTRAP, SIGABRT, SIGFPE, SIGSEGV, SIGQUIT] {
    _ = try retrying { cl_default_action(signal) }
  }
  // The handler can ask for no name. There is room here for more calls than any architecture has.
  let count = 1024
  let names = UnsafeMutablePointer<UnsafePointer<CChar>?>.allocate(capacity: count)
  let architecture = seccomp_arch_native()
  for number in 0..<count {
    let name = unsafe seccomp_syscall_resolve_num_arch(architecture, CInt(number))
    unsafe (names + number).initialize(to: UnsafePointer(name))
  }
  var denial = unsafe cl_denial(
    before: lasting("\(program): the sandbox denied the system call "),
    after: lasting(": a mistake in this program, or an attack from the guest (\(remedy))\n"),
    names: names, count: count, architecture: architecture)
  _ = try retrying { unsafe cl_exit_on_denied_call(&denial) }
}

private func step(_ name: String, _ body: () throws(Errno) -> Void) throws(SandboxError) {
  do throws(Errno) { try body() } catch { throw SandboxError(step: name, error: error) }
}

/// libseccomp reports an error as the negated `errno`.
private func check(_ result: CInt, _ name: String) throws(SandboxError) {
  if result < 0 { throw SandboxError(step: name, error: Errno(rawValue: -result)) }
}

/// A copy that is never freed.
private func lasting(_ text: String) -> UnsafePointer<CChar>? { unsafe UnsafePointer(strdup(text)) }
