internal import Linux

/// Memory of a copy that nobody needs any more, on its way back to the kernel.
struct SpentMemory {
  /// The bytes that go back in one call.
  static let atOnce = 8 << 20

  let mapping: Mapping
  private var done = 0

  init(_ mapping: Mapping) { self.mapping = mapping }

  /// Gives back a part of the memory.
  /// - Returns: true if nothing is left.
  mutating func giveBack() -> Bool {
    let count = min(Self.atOnce, mapping.length - done)
    guard mapping.discard(count, at: done) else { return true }
    done += count
    return done == mapping.length
  }
}
