/// Which lines of a log may be written that somebody else causes, a guest above all: some at once, one a second after
/// that, and so many in an hour.
package struct LineLimit: Sendable {
  /// So many lines may come at once.
  package static let atOnce = 30
  /// So many may come in an hour.
  package static let perHour = 1000
  /// What is said in the place of the last one.
  package static let full = "\(perHour) lines within an hour: no more until the hour is over"

  private var paidUntil: Instant?
  private var hourBegan: Instant?
  private var written = 0
  private var leftOut = 0

  /// What becomes of a line.
  package enum Verdict: Equatable, Sendable {
    /// It is written. So many before it were not.
    case write(leftOut: Int)
    /// It is left out, as are all until the hour is over; that is to be said in its place.
    case sayItIsFull
    case leaveOut
  }

  /// None was written yet.
  package init() {}

  /// Decides on one more line.
  /// - Parameter now: never earlier than before.
  package mutating func next(at now: Instant = .now) -> Verdict {
    if let hourBegan, now - hourBegan < .seconds(3600) {
      // The one that says so counts too.
      if written >= Self.perHour {
        leftOut += 1
        return .leaveOut
      }
    } else {
      (hourBegan, written) = (now, 0)
    }
    // Each line takes a second of what comes later.
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

  /// Decides on a line that is written now, if it is.
  /// - Returns: what to write, if anything.
  package mutating func admit(_ line: @autoclosure () -> String) -> String? {
    switch next() {
    case .write(leftOut: 0): line()
    case .write(let count): "\(line()) (\(count) before it left out: too many in a short time)"
    case .sayItIsFull: Self.full
    case .leaveOut: nil
    }
  }
}
