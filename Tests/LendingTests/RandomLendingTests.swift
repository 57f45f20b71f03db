import Fixtures
import Testing

@Suite struct RandomLendingTests {
  /// The same programs in every run.
  @Test("a registry does as its model does, in 400 steps of any order", arguments: 0..<40)
  func anyOrder(_ seed: UInt64) throws {
    var random = Xorshift(seed: seed)
    var mistakes: [String] = []
    let program = try LendingProgram(
      choose: { Int(random.next() % UInt64($0)) }, report: { mistakes.append($0) })
    for _ in 0..<400 {
      try program.step()
      try #require(mistakes.isEmpty, "seed \(seed)")
    }
    try program.finish()
    #expect(mistakes.isEmpty, "seed \(seed)")
  }
}
