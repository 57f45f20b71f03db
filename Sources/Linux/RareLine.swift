/// A log line that others may cause again and again. It is written at most once a minute, with the number of those left out.
package struct RareLine: Sendable {
  private static let pause = TimeSpan.seconds(60)
  private var last: Instant?
  private var leftOut = 0

  /// Before the first line.
  package init() {}

  /// - Returns: the text to write, if any.
  package mutating func admit(_ line: @autoclosure () -> String, at now: Instant = .now) -> String? {
    if let last, now - last < Self.pause {
      leftOut += 1
      return nil
    }
    defer { (last, leftOut) = (now, 0) }
    return leftOut == 0 ? line() : "\(line()) (and \(leftOut) more in between)"
  }
}
