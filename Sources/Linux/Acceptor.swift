package import SystemPackage

/// Accepts the connections of a listening socket, as a source of an event loop.
package final class Acceptor {
  private let socket: UnixSocket
  private let loop: EventLoop
  private let take: (consuming UnixSocket) throws(Errno) -> Void
  private let whenFailed: (Errno) -> Void
  private var token: EventLoop.Token?
  private var pause: Timer?

  /// - Parameters:
  ///   - socket: the listening socket.
  ///   - take: is given each connection, which ends if this throws.
  ///   - whenFailed: is called when a connection could not be accepted, as when no descriptor is left. The next try is in a
  ///     second, because the waiting peer would wake the loop again and again.
  package init(
    _ socket: consuming UnixSocket, loop: EventLoop,
    take: @escaping (consuming UnixSocket) throws(Errno) -> Void, whenFailed: @escaping (Errno) -> Void
  ) throws(Errno) {
    self.socket = socket
    (self.loop, self.take, self.whenFailed) = (loop, take, whenFailed)
    pause = try Timer(loop) { [unowned self] in listen() }
    token = try loop.add(self.socket.fd) { [unowned self] _ in accept() }
  }

  deinit { close() }

  /// Accepts no more connections.
  package func close() {
    pause?.disarm()
    if let token = token.take() { loop.remove(token, socket.fd) }
  }

  private func listen() {
    if token == nil { token = try? loop.add(socket.fd) { [unowned self] _ in accept() } }
    if token == nil { pause?.arm(after: .seconds(1)) }
  }

  private func accept() {
    do throws(Errno) { try take(try socket.accept()) } catch {
      if error == .wouldBlock || error == .connectionAbort { return }
      whenFailed(error)
      if let token = token.take() { loop.remove(token, socket.fd) }
      pause?.arm(after: .seconds(1))
    }
  }
}
