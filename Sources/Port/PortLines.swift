/// Cuts the guest's bytes into lines. It keeps at most the longest line, and the bytes that came with its end.
package struct PortLines {
  package enum Piece: Equatable {
    /// A line without its newline.
    case line([UInt8])
    /// The end of a line that was too long, and was dropped.
    case tooLong
    /// A part of such a line, or bytes that 0xff ended.
    case dropped
  }

  /// The most bytes of a line, with its newline.
  package let limit: Int
  private var input: [UInt8] = []
  /// The start of the line, and the place up to which it has no end.
  private var (start, end) = (0, 0)
  private var isTooLong = false

  package init(limit: Int) { self.limit = limit }

  /// The number of received bytes that were not handled yet.
  package var count: Int { input.count - start }

  /// Lets `body` append new bytes. No piece may be left before them.
  package mutating func receive<Failure: Error>(
    _ body: (inout [UInt8]) throws(Failure) -> Int
  ) throws(Failure) -> Int {
    input.removeFirst(start)
    (start, end) = (0, end - start)
    return try body(&input)
  }

  /// The next piece; nil before its end has come.
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
