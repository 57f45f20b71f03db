internal import Lending
internal import Linux
internal import SystemPackage

/// An import that lasts as long as its importers keep a copy of the token: the end of a pipe that is written.
final class BufferHold {
  let use: Import
  private let loop: EventLoop
  private let fd: FD
  private var token: EventLoop.Token?

  /// - Parameters:
  ///   - fd: the pipe's end that is read, which closes with this object.
  ///   - whenLetGo: the last copy of the token is closed.
  init(
    _ use: Import, _ fd: consuming FD, loop: EventLoop, whenLetGo: @escaping () -> Void
  ) throws(Errno) {
    (self.use, self.loop) = (use, loop)
    self.fd = fd
    // Nothing but its end is looked for: what somebody writes stays in the pipe.
    token = try loop.add(self.fd, []) { _ in whenLetGo() }
  }

  deinit { if let token { loop.remove(token, fd) } }
}
