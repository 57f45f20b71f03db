internal import Buffers

/// A blob of the host's memory in the guest's region.
final class HostMapping {
  enum State {
    /// The front end was asked for it.
    case coming
    /// The same, but it is not wanted any more: it is to go as soon as it is there.
    case unwanted
    case there
    /// The front end was asked to take it away, and for zeros in its place.
    case emptying
    /// The front end was asked to take it away.
    case going
  }

  let range: Range<UInt64>
  /// It lives on without its resource until it is gone.
  private(set) weak var resource: Resource?
  var state = State.coming
  /// Once it is there, zeros are to take its place.
  var isToBeEmptied = false
  /// Nothing takes the place of what is being taken away.
  var isHole = false
  /// Whose pages are there, or are to be; nil once they are not.
  private var offer: HostOffer?
  /// The answers that wait until it is gone, and what they are if the front end could not take it away.
  private var errands: [(Errand, failure: Response)] = []

  init(_ range: Range<UInt64>, of offer: HostOffer, in resource: Resource) {
    (self.range, self.offer, self.resource) = (range, offer, resource)
    offer.hold()
  }

  /// The front end has the offer's pages there no more.
  func letGo() { offer.take()?.letGo() }

  func waitUntilGone(_ errand: Errand, failure: Response) { errands.append((errand, failure)) }

  func isGone(_ isDone: Bool) {
    for (errand, failure) in errands { errand.finish(isDone ? .ok : failure) }
    errands = []
  }

  var length: UInt64 { range.upperBound - range.lowerBound }
}
