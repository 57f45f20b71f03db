internal import Fixtures

/// Changes programs of instructions by whole instructions: they are inserted, left out, doubled and exchanged,
/// and now and then libFuzzer changes bytes as it does anywhere.
struct Mutation {
  let size: Int

  /// - Returns: a program of at most `capacity` bytes.
  func mutate(_ program: [UInt8], capacity: Int, seed: UInt32) -> [UInt8] {
    var random = Xorshift(seed: UInt64(seed))
    var steps = stride(from: 0, to: program.count - size + 1, by: size).map {
      Array(program[$0..<$0 + size])
    }
    func new() -> [UInt8] { (0..<size).map { _ in UInt8(truncatingIfNeeded: random.next()) } }
    for _ in 0...Int(random.next() % 3) {
      let place = Int(random.next() % UInt64(steps.count + 1))
      let other = Int(random.next() % UInt64(max(1, steps.count)))
      switch random.next() % 6 {
      case 0, 1: steps.insert(new(), at: place)
      case 2 where !steps.isEmpty: steps.remove(at: other)
      case 3 where !steps.isEmpty: steps.insert(steps[other], at: place)
      case 4 where place < steps.count: steps.swapAt(place, other)
      default:
        guard !steps.isEmpty else { continue }
        steps[other][Int(random.next() % UInt64(size))] = UInt8(truncatingIfNeeded: random.next())
      }
    }
    return Array(steps.joined().prefix(capacity / size * size))
  }
}
