package import Linux
package import SystemPackage

/// QEMU's display socket (`GPU_SET_SOCKET`), if QEMU is to show nothing. Nothing is sent. All that comes is thrown away,
/// with its descriptors, so that QEMU never waits for room. The socket closes with its owner.
package final class QEMUDisplayDrain {
  /// At most this many bytes are read in one turn; the rest waits for the next.
  private static let chunk = 4096

  private let loop: EventLoop
  private var socket: UnixSocket?
  private var token: EventLoop.Token?
  private var discarded: [UInt8] = []

  /// - Throws: epoll's error for a descriptor that it cannot watch.
  package init(_ socket: consuming UnixSocket, loop: EventLoop) throws(Errno) {
    self.loop = loop
    self.socket = nil
    token = try loop.add(socket.fd) { [unowned self] _ in drain() }
    self.socket = consume socket
  }

  deinit { close() }

  /// Whether QEMU has not closed it yet.
  package var isOpen: Bool { socket != nil }

  private func drain() {
    var descriptors = ReceivedDescriptors()
    discarded.removeAll(keepingCapacity: true)
    do throws(Errno) {
      let count = try socket?.receive(into: &discarded, upTo: Self.chunk, descriptors: &descriptors)
      if count == 0 { close() }
    } catch {
      if error != .wouldBlock { close() }
    }
  }

  private func close() {
    guard let socket = socket.take() else { return }
    if let token = token.take() { loop.remove(token, socket.fd) }
  }
}
