internal import Varlink

/// One connection's share in the pictures: the frames that it holds, and its feeds.
final class Consumer {
  private weak var connection: VarlinkConnection?
  var feed: (any Feed)?

  init(_ connection: VarlinkConnection) { self.connection = connection }

  /// Closes the connection, because the guest has taken back a buffer that the consumer held.
  func cutOff() { connection?.close() }
}
