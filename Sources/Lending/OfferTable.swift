package import Buffers
package import LendingProtocol
package import Linux

/// The device in whose region a guest maps memory of the host.
package protocol OfferDevice: AnyObject {
  /// The region's size in bytes, which limits an offer.
  var regionSize: UInt64 { get }
  /// The guest may have it from now on.
  func add(_ offer: HostOffer)
  /// Lets the guest make no new blobs of it.
  func withdraw(_ offer: HostOffer)
  /// Takes away what the guest still has of it.
  func cutOff(_ offer: HostOffer)
}

/// A process that offers, as long as it is connected.
package final class OfferOwner {
  package let user: UInt32
  package init(user: UInt32) { self.user = user }
}

/// Memory of the host that is offered to a guest:
///
///     offered --> withdrawing --> withdrawn
package final class Offer {
  package enum State: Equatable {
    case offered
    /// The guest has to let go of it, and is cut off at the deadline.
    case withdrawing(until: Instant)
    /// The guest has let go of it.
    case withdrawn
  }

  package let memory: HostOffer
  package let metadata: BufferMetadata
  /// Nil for an offer of the helper's options.
  package let owner: OfferOwner?
  package internal(set) var state = State.offered
  /// Whether the guest was cut off; the front end may still be busy with that.
  var isCutOff = false

  package var id: UInt64 { memory.id }

  init(_ memory: HostOffer, _ metadata: BufferMetadata, _ owner: OfferOwner?) {
    (self.memory, self.metadata, self.owner) = (memory, metadata, owner)
  }

  /// The time until the guest is cut off, for an offer that is being withdrawn.
  package func timeLeft(_ now: Instant) -> TimeSpan? {
    if case .withdrawing(let end) = state { max(.zero, end - now) } else { nil }
  }
}

package struct OfferLimits: Equatable, Sendable {
  /// The most offers at once.
  package var offers = 64
  /// The most bytes of metadata of one.
  package var metadata = 4096
  package init() {}
}

/// Why memory cannot be offered or withdrawn.
package enum OfferError: Error, Equatable {
  case tooLarge(UInt64, limit: UInt64)
  case tooManyOffers(limit: Int)
  case metadataTooLong(Int, limit: Int)
}

/// The offers of the host's memory to one guest: who offers them, and how they are taken back.
package final class OfferTable {
  /// The first number for offers while the guest runs. The guest asks by the number, which is exact in JSON.
  static let firstID: UInt64 = 1 << 32

  package let limits: OfferLimits
  /// The device's number on the port.
  package let deviceNumber: Int
  private let device: any OfferDevice
  private let clock: () -> Instant
  private var nextID = firstID
  private var offers: [UInt64: Offer] = [:]
  private var feeds: [OfferFeed] = []
  /// Called when `deadline` has changed.
  package var timeHasChanged: () -> Void = {}

  package init(
    _ device: any OfferDevice, number: Int, limits: OfferLimits = OfferLimits(),
    clock: @escaping () -> Instant = { .now }
  ) {
    (self.device, deviceNumber, self.limits, self.clock) = (device, number, limits, clock)
  }

  package var now: Instant { clock() }

  /// By their numbers.
  package var all: [Offer] { offers.values.sorted { $0.id < $1.id } }

  package subscript(id: UInt64) -> Offer? { offers[id] }

  // MARK: Offering

  /// - Returns: the number of the next offer.
  package func prepare(_ metadata: BufferMetadata) throws(OfferError) -> UInt64 {
    if metadata.size > limits.metadata { throw .metadataTooLong(metadata.size, limit: limits.metadata) }
    if offers.count >= limits.offers { throw .tooManyOffers(limit: limits.offers) }
    // The options may have used any number.
    while offers[nextID] != nil { nextID += 1 }
    defer { nextID += 1 }
    return nextID
  }

  /// The guest may have it from now on.
  @discardableResult
  package func add(
    _ memory: HostOffer, _ metadata: BufferMetadata = BufferMetadata(), by owner: OfferOwner?
  ) throws(OfferError) -> Offer {
    if memory.size > device.regionSize { throw .tooLarge(memory.size, limit: device.regionSize) }
    let offer = enter(Offer(memory, metadata, owner))
    device.add(memory)
    return offer
  }

  /// Adds an offer that the device already has from the helper's options.
  package func take(_ memory: HostOffer) { enter(Offer(memory, BufferMetadata(), nil)) }

  @discardableResult
  private func enter(_ offer: Offer) -> Offer {
    let memory = offer.memory
    precondition(offers.updateValue(offer, forKey: memory.id) == nil, "an offer has a number of its own")
    memory.whenChanged = { [unowned self, unowned offer] in changed(offer) }
    note(offer)
    return offer
  }

  /// Begins to take an offer back. That ends when the guest has let go of the memory.
  /// - Parameter patience: how long the guest may keep its blobs.
  package func withdraw(_ offer: Offer, patience: TimeSpan) {
    let end = clock() + patience
    switch offer.state {
    case .offered:
      offer.state = .withdrawing(until: end)
      device.withdraw(offer.memory)
    // The withdrawal has begun, and can only end sooner.
    case .withdrawing(let until): offer.state = .withdrawing(until: min(until, end))
    case .withdrawn: return
    }
    note(offer)
    if patience == .zero { cutOff(offer) }
    timeHasChanged()
  }

  /// Its process is gone: all its offers end.
  package func end(_ owner: OfferOwner) {
    for offer in all where offer.owner === owner { withdraw(offer, patience: .zero) }
  }

  private func changed(_ offer: Offer) {
    if offer.memory.isOver {
      offer.memory.whenChanged = {}
      offer.state = .withdrawn
      offers[offer.id] = nil
    }
    note(offer)
  }

  // MARK: Time

  /// The next time of a cut-off; nil if there is none.
  package var deadline: Instant? {
    offers.values.lazy.filter { !$0.isCutOff }.compactMap { offer -> Instant? in
      if case .withdrawing(let end) = offer.state { end } else { nil }
    }.min()
  }

  /// Does what is due.
  package func expire() {
    let now = clock()
    for offer in all where offer.timeLeft(now) == .zero { cutOff(offer) }
  }

  private func cutOff(_ offer: Offer) {
    if offer.isCutOff || offer.state == .withdrawn { return }
    offer.isCutOff = true
    device.cutOff(offer.memory)
  }

  // MARK: Listeners

  /// Tells a listener the present offers, and from then on all changes.
  package func add(_ feed: OfferFeed) {
    feeds.append(feed)
    for offer in all { feed.note(offer) }
  }

  package func remove(_ feed: OfferFeed) { feeds.removeAll { $0 === feed } }

  private func note(_ offer: Offer) { for feed in feeds { feed.note(offer) } }
}
