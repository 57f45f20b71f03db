/// Cuts what the guest sends into lines, and keeps no more of it than the longest line and what came with its end.
package struct PortLines {
  package enum Piece: Equatable {
    /// Without its newline.
    case line([UInt8])
    /// The end of a line that is too long, of which the rest was dropped.
    case tooLong
    /// A part of such a line, or what 0xff ended.
    case dropped
  }

  /// Bytes of a line, with its newline.
  package let limit: Int
  private var input: [UInt8] = []
  /// Where the line begins, and up to where there is no end of it.
  private var (start, end) = (0, 0)
  private var isTooLong = false

  package init(limit: Int) { self.limit = limit }

  /// What has come and was not dealt with, in bytes.
  package var count: Int { input.count - start }

  /// Lets `body` append what has come. There is no piece left before it.
  package mutating func receive<Failure: Error>(
    _ body: (inout [UInt8]) throws(Failure) -> Int
  ) throws(Failure) -> Int {
    input.removeFirst(start)
    (start, end) = (0, end - start)
    return try body(&input)
  }

  /// The next piece; nil as long as its end has not come.
  package mutating func next() -> Piece? {
    while end < input.count {
      end += 1
      switch input[end - 1] {
      case 0xff:
        (start, isTooLong) = (end, false)
        return .dropped
      case UInt8(ascii: "\n"):
        defer { (start, isTooLong) = (end, false) }
        return isTooLong ? .tooLong : .line(Array(input[start..<end - 1]))
      default:
        if end - start < limit { continue }
        (start, isTooLong) = (end, true)
        return .dropped
      }
    }
    return nil
  }
}
