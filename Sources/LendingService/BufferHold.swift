internal import Lending
internal import Linux
internal import SystemPackage

/// An import that lasts as long as anybody has a copy of the token, which is the writing end of a pipe.
final class BufferHold {
  let use: Import
  private let loop: EventLoop
  private let fd: FD
  private var token: EventLoop.Token?

  /// - Parameters:
  ///   - fd: the pipe's reading end, which closes with this object.
  ///   - whenLetGo: called when the last copy of the token is closed.
  init(
    _ use: Import, _ fd: consuming FD, loop: EventLoop, whenLetGo: @escaping () -> Void
  ) throws(Errno) {
    (self.use, self.loop) = (use, loop)
    self.fd = fd
    // Only the end of the pipe matters; bytes that a holder writes stay in the pipe.
    token = try loop.add(self.fd, []) { _ in whenLetGo() }
  }

  deinit { if let token { loop.remove(token, fd) } }
}
