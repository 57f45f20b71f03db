internal import Scanout

/// What changed on one scanout with each of its last presentations.
struct DamageHistory {
  private static let depth = 64
  /// By the sequence number's remainder; nil for all of the picture.
  private var changes = [Rectangle?](repeating: nil, count: depth)
  /// The presentations that are in it.
  private var known: Range<UInt64> = 0..<0

  /// - Parameter change: nil when it is another picture as a whole.
  mutating func append(_ sequence: UInt64, _ change: Rectangle?) {
    changes[Int(sequence % UInt64(Self.depth))] = change
    let first = sequence == known.upperBound && !known.isEmpty ? known.lowerBound : sequence
    known = max(first, sequence - min(sequence, UInt64(Self.depth) - 1))..<sequence + 1
  }

  /// What has changed between two presentations; `whole` if that is not known, and empty if `newer` is not newer.
  func change(since older: UInt64, to newer: UInt64, of whole: Rectangle) -> Rectangle {
    if older >= newer { return Rectangle(x: 0, y: 0, width: 0, height: 0) }
    guard known.contains(older + 1), known.contains(newer) else { return whole }
    var sum = Rectangle(x: 0, y: 0, width: 0, height: 0)
    for sequence in older + 1...newer {
      guard let change = changes[Int(sequence % UInt64(Self.depth))] else { return whole }
      sum = sum.union(change)
    }
    return sum
  }
}
