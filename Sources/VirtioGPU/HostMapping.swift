/// A blob of the host's memory in the guest's region.
final class HostMapping {
  enum State {
    /// The front end was asked for it.
    case coming
    /// The same, but it is not wanted any more: it is to go as soon as it is there.
    case unwanted
    case there
    /// The front end was asked to take it away.
    case going
  }

  let range: Range<UInt64>
  var state = State.coming
  /// The answers that wait until it is gone, and what they are if the front end could not take it away.
  private var errands: [(Errand, failure: Response)] = []

  init(_ range: Range<UInt64>) { self.range = range }

  func waitUntilGone(_ errand: Errand, failure: Response) { errands.append((errand, failure)) }

  func isGone(_ isDone: Bool) {
    for (errand, failure) in errands { errand.finish(isDone ? .ok : failure) }
    errands = []
  }

  var length: UInt64 { range.upperBound - range.lowerBound }
}
