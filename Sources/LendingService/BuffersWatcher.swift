internal import Lending
internal import LendingProtocol
internal import Linux
internal import Varlink

/// A call of Watch. What it could not be told yet is in its feed, which costs the same however slow it is.
final class BuffersWatcher {
  private let registry: Registry
  private let feed: LendingFeed
  private weak var connection: VarlinkConnection?
  /// It is told at the end of the loop's turn: the news come from the middle of what the registry does.
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
    // It goes in the middle of this when its peer turns out to be gone.
    guard let connection else { return }
    while connection.isOpen, connection.isReadyToSend, let event = feed.next() {
      connection.stream(BuffersEvent(event, now: registry.now))
    }
  }

  /// Tells all that there is to be told, and that there will be nothing more.
  func end() {
    proceed()
    guard let connection, connection.isOpen else { return }
    if connection.isReadyToSend { connection.endStream(BuffersEvent(.end)) } else { connection.close() }
  }
}
