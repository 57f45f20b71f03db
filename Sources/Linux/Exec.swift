internal import CLinux
internal import Glibc
package import SystemPackage

extension FD {
  /// Passes the descriptor to the program that this process becomes next: as `number`, in place of a descriptor that may be
  /// open there, or under its own number.
  /// - Returns: the number.
  package borrowing func hand(as number: CInt? = nil) throws(Errno) -> CInt {
    try withRaw { own throws(Errno) in
      guard let number, number != own else {
        _ = try retrying { cl_set_close_on_exec(own, 0) }
        return own
      }
      return try retrying { dup2(own, number) }
    }
  }
}

/// Becomes another program, which is looked for on the PATH. Returns only if that fails: why.
/// The corresponding C function is `execvp`.
package func execute(_ command: [String]) -> Errno {
  var words: [UnsafeMutablePointer<CChar>?] = unsafe command.map { unsafe strdup($0) }
  unsafe words.append(nil)
  defer { for index in unsafe words.indices { unsafe free(words[index]) } }
  do throws(Errno) {
    _ = try retrying { unsafe execvp(words[0]!, &words) }
  } catch { return error }
  preconditionFailure("execvp returns only to fail")
}

/// Starts another program, which is looked for on the PATH, and does not wait for it. It has a session of its own, and
/// none of our standard streams. The corresponding C function is `posix_spawnp`.
/// - Returns: its process number.
@discardableResult package func startDetached(_ command: [String]) throws(Errno) -> Int32 {
  // POSIX_SPAWN_SETSID, which is hidden from Swift.
  try spawn(command, withoutStreams: 0...2, flags: 0x80)
}

/// Runs another program, which is looked for on the PATH, without standard input, and waits for its end.
/// The corresponding C functions are `posix_spawnp` and `waitpid`.
/// - Returns: its exit status; nil when a signal ended it.
package func runToEnd(_ command: [String]) throws(Errno) -> Int32? {
  let pid = try spawn(command, withoutStreams: 0...0, flags: 0)
  var status: CInt = 0
  _ = try retrying { unsafe waitpid(pid, &status, 0) }
  return status & 0x7f == 0 ? status >> 8 & 0xff : nil
}

/// - Parameter withoutStreams: the standard streams that lead nowhere.
private func spawn(
  _ command: [String], withoutStreams streams: ClosedRange<CInt>, flags: Int16
) throws(Errno) -> Int32 {
  var actions = unsafe posix_spawn_file_actions_t()
  unsafe posix_spawn_file_actions_init(&actions)
  defer { unsafe posix_spawn_file_actions_destroy(&actions) }
  for stream in streams {
    unsafe posix_spawn_file_actions_addopen(&actions, stream, "/dev/null", O_RDWR, 0)
  }
  var attributes = posix_spawnattr_t()
  unsafe posix_spawnattr_init(&attributes)
  defer { unsafe posix_spawnattr_destroy(&attributes) }
  unsafe posix_spawnattr_setflags(&attributes, flags)
  var words: [UnsafeMutablePointer<CChar>?] = unsafe command.map { unsafe strdup($0) }
  unsafe words.append(nil)
  defer { for index in unsafe words.indices { unsafe free(words[index]) } }
  var pid: pid_t = 0
  let error = unsafe posix_spawnp(&pid, words[0]!, &actions, &attributes, &words, environ)
  if error != 0 { throw Errno(rawValue: error) }
  return pid
}

/// Sets a variable of this process's environment, which the program that it becomes inherits.
package func setEnvironment(_ name: String, _ value: String) {
  unsafe setenv(name, value, 1)
}
