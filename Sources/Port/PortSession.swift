internal import Buffers
internal import Lending
internal import LendingProtocol

/// One agent's session, from its hello until the next one.
final class PortSession {
  /// The most tries to name a secret, far too few to guess 32 random bytes.
  static let proofs = 8

  typealias Answer = (Result<PortReturn, PortError>) -> Void

  private let registry: Registry
  private let devices: [any PortDevice]
  private let number: UInt64
  private let feed: LendingFeed
  private let offers: OfferTable?
  private let offerFeed = OfferFeed(tellsUses: false)
  private var proofs = 0
  /// The devices whose new epoch the agent has not been told yet.
  private var resets: Set<Int> = []
  private var isOver = false

  /// Ends the session before it.
  /// - Parameters:
  ///   - offers: the offers to the guest, if it can have memory of the host.
  ///   - whenNews: called when there is an event after there was none.
  init(
    _ registry: Registry, _ devices: [any PortDevice], _ offers: OfferTable?, whenNews: @escaping () -> Void
  ) {
    (self.registry, self.devices, self.offers) = (registry, devices, offers)
    number = registry.beginSession()
    feed = LendingFeed(.lender(session: number))
    feed.whenNews = whenNews
    registry.add(feed)
    offerFeed.whenNews = whenNews
    offers?.add(offerFeed)
  }

  /// Ends the session: waiting commands get no answer, and its buffers are revoked.
  func end() {
    if isOver { return }
    isOver = true
    registry.remove(feed)
    offers?.remove(offerFeed)
    registry.endSession()
  }

  // MARK: Commands

  /// Executes a command, and answers once, now or after a device has taken its queue.
  func run(_ action: PortAction, _ answer: @escaping Answer) {
    switch action {
    case .hello: preconditionFailure("a hello begins another session")
    case .prove(let resource, let secret): prove(secret, resource, answer)
    case .lend(let request, let place, let lender): lend(request, place, lender, answer)
    case .setMetadata(let metadata, let id, let lender):
      reply(answer) { owner throws(LendingError) in
        try registry.setMetadata(metadata, of: id, by: owner(lender))
      }
    case .takeBack(let id, let lender, let delay, let patience):
      reply(answer) { owner throws(LendingError) in
        try registry.takeBack(id, by: owner(lender), after: delay, patience: patience)
      }
    case .endLender(let lender): reply(answer) { owner in registry.endLender(owner(lender)) }
    case .beginAccess(let mode, let id, let lender):
      reply(answer) { owner throws(LendingError) in
        try registry.beginAccess(mode, to: id, by: owner(lender))
      }
    case .endAccess(let id, let lender):
      reply(answer) { owner throws(LendingError) in try registry.endAccess(to: id, by: owner(lender)) }
    }
  }

  private func reply(_ answer: Answer, _ body: ((Int) -> LenderID) throws(LendingError) -> Void) {
    do throws(LendingError) {
      try body(owner)
      answer(.success(.nothing))
    } catch { answer(.failure(PortError(error))) }
  }

  private func owner(_ lender: Int) -> LenderID { LenderID(session: number, number: lender) }

  private func prove(_ secret: [UInt8], _ resource: UInt32, _ answer: @escaping Answer) {
    guard proofs < Self.proofs else {
      return answer(
        .failure(
          PortError(.tooManyProofs, "a session may try at most \(Self.proofs) proofs; begin another one")))
    }
    proofs += 1
    afterQueues(of: devices[...]) { session in
      // All resources are read, even after the right one is found, so that the time tells nothing.
      let found = session.devices.map { device in
        device.firstBytes(secret.count, of: resource).map { Self.areEqual($0, secret) } ?? false
      }
      guard let index = found.firstIndex(of: true) else {
        return answer(
          .failure(
            PortError(.noSuchSecret, "no device has a resource \(resource) that begins with this secret")))
      }
      answer(.success(.device(index, epoch: session.devices[index].epoch)))
    }
  }

  /// Compares in the same time, wherever they differ.
  private static func areEqual(_ one: [UInt8], _ other: [UInt8]) -> Bool {
    one.count == other.count && zip(one, other).reduce(UInt8(0)) { $0 | ($1.0 ^ $1.1) } == 0
  }

  private func lend(
    _ request: LendingRequest, _ place: ResourcePlace, _ lender: Int, _ answer: @escaping Answer
  ) {
    guard devices.indices.contains(place.device) else {
      return answer(
        .failure(
          PortError(
            .noSuchDevice,
            "there is no device \(place.device); the guest has \(devices.count), counted from 0")))
    }
    afterQueues(of: devices[place.device...place.device]) { session in
      answer(session.lend(request, place, session.owner(lender)))
    }
  }

  private func lend(
    _ request: LendingRequest, _ place: ResourcePlace, _ owner: LenderID
  ) -> Result<PortReturn, PortError> {
    let device = devices[place.device]
    guard device.epoch == place.epoch else {
      return .failure(
        PortError(
          .staleDevice,
          "device \(place.device) has epoch \(device.epoch) now, not \(place.epoch): prove it again"))
    }
    let pages: Buffer
    do throws(PortResourceError) { pages = try device.lendablePages(of: place.resource) } catch {
      return .failure(PortError(error, place.resource))
    }
    do throws(LendingError) {
      return .success(.buffer(try registry.lend(request, of: pages, at: place, by: owner)))
    } catch { return .failure(PortError(error)) }
  }

  /// Runs `body` when all these devices have taken the commands now in their queues, unless the session has ended by then.
  private func afterQueues(
    of waiting: ArraySlice<any PortDevice>, _ body: @escaping (PortSession) -> Void
  ) {
    if waiting.isEmpty { return body(self) }
    var left = waiting.count
    for device in waiting {
      device.afterQueue { [weak self] in
        left -= 1
        if left == 0, let self, !isOver { body(self) }
      }
    }
  }

  // MARK: Events

  func deviceWasReset(_ device: Int) { resets.insert(device) }

  /// The next event; nil if there is none.
  func nextEvent() -> PortEvent? {
    if let device = resets.popFirst() { return .deviceReset(device, epoch: devices[device].epoch) }
    while let news = feed.next() {
      if let event = PortEvent(news) { return event }
    }
    while let offers, let (news, offer) = offerFeed.next() {
      if let event = PortEvent(news, offer, offers) { return event }
    }
    return nil
  }
}
