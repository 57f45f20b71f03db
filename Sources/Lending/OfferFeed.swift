internal import Buffers

/// One thing that somebody is told of an offer, which says itself what is now.
package enum OfferNews: Equatable, Sendable {
  case offered
  /// Another number of blobs of it exists.
  case used
  case withdrawing, withdrawn
}

/// What one listener has not been told yet of a guest's offers. It is made from what is now when the listener has room, so that it costs
/// the same however slow it is; an offer that came and went meanwhile is not told at all.
package final class OfferFeed {
  private struct Told {
    var isWithdrawing = false
    var uses = 0
  }

  /// There is something to be told, and there was nothing before.
  package var whenNews: () -> Void = {}
  private let tellsUses: Bool
  private let concerns: (Offer) -> Bool
  /// Those that the listener has heard of.
  private var told: [UInt64: Told] = [:]
  /// Those of which something may be new, in this order.
  private var waiting: [Offer] = []

  /// - Parameters:
  ///   - tellsUses: it is told how many blobs the guest has.
  ///   - concerns: whether the listener may know of an offer.
  package init(tellsUses: Bool, concerns: @escaping (Offer) -> Bool = { _ in true }) {
    (self.tellsUses, self.concerns) = (tellsUses, concerns)
  }

  func note(_ offer: Offer) {
    guard concerns(offer), !waiting.contains(where: { $0 === offer }) else { return }
    waiting.append(offer)
    if waiting.count == 1 { whenNews() }
  }

  /// The next event; nil if there is none.
  package func next() -> (news: OfferNews, offer: Offer)? {
    while let offer = waiting.first {
      waiting.removeFirst()
      guard let news = news(offer) else { continue }
      // There may be more of it, after what others have.
      if news != .withdrawn { waiting.append(offer) }
      return (news, offer)
    }
    return nil
  }

  private func news(_ offer: Offer) -> OfferNews? {
    guard var known = told[offer.id] else {
      if offer.state == .withdrawn { return nil }
      told[offer.id] = Told()
      return .offered
    }
    if offer.state == .withdrawn {
      told[offer.id] = nil
      return .withdrawn
    }
    defer { told[offer.id] = known }
    if offer.state != .offered, !known.isWithdrawing {
      known.isWithdrawing = true
      return .withdrawing
    }
    if tellsUses, known.uses != offer.memory.uses {
      known.uses = offer.memory.uses
      return .used
    }
    return nil
  }
}
