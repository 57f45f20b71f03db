/// The free parts of a region. The guest chooses the place of each mapping.
struct SharedRegion: Equatable {
  let size: UInt64
  /// The free parts in order, none of which touches another.
  private(set) var free: [Range<UInt64>]

  init(size: UInt64) { (self.size, free) = (size, [0..<size]) }

  /// - Returns: false, without any change, if the range is empty, or a part of it is taken or outside.
  mutating func reserve(_ range: Range<UInt64>) -> Bool {
    guard !range.isEmpty, let index = place(of: range.lowerBound), range.upperBound <= free[index].upperBound
    else { return false }
    let whole = free[index]
    let rest = [whole.lowerBound..<range.lowerBound, range.upperBound..<whole.upperBound].filter {
      !$0.isEmpty
    }
    free.replaceSubrange(index...index, with: rest)
    return true
  }

  /// Gives back a reserved range.
  mutating func giveBack(_ range: Range<UInt64>) {
    let next = free.firstIndex { $0.lowerBound >= range.upperBound } ?? free.count
    precondition(
      next == 0 || free[next - 1].upperBound <= range.lowerBound, "what is given back was reserved")
    var (whole, first, end) = (range, next, next)
    if next > 0, free[next - 1].upperBound == range.lowerBound {
      whole = free[next - 1].lowerBound..<whole.upperBound
      first = next - 1
    }
    if next < free.count, free[next].lowerBound == range.upperBound {
      whole = whole.lowerBound..<free[next].upperBound
      end = next + 1
    }
    free.replaceSubrange(first..<end, with: [whole])
  }

  /// The free part that contains this place.
  private func place(of offset: UInt64) -> Int? { free.firstIndex { $0.contains(offset) } }
}
