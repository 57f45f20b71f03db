internal import CLinux
internal import Glibc
public import SystemPackage

extension FD {
  /// Lets the program that this process becomes next have the descriptor: under `number`, where something else
  /// may have been open until now, or under its own.
  /// - Returns: the number.
  public borrowing func hand(as number: CInt? = nil) throws(Errno) -> CInt {
    try withRaw { own throws(Errno) in
      guard let number, number != own else {
        _ = try retrying { cl_set_close_on_exec(own, 0) }
        return own
      }
      return try retrying { dup2(own, number) }
    }
  }
}

/// Becomes another program, which is looked for on the PATH. Returns only to say why it could not be.
/// The corresponding C function is `execvp`.
public func execute(_ command: [String]) -> Errno {
  var words: [UnsafeMutablePointer<CChar>?] = unsafe command.map { unsafe strdup($0) }
  unsafe words.append(nil)
  defer { for index in unsafe words.indices { unsafe free(words[index]) } }
  do throws(Errno) {
    _ = try retrying { unsafe execvp(words[0]!, &words) }
  } catch { return error }
  preconditionFailure("execvp returns only to fail")
}

/// Sets a variable of this process's environment, which it hands on to the program that it becomes.
public func setEnvironment(_ name: String, _ value: String) {
  unsafe setenv(name, value, 1)
}
