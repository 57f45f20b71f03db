internal import Buffers

/// One event of an offer for a listener. The offer has the present state.
package enum OfferNews: Equatable, Sendable {
  case offered
  /// The number of its blobs has changed.
  case used
  case withdrawing, withdrawn
}

/// The news of a guest's offers that one listener has not been told yet. Events are made from the present state when the listener
/// has room, so a slow listener costs no more memory. An offer that came and went meanwhile is left out.
package final class OfferFeed {
  private struct Told {
    var isWithdrawing = false
    var uses = 0
  }

  /// Called when there are news after there were none.
  package var whenNews: () -> Void = {}
  private let tellsUses: Bool
  private let concerns: (Offer) -> Bool
  /// The offers that the listener knows.
  private var told: [UInt64: Told] = [:]
  /// The offers that may have news, in order.
  private var waiting: [Offer] = []

  /// - Parameters:
  ///   - tellsUses: whether it is told the number of the guest's blobs.
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
      // It may have more news, after those of the others.
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
