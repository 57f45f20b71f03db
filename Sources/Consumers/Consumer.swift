internal import Varlink

/// One connection's share in the pictures: the frames that it holds, and its feeds.
final class Consumer {
  private weak var connection: VarlinkConnection?
  var feed: (any Feed)?

  init(_ connection: VarlinkConnection) { self.connection = connection }

  /// What it held is the guest's again.
  func cutOff() { connection?.close() }
}
