internal import LendingProtocol

/// The changes of a buffer since a listener was last told.
package struct LendingNews: OptionSet, Sendable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }
  /// It is lent, or lent again instead of returned.
  package static let lent = LendingNews(rawValue: 1)
  package static let metadata = LendingNews(rawValue: 2)
  /// The number of importers has changed.
  package static let importers = LendingNews(rawValue: 4)
  /// By the lender.
  package static let accessBegun = LendingNews(rawValue: 8)
  package static let accessEnded = LendingNews(rawValue: 16)
  package static let importerAccessBegun = LendingNews(rawValue: 32)
  package static let importerAccessEnded = LendingNews(rawValue: 64)
  package static let filled = LendingNews(rawValue: 128)
  package static let fillAborted = LendingNews(rawValue: 256)
  package static let returning = LendingNews(rawValue: 512)
  /// Returned or revoked; the buffer's state says which.
  package static let over = LendingNews(rawValue: 1024)

  /// The order in which they are told.
  static let inOrder: [LendingNews] = [
    .lent, .metadata, .importers, .accessBegun, .accessEnded, .importerAccessBegun, .importerAccessEnded,
    .filled, .fillAborted, .returning, .over,
  ]

  /// The news that become superfluous after the second. Fills are always told.
  private static let superseded: [(LendingNews, by: LendingNews)] = [
    (.returning, by: .lent), (.accessEnded, by: .accessBegun), (.accessBegun, by: .accessEnded),
    (.importerAccessEnded, by: .importerAccessBegun), (.importerAccessBegun, by: .importerAccessEnded),
    (.fillAborted, by: .filled), (LendingNews(inOrder).subtracting(.filled), by: .over),
  ]

  /// The news to tell after `later` has happened too.
  func followed(by later: LendingNews) -> LendingNews {
    Self.superseded.reduce(self) { later.contains($1.by) ? $0.subtracting($1.0) : $0 }.union(later)
  }

  /// The news for a lender, and the news for those who may import.
  static let forLender: LendingNews = [
    .importers, .importerAccessBegun, .importerAccessEnded, .filled, .fillAborted, .over,
  ]
  static let forImporter: LendingNews = [
    .lent, .metadata, .accessBegun, .accessEnded, .filled, .fillAborted, .returning, .over,
  ]
}

/// One event for a listener.
package struct LendingEvent {
  /// One of `LendingNews`. The buffer has the present state.
  package let news: LendingNews
  package let buffer: LentBuffer
  /// The number of fills before this one that were not told.
  package let lost: Int
}

/// The news that one listener has not been told yet. A slow listener costs no more memory: the news of one buffer are kept
/// together, and a buffer that came and went meanwhile is left out. A listener that knows a buffer always hears of its end,
/// as the last news of that buffer.
package final class LendingFeed {
  package enum Audience {
    /// The guest's agent, in this session.
    case lender(session: UInt64)
    case importer(LendingCaller)
  }

  /// The listener's state for a buffer that it does not know as ended.
  private struct Item {
    let buffer: LentBuffer
    /// Not told yet.
    var news: LendingNews = []
    var isHeardOf: Bool
    /// The number of fills that were told, or counted as lost.
    var fills: Int
  }

  package let audience: Audience
  /// Of an importer: so that a watcher who may not see a buffer costs next to nothing.
  var memberships: AudienceSet = []
  /// Called when there are news after there were none.
  package var whenNews: () -> Void = {}
  private var items: [BufferID: Item] = [:]
  /// The number of buffers with news.
  private var waiting = 0
  /// The buffers with news in their order, from `start` on, and some that came and went.
  private var order: [BufferID] = []
  private var start = 0

  package init(_ audience: Audience) { self.audience = audience }

  package var isEmpty: Bool { waiting == 0 }

  func note(_ buffer: LentBuffer, _ news: LendingNews) {
    guard concerns(buffer) else { return }
    let news = news.intersection(relevant)
    if news.isEmpty { return }
    var item =
      items[buffer.id] ?? Item(buffer: buffer, isHeardOf: isLender, fills: isLender ? 0 : buffer.fills)
    if news == .over, !item.isHeardOf {
      // It came and went.
      if items.removeValue(forKey: buffer.id) != nil { waiting -= 1 }
      return compact()
    }
    let hadNews = !item.news.isEmpty
    item.news = item.news.followed(by: news)
    items[buffer.id] = item
    if hadNews { return }
    order.append(buffer.id)
    waiting += 1
    if waiting == 1 { whenNews() }
  }

  /// The next event; nil if there is none. Each buffer gets one event at a time, so that none delays the others.
  package func next() -> LendingEvent? {
    while !isEmpty {
      let id = order[start]
      start += 1
      guard var item = items[id], let first = LendingNews.inOrder.first(where: item.news.contains) else {
        continue
      }
      let buffer = item.buffer
      var lost = 0
      if first == .filled { (lost, item.fills) = (buffer.fills - item.fills - 1, buffer.fills) }
      item.news.remove(first)
      item.isHeardOf = true
      items[id] = first == .over ? nil : item
      if item.news.isEmpty { waiting -= 1 } else { order.append(id) }
      compact()
      return LendingEvent(news: first, buffer: buffer, lost: lost)
    }
    return nil
  }

  private func compact() {
    if isEmpty {
      order.removeAll(keepingCapacity: true)
      start = 0
    } else if order.count > 2 * waiting + 64 {
      order.removeFirst(start)
      order.removeAll { items[$0] == nil }
      start = 0
    }
  }

  private var isLender: Bool { if case .lender = audience { true } else { false } }

  private var relevant: LendingNews { isLender ? .forLender : .forImporter }

  private func concerns(_ buffer: LentBuffer) -> Bool {
    switch audience {
    case .lender(let session): buffer.owner.session == session
    case .importer(let caller): buffer.admits(caller, memberships)
    }
  }
}
