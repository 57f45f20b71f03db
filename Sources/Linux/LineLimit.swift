/// Limits the log lines that others cause, above all a guest: some at once, then one a second, and a number in an hour.
package struct LineLimit: Sendable {
  /// At most this many lines may come at once.
  package static let atOnce = 30
  /// At most this many may come in an hour.
  package static let perHour = 1000
  /// The text in place of the last line.
  package static let full = "\(perHour) lines within an hour: no more until the hour is over"

  private var paidUntil: Instant?
  private var hourBegan: Instant?
  private var written = 0
  private var leftOut = 0

  /// The decision on a line.
  package enum Verdict: Equatable, Sendable {
    /// Write it. This many before it were left out.
    case write(leftOut: Int)
    /// Write `full` in its place, and leave out all lines until the hour is over.
    case sayItIsFull
    case leaveOut
  }

  /// Before the first line.
  package init() {}

  /// Decides on one more line.
  /// - Parameter now: never earlier than before.
  package mutating func next(at now: Instant = .now) -> Verdict {
    if let hourBegan, now - hourBegan < .seconds(3600) {
      // The line `full` counts too.
      if written >= Self.perHour {
        leftOut += 1
        return .leaveOut
      }
    } else {
      (hourBegan, written) = (now, 0)
    }
    // Each line uses up one second of the time that follows.
    let paid = max(paidUntil ?? now, now) + .seconds(1)
    guard paid - now <= .seconds(Int64(Self.atOnce)) else {
      leftOut += 1
      return .leaveOut
    }
    (paidUntil, written) = (paid, written + 1)
    if written == Self.perHour {
      leftOut += 1
      return .sayItIsFull
    }
    defer { leftOut = 0 }
    return .write(leftOut: leftOut)
  }

  /// Decides on a line at this moment.
  /// - Returns: the text to write, if any.
  package mutating func admit(_ line: @autoclosure () -> String) -> String? {
    switch next() {
    case .write(leftOut: 0): line()
    case .write(let count): "\(line()) (\(count) lines before it were left out: too many in a short time)"
    case .sayItIsFull: Self.full
    case .leaveOut: nil
    }
  }
}
