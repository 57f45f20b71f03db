import CLinux
import Glibc
import RawCall
import Testing

@testable import Sandbox

/// Each call is made by a process of its own, which the sandbox confines for good.
@Suite struct SandboxTests {
  /// A call and a phase, by what another process can be told.
  struct Case: Sendable, CustomTestStringConvertible {
    let index: Int
    let phase: Sandbox.Phase
    let name: String
    var testDescription: String { "\(name), \(phase)" }
  }

  static let forbidden = ForbiddenCall.all.enumerated().flatMap { index, call in
    call.phases.map { Case(index: index, phase: $0, name: call.testDescription) }
  }

  @Test("a forbidden call ends the process with a line that names it", arguments: forbidden)
  func denied(_ one: Case) async throws {
    let result = await #expect(processExitsWith: .exitCode(1), observing: [\.standardErrorContent]) {
      [index = one.index as Int, phase = Sandbox.Phase.allCases.firstIndex(of: one.phase)! as Int] in
      let call = ForbiddenCall.all[index]
      let number = number(of: call.name)!
      let a = call.arguments + Array(repeating: 0, count: 6)
      enter(phase)
      _ = raw_call(number, a[0], a[1], a[2], a[3], a[4], a[5])
      // It came back: no denial.
      _exit(0)
    }
    let name = ForbiddenCall.all[one.index].name
    let line = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
    #expect(
      line == """
        prog: the sandbox denied the system call \(name) (number \(number(of: name)!)): a mistake in this \
        program, or an attack from the guest (remedy)

        """)
  }

  static let permitted = PermittedCall.all.enumerated().flatMap { index, call in
    call.phases.map { Case(index: index, phase: $0, name: call.testDescription) }
  }

  @Test("a call that a helper makes succeeds in its phases", arguments: permitted)
  func allowed(_ one: Case) async {
    await #expect(processExitsWith: .exitCode(0)) {
      [index = one.index as Int, phase = Sandbox.Phase.allCases.firstIndex(of: one.phase)! as Int] in
      let call = PermittedCall.all[index]
      _exit(call.attempt { enter(phase) } ? 0 : 2)
    }
  }

  @Test("each allowed call but tgkill is shown by a permitted one of these tests")
  func complete() {
    let shown = Set(PermittedCall.all.flatMap(\.names))
    // Shown by a process that ends by SIGABRT.
    let table = AllowedCall.all.filter { $0.names != ["tgkill"] }
    for call in table { #expect(!shown.isDisjoint(with: call.names), "\(call.names)") }
  }

  @Test("of DRM's 256 calls just those that these tests show are allowed")
  func everyDRMCall() throws {
    let ioctl = try #require(AllowedCall.all.first { $0.names == ["ioctl"] })
    let allowed = (0..<256 as Range<UInt64>).filter { number in
      ioctl.conditions.contains { $0.allSatisfy { (0x6400 | number) & $0.mask == $0.value } }
    }
    #expect(allowed == PermittedCall.drm.map { UInt64($0.request & 0xff) })
  }

  #if arch(x86_64)
    @Test("a call by the number of another architecture is denied too")
    func foreign() async throws {
      let result = await #expect(processExitsWith: .exitCode(1), observing: [\.standardErrorContent]) {
        enter(Sandbox.Phase.allCases.count - 1)
        // x32's openat.
        _ = raw_call(0x4000_0000 + 257, -100, 0, 0, 0, 0, 0)
        _exit(0)
      }
      let line = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
      #expect(line.contains("the system call of another architecture (number 1073742081)"), "\(line)")
    }
  #endif

  // MARK: The end

  @Test("a trap and an abort end the process by their own signal", arguments: [SIGILL, SIGABRT, SIGSEGV])
  func ownSignal(_ signal: CInt) async throws {
    let result = await #expect(processExitsWith: .signal(signal), observing: [\.standardErrorContent]) {
      [signal] in
      // As in the helper. Where it is blocked, abort() of glibc 2.41 changes the signal's handler, which is denied.
      var none = sigset_t()
      unsafe sigemptyset(&none)
      unsafe pthread_sigmask(SIG_SETMASK, &none, nil)
      enter(Sandbox.Phase.allCases.count - 1)
      switch signal {
      case SIGABRT: abort()
      case SIGILL: fatalError("the last words")
      default: unsafe UnsafeMutablePointer<Int>(bitPattern: 8)!.pointee = 1
      }
    }
    let words = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
    #expect(words.contains("the last words") == (signal == SIGILL), "\(words)")
    #expect(!words.contains("denied"), "\(words)")
  }

  // MARK: What it is not entered with

  @Test("the sandbox is not entered while a datagram socket is open")
  func datagrams() async {
    await #expect(processExitsWith: .exitCode(0)) {
      let pair = { (type: __socket_type) in
        var ends: [CInt] = [-1, -1]
        guard unsafe socketpair(AF_UNIX, CInt(type.rawValue), 0, &ends) == 0 else { _exit(2) }
        return ends
      }
      let ends = pair(SOCK_DGRAM)
      do throws(SandboxError) {
        _ = try Sandbox(program: "prog", remedy: "remedy")
        _exit(3)
      } catch { guard "\(error)".contains("descriptor \(ends.min()!)") else { _exit(4) } }
      for end in ends { close(end) }
      // What the kernel announces about devices, and streams.
      _ = (cl_uevent_socket(), pair(SOCK_STREAM))
      do throws(SandboxError) { _ = try Sandbox(program: "prog", remedy: "remedy") } catch { _exit(5) }
      _exit(0)
    }
  }

  // MARK: What is given up

  @Test("the sandbox leaves no core file, no new privileges and no capability")
  func givenUp() async {
    await #expect(processExitsWith: .exitCode(0)) {
      _ = try Sandbox(program: "prog", remedy: "remedy")
      var limit = rlimit()
      _ = unsafe getrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &limit)
      guard limit.rlim_cur == 0 && limit.rlim_max == 0 else { _exit(2) }
      // PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS.
      guard rawCall("prctl", 3) == 0 else { _exit(3) }
      guard rawCall("prctl", 39) == 1 else { _exit(4) }
      // PR_CAPBSET_READ of CAP_SYS_ADMIN, for whoever had it to drop.
      guard geteuid() != 0 || rawCall("prctl", 23, 21) == 0 else { _exit(5) }
      // What root without capabilities may not: another's file.
      guard unsafe geteuid() != 0 || (chown("/tmp", 1, 1) == -1 && errno == EPERM) else { _exit(6) }
      _exit(0)
    }
  }
}

/// Goes the helper's way to a phase, or ends with status 99.
/// - Parameter index: of the phase, among all of them.
private func enter(_ index: Int) {
  do throws(SandboxError) {
    let sandbox = try Sandbox(program: "prog", remedy: "remedy")
    try sandbox.enter(.waiting)
    let phase = Sandbox.Phase.allCases[index]
    if phase != .waiting { try sandbox.enter(phase) }
  } catch { _exit(99) }
}
