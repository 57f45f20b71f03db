internal import Scanout

/// The changes of the last presentations on one scanout.
struct DamageHistory {
  private static let depth = 64
  /// The changes by the sequence number's remainder; nil for the whole picture.
  private var changes = [Rectangle?](repeating: nil, count: depth)
  /// The presentations that it has.
  private var known: Range<UInt64> = 0..<0

  /// - Parameter change: nil if the whole picture is new.
  mutating func append(_ sequence: UInt64, _ change: Rectangle?) {
    changes[Int(sequence % UInt64(Self.depth))] = change
    let first = sequence == known.upperBound && !known.isEmpty ? known.lowerBound : sequence
    known = max(first, sequence - min(sequence, UInt64(Self.depth) - 1))..<sequence + 1
  }

  /// The change between two presentations; `whole` if it is unknown, and empty if `newer` is not newer.
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
