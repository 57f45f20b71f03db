import Fixtures
import Testing

@Suite struct RandomLendingTests {
  /// The same programs in every run.
  @Test("whatever happens in whatever order, a registry does as the model does", arguments: 0..<40)
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
