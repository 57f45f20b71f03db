internal import Lending
internal import LendingProtocol
internal import Linux
internal import Varlink

/// A call of WatchOffers. What it could not be told yet is in its feed.
final class OffersWatcher {
  private let table: OfferTable
  private let feed: OfferFeed
  private weak var connection: VarlinkConnection?
  /// It is told at the end of the loop's turn: the news come from the middle of what the table does.
  private var telling: Deferred?

  init(
    _ table: OfferTable, _ connection: VarlinkConnection, loop: EventLoop, concerns: @escaping (Offer) -> Bool
  ) {
    (self.table, self.connection) = (table, connection)
    feed = OfferFeed(tellsUses: true, concerns: concerns)
    telling = Deferred(loop) { [unowned self] in proceed() }
    feed.whenNews = { [unowned self] in telling?.schedule() }
    table.add(feed)
  }

  deinit { table.remove(feed) }

  /// Sends as much as there is room for.
  func proceed() {
    while let connection, connection.isOpen, connection.isReadyToSend, let (news, offer) = feed.next() {
      let kind: OffersEvent.Kind =
        switch news {
        case .offered: .offered
        case .used: .used
        case .withdrawing: .withdrawing
        case .withdrawn: .withdrawn
        }
      connection.stream(OffersEvent(kind, OfferFacts(offer, now: table.now)))
    }
  }

  /// Tells all that there is to be told, and that there will be nothing more.
  func end() {
    proceed()
    guard let connection, connection.isOpen else { return }
    if connection.isReadyToSend { connection.endStream(OffersEvent(.end)) } else { connection.close() }
  }
}
