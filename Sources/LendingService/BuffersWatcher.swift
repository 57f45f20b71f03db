internal import Lending
internal import LendingProtocol
internal import Linux
internal import Varlink

/// A call of Watch. Its feed has the news that it could not be told yet; a slow watcher costs no more memory.
final class BuffersWatcher {
  private let registry: Registry
  private let feed: LendingFeed
  private weak var connection: VarlinkConnection?
  /// Sends at the end of the loop's turn, because news come while the registry is at work.
  private var telling: Deferred?

  init(_ registry: Registry, _ caller: LendingCaller, _ connection: VarlinkConnection, loop: EventLoop) {
    (self.registry, self.connection) = (registry, connection)
    feed = LendingFeed(.importer(caller))
    telling = Deferred(loop) { [unowned self] in proceed() }
    feed.whenNews = { [unowned self] in telling?.schedule() }
    registry.add(feed)
  }

  deinit { registry.remove(feed) }

  /// Sends as much as there is room for.
  func proceed() {
    // Sending can find that the peer is gone, and this watcher then goes away during the call.
    guard let connection else { return }
    while connection.isOpen, connection.isReadyToSend, let event = feed.next() {
      connection.stream(BuffersEvent(event, now: registry.now))
    }
  }

  /// Sends all news, and the end.
  func end() {
    proceed()
    guard let connection, connection.isOpen else { return }
    if connection.isReadyToSend { connection.endStream(BuffersEvent(.end)) } else { connection.close() }
  }
}
