internal import Linux
package import Scanout
internal import SystemPackage

/// The cards to open, each once, and the route of each scanout, in the order of several targets.
package struct KMSPlan: Equatable, Sendable {
  /// One target for each card, with all its named connectors.
  package private(set) var cards: [KMSTarget] = []
  /// An entry for each output, in the order of the targets. An entry without a number stands for all outputs of its
  /// card.
  private var order: [Entry] = []

  private struct Entry: Equatable { let card: Int, output: UInt32? }

  /// - Throws: `cardTwice` if a card is named more than once and not always with connectors.
  package init(_ targets: [KMSTarget]) throws(KMSError) {
    for target in targets {
      let place = Self.place(target.card)
      guard let card = cards.firstIndex(where: { Self.place($0.card) == place }) else {
        append(target, card: cards.count, from: 0)
        cards.append(target)
        continue
      }
      if target.connectors.isEmpty || cards[card].connectors.isEmpty {
        throw .cardTwice(target.description)
      }
      append(target, card: card, from: cards[card].connectors.count)
      cards[card].connectors += target.connectors
    }
  }

  private mutating func append(_ target: KMSTarget, card: Int, from first: Int) {
    if target.connectors.isEmpty { return order.append(Entry(card: card, output: nil)) }
    for index in target.connectors.indices {
      order.append(Entry(card: card, output: UInt32(first + index)))
    }
  }

  /// Resolves links, because a card has many paths.
  private static func place(_ card: KMSTarget.Card) -> KMSTarget.Card {
    if case .path(let path) = card { .path(resolvingLinks(path)) } else { card }
  }

  /// The route of each scanout; `outputs` has the number of outputs of each card.
  package func routes(outputs: [Int]) -> [SinkGroup.Route] {
    order.flatMap { entry in
      let scanouts = entry.output.map { [$0] } ?? (0..<UInt32(outputs[entry.card])).map(\.self)
      return scanouts.map { SinkGroup.Route(sink: entry.card, scanout: ScanoutID($0)) }
    }
  }
}
