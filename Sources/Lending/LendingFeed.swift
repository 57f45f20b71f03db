internal import LendingProtocol

/// What can have happened to a buffer since somebody was told of it.
package struct LendingNews: OptionSet, Sendable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }
  /// It is lent, or lent again instead of returned.
  package static let lent = LendingNews(rawValue: 1)
  package static let metadata = LendingNews(rawValue: 2)
  /// Another number of importers has it.
  package static let importers = LendingNews(rawValue: 4)
  /// By the lender.
  package static let accessBegun = LendingNews(rawValue: 8)
  package static let accessEnded = LendingNews(rawValue: 16)
  package static let importerAccessBegun = LendingNews(rawValue: 32)
  package static let importerAccessEnded = LendingNews(rawValue: 64)
  package static let filled = LendingNews(rawValue: 128)
  package static let fillAborted = LendingNews(rawValue: 256)
  package static let returning = LendingNews(rawValue: 512)
  /// Returned or revoked: the buffer's state says which.
  package static let over = LendingNews(rawValue: 1024)

  /// The order in which they are told.
  static let inOrder: [LendingNews] = [
    .lent, .metadata, .importers, .accessBegun, .accessEnded, .importerAccessBegun, .importerAccessEnded,
    .filled,
    .fillAborted, .returning, .over,
  ]

  /// What a lender hears, and what those hear who may import.
  static let forLender: LendingNews = [
    .importers, .importerAccessBegun, .importerAccessEnded, .filled, .fillAborted, .over,
  ]
  static let forImporter: LendingNews = [
    .lent, .metadata, .accessBegun, .accessEnded, .filled, .fillAborted, .returning, .over,
  ]
}

/// One thing that somebody is told.
package struct LendingEvent {
  /// One of `LendingNews`. The buffer says what is now.
  package let news: LendingNews
  package let buffer: LentBuffer
  /// Fills before this one that were not told.
  package let lost: Int
}

/// What one listener has not been told yet. It costs the same however slow the listener is: what happened to one buffer is
/// kept together, and a buffer that came and went meanwhile is not told at all. That a buffer ended is always told to whoever
/// heard of it.
package final class LendingFeed {
  package enum Audience {
    /// The guest's agent, in this session.
    case lender(session: UInt64)
    case importer(LendingCaller)
  }

  package let audience: Audience
  /// There is something to be told, and there was nothing before.
  package var whenNews: () -> Void = {}
  private var pending: [BufferID: LendingNews] = [:]
  /// Those with something pending, in the order in which it began, from `start` on; and some that have nothing any more.
  private var order: [LentBuffer] = []
  private var start = 0
  /// The buffers that the listener has heard of and that have not ended for it, with the fills that it knows of.
  private var known: [BufferID: Int] = [:]

  package init(_ audience: Audience) { self.audience = audience }

  package var isEmpty: Bool { pending.isEmpty }

  func note(_ buffer: LentBuffer, _ news: LendingNews) {
    let news = news.intersection(relevant)
    guard !news.isEmpty, concerns(buffer) else { return }
    let wasEmpty = isEmpty
    if news == .over, !hasHeard(of: buffer) {
      // It came and went.
      pending[buffer.id] = nil
      return compact()
    }
    if let old = pending[buffer.id] {
      pending[buffer.id] = old.union(news).subtracting(Self.undone(by: news))
    } else {
      pending[buffer.id] = news
      order.append(buffer)
    }
    if wasEmpty { whenNews() }
  }

  /// What need not be told any more since the opposite has happened.
  private static func undone(by news: LendingNews) -> LendingNews {
    if news.contains(.lent) { return .returning }
    return news.contains(.accessBegun)
      ? .accessEnded : news.contains(.importerAccessBegun) ? .importerAccessEnded : []
  }

  /// The next event; nil if there is none.
  package func next() -> LendingEvent? {
    while !isEmpty {
      let buffer = order[start]
      let news = pending[buffer.id] ?? []
      guard let first = LendingNews.inOrder.first(where: { news.contains($0) }) else {
        drop(buffer)
        continue
      }
      let told = known[buffer.id] ?? (first == .lent ? buffer.fills : 0)
      let lost = first == .filled ? max(0, buffer.fills - told - 1) : 0
      known[buffer.id] = first == .filled ? buffer.fills : told
      pending[buffer.id] = news.subtracting(first)
      if news == first { drop(buffer) }
      if first == .over { known[buffer.id] = nil }
      return LendingEvent(news: first, buffer: buffer, lost: lost)
    }
    return nil
  }

  private func hasHeard(of buffer: LentBuffer) -> Bool {
    if case .lender = audience { return true }
    return known[buffer.id] != nil
  }

  private func drop(_ buffer: LentBuffer) {
    pending[buffer.id] = nil
    start += 1
    compact()
  }

  private func compact() {
    if pending.isEmpty {
      order.removeAll(keepingCapacity: true)
      start = 0
    } else if order.count - start > 2 * pending.count + 64 || start > 64 {
      order.removeFirst(start)
      order.removeAll { pending[$0.id] == nil }
      start = 0
    }
  }

  private var relevant: LendingNews {
    switch audience {
    case .lender: LendingNews.forLender
    case .importer: LendingNews.forImporter
    }
  }

  private func concerns(_ buffer: LentBuffer) -> Bool {
    switch audience {
    case .lender(let session): buffer.owner.session == session
    case .importer(let caller): buffer.admits(caller)
    }
  }
}
