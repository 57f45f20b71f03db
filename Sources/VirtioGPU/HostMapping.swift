internal import Buffers

/// A blob of the host's memory in the guest's region.
final class HostMapping {
  enum State {
    /// The front end was asked for the mapping.
    case coming
    /// The front end was asked for the mapping, which must go as soon as it is there.
    case unwanted
    case there
    /// The front end was asked to take the mapping away, and for zeros in its place.
    case emptying
    /// The front end was asked to take the mapping away.
    case going
  }

  let range: Range<UInt64>
  /// Nil once the resource is gone; the mapping may outlive it.
  private(set) weak var resource: Resource?
  var state = State.coming
  /// Once the mapping is there, zeros must take its place.
  var isToBeEmptied = false
  /// The front end takes the mapping away, and nothing takes its place.
  var isHole = false
  /// The offer whose pages are there, or will be; nil once they are not.
  private var offer: HostOffer?
  /// The answers that wait until the mapping is gone, and each one's response if the front end could not take the mapping away.
  private var errands: [(Errand, failure: Response)] = []

  init(_ range: Range<UInt64>, of offer: HostOffer, in resource: Resource) {
    (self.range, self.offer, self.resource) = (range, offer, resource)
    offer.hold()
  }

  /// Called when the front end no longer has the offer's pages there.
  func letGo() { offer.take()?.letGo() }

  func waitUntilGone(_ errand: Errand, failure: Response) { errands.append((errand, failure)) }

  func isGone(_ isDone: Bool) {
    for (errand, failure) in errands { errand.finish(isDone ? .ok : failure) }
    errands = []
  }

  var length: UInt64 { range.upperBound - range.lowerBound }
}
