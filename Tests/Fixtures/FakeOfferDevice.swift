package import Buffers
internal import Lending
internal import Linux

/// A device whose guest takes what a test says, and lets go when it is told to.
package final class FakeOfferDevice: OfferDevice {
  package let regionSize: UInt64
  package private(set) var offers: [UInt64: HostOffer] = [:]
  /// Those that were cut off.
  package private(set) var cut: [UInt64] = []
  /// The front end has not taken it away yet.
  package var isSlow = false

  package init(pages: UInt64 = 64) { regionSize = pages * systemPageSize }

  package func add(_ offer: HostOffer) { offers[offer.id] = offer }
  package func withdraw(_ offer: HostOffer) { offer.withdraw() }
  package func cutOff(_ offer: HostOffer) {
    cut.append(offer.id)
    if isSlow { offer.hold() }
    while offer.uses > 0 { offer.endUse() }
  }
}
