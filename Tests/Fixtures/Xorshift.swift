/// Numbers that look random, and are the same in every run (Marsaglia's xorshift).
package struct Xorshift {
  private var state: UInt64

  package init(seed: UInt64) { state = seed &* 0x9e37_79b9_7f4a_7c15 | 1 }

  /// 53 bits: the lowest ones are left out, which are the least random.
  package mutating func next() -> UInt64 {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state >> 11
  }
}
