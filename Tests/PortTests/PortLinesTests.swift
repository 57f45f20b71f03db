import Fixtures
import Linux
import Testing

@testable import Port

@Suite struct PortLinesTests {
  private static let limit = 8

  private func pieces(_ chunks: [[UInt8]]) -> [PortLines.Piece] {
    var lines = PortLines(limit: Self.limit)
    var pieces: [PortLines.Piece] = []
    for chunk in chunks {
      _ = lines.receive { input in
        input += chunk
        return chunk.count
      }
      while let piece = lines.next() { pieces.append(piece) }
      #expect(lines.count < Self.limit, "what has no end yet is shorter than the longest line")
    }
    return pieces
  }

  private static func line(_ text: String) -> PortLines.Piece { .line(Array(text.utf8)) }

  struct Case: CustomTestStringConvertible {
    let testDescription: String
    let input: [UInt8]
    let pieces: [PortLines.Piece]
    init(_ name: String, _ input: [UInt8], _ pieces: [PortLines.Piece]) {
      (testDescription, self.input, self.pieces) = (name, input, pieces)
    }
    init(_ name: String, _ input: String, _ pieces: [PortLines.Piece]) {
      self.init(name, Array(input.utf8), pieces)
    }
  }

  static let cases: [Case] = [
    Case("nothing", "", []),
    Case("one line", "abc\n", [line("abc")]),
    Case("an empty line", "\n", [line("")]),
    Case("several lines", "a\n\nbc\n", [line("a"), line(""), line("bc")]),
    Case("half a line", "a\nbc", [line("a")]),
    Case("as long as can be", "abcdefg\n", [line("abcdefg")]),
    Case("a byte too long", "abcdefgh\nx\n", [.dropped, .tooLong, line("x")]),
    Case("twice as long", "abcdefghabcdefg\nx\n", [.dropped, .tooLong, line("x")]),
    Case("longer", "abcdefghabcdefgha\nx\n", [.dropped, .dropped, .tooLong, line("x")]),
    Case("too long, and no end yet", "abcdefghab", [.dropped]),
    Case("0xff first", [0xff, 0x61, 0x0a], [.dropped, line("a")]),
    Case("0xff in the middle", [0x61, 0xff, 0x62, 0x0a], [.dropped, line("b")]),
    Case("0xff at the end", [0x61, 0xff, 0x0a], [.dropped, line("")]),
    Case("0xff twice", [0xff, 0xff, 0x61, 0x0a], [.dropped, .dropped, line("a")]),
    Case(
      "0xff in a line that is too long", Array("abcdefghab".utf8) + [0xff, 0x61, 0x0a],
      [.dropped, .dropped, line("a")]),
  ]

  @Test("lines are cut the same from pieces of any size", arguments: cases)
  func cutting(_ this: Case) {
    for size in 1...max(1, this.input.count) {
      let chunks = stride(from: 0, to: this.input.count, by: size).map {
        Array(this.input[$0..<min($0 + size, this.input.count)])
      }
      #expect(pieces(chunks) == this.pieces, "in pieces of \(size)")
    }
  }

  @Test(
    "each line's end, each 0xff and each longest run without an end is one piece"
  )
  func anything() {
    var random = Xorshift(seed: 1)
    for _ in 0..<1000 {
      let input = (0..<Int(random.next() % 64)).map { _ in
        switch random.next() % 8 {
        case 0: UInt8(0xff)
        case 1: UInt8(0x0a)
        default: UInt8(0x61)
        }
      }
      var (ends, run) = (0, 0)
      for byte in input {
        run += 1
        if byte == 0xff || byte == 0x0a || run == Self.limit { (ends, run) = (ends + 1, 0) }
      }
      #expect(pieces([input]).count == ends)
    }
  }
}

@Suite struct TokenBucketTests {
  @Test("a bucket gives its burst at once, and then one in its time")
  func bucket() {
    var bucket = TokenBucket(rate: 1000, burst: 3)
    var now = Instant.now
    for _ in 0..<3 {
      #expect(bucket.wait(at: now) == nil)
      bucket.take(at: now)
    }
    #expect(bucket.wait(at: now) == .milliseconds(1))
    now = now + .nanoseconds(400_000)
    #expect(bucket.wait(at: now) == .nanoseconds(600_000))
    now = now + .nanoseconds(600_000)
    #expect(bucket.wait(at: now) == nil)
    bucket.take(at: now)
    #expect(bucket.wait(at: now) == .milliseconds(1))
  }

  @Test("a pause is worth no more than the burst")
  func pause() {
    var bucket = TokenBucket(rate: 1000, burst: 3)
    var now = Instant.now
    bucket.take(at: now)
    now = now + .seconds(3600)
    for _ in 0..<3 {
      #expect(bucket.wait(at: now) == nil)
      bucket.take(at: now)
    }
    #expect(bucket.wait(at: now) != nil)
  }
}
