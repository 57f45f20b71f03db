internal import Lending
internal import LendingProtocol
internal import Linux
internal import Varlink

/// A call of WatchOffers. Its feed has the news that it could not be told yet.
final class OffersWatcher {
  private let table: OfferTable
  private let feed: OfferFeed
  private weak var connection: VarlinkConnection?
  /// Sends at the end of the loop's turn, because news come while the table is at work.
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

  /// Sends all news, and the end.
  func end() {
    proceed()
    guard let connection, connection.isOpen else { return }
    if connection.isReadyToSend { connection.endStream(OffersEvent(.end)) } else { connection.close() }
  }
}
