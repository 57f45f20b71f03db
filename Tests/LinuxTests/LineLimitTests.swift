import Linux
import Testing

@Suite struct LineLimitTests {
  private static let start = Instant.now
  private static func after(_ seconds: Int64) -> Instant { start + .seconds(seconds) }

  /// Which lines of `count` are written, when one comes every `interval` seconds.
  private func written(
    _ limit: inout LineLimit, _ count: Int, from start: Double, every interval: Double
  ) -> [Int] {
    (0..<count).filter { index in
      let milliseconds = Int64((start + Double(index) * interval) * 1000)
      if case .write = limit.next(at: Self.start + .milliseconds(milliseconds)) { return true }
      return false
    }
  }

  @Test("thirty lines may come at once, then one a second, with the number left out")
  func pace() {
    var limit = LineLimit()
    #expect(written(&limit, 100, from: 0, every: 0) == Array(0..<30))
    #expect(limit.next(at: Self.after(1)) == .write(leftOut: 70))
    #expect(limit.next(at: Self.after(1)) == .leaveOut)
    #expect(limit.next(at: Self.after(2)) == .write(leftOut: 1))
    // Ten a second for a minute: one of them each second.
    #expect(written(&limit, 600, from: 3, every: 0.1).count == 60)
    // Who is quiet for half a minute may say as much as at the start.
    #expect(written(&limit, 100, from: 93, every: 0) == Array(0..<30))
  }

  @Test("a thousand lines may come in an hour, of which the last one says that it is full")
  func hour() {
    var limit = LineLimit()
    // One every 2 s: 999 lines in the first 1998 s.
    #expect(written(&limit, 999, from: 100, every: 2) == Array(0..<999))
    #expect(limit.next(at: Self.after(2200)) == .sayItIsFull)
    for time: Int64 in [2201, 3000, 3699] { #expect(limit.next(at: Self.after(time)) == .leaveOut) }
    // The hour began with its first line.
    #expect(limit.next(at: Self.after(3700)) == .write(leftOut: 4))
    #expect(limit.next(at: Self.after(3701)) == .write(leftOut: 0))
  }

  @Test("a line is written unchanged, and one too many is not written")
  func text() {
    var limit = LineLimit()
    for _ in 0..<LineLimit.atOnce { #expect(limit.admit("a line") == "a line") }
    #expect(limit.admit("too many") == nil)
  }
}
