internal import LendingProtocol
internal import Linux
internal import SystemPackage

/// The buffers that this guest lends now.
final class GuestBufferTable {
  private let session: AgentSession
  private var buffers: [BufferID: GuestBuffer] = [:]
  private(set) var cards: [ProvenCard] = []
  /// The number of buffers copied since the agent's start.
  private(set) var copies = 0
  var whenChanged: ((LenderEvent) -> Void)?

  init(_ session: AgentSession) { self.session = session }

  /// By id.
  var all: [GuestBuffer] { buffers.values.sorted { $0.id.description < $1.id.description } }

  subscript(id: BufferID) -> GuestBuffer? { buffers[id] }

  // MARK: Lending

  /// The result for a lender.
  typealias Lent = Result<GuestBuffer, LendRefusal>

  /// Lends a dma-buf.
  /// - Parameter mayCopy: whether its content may be copied into a buffer of the card, if the card cannot take it.
  func lend(
    _ dmabuf: DMABuf, _ request: LendRequest, _ owner: BufferOwner, mayCopy: Bool,
    _ answer: @escaping (Lent) -> Void
  ) {
    do throws(LendRefusal) {
      if cards.isEmpty { throw session.isOpen ? .noCard : .notConnected }
      let (place, isCopy) = try place(dmabuf, mayCopy: mayCopy)
      if isCopy { copies += 1 }
      register(
        place, request, owner, foreign: place.buffer.isOwn ? nil : dmabuf, isCopy: isCopy, answer)
    } catch { answer(.failure(error)) }
  }

  /// Gives the buffer to a card: the one that made it, or the first that takes it.
  private func place(_ dmabuf: DMABuf, mayCopy: Bool) throws(LendRefusal) -> (GuestBuffer.Place, isCopy: Bool)
  {
    var foreign: GuestBuffer.Place?
    var failure: Errno?
    for card in cards {
      do throws(Errno) {
        let buffer = try dmabuf.withDescriptor { fd throws(Errno) in try card.card.importBuffer(fd) }
        let place = GuestBuffer.Place(card: card, buffer: buffer)
        if buffer.isOwn { return (place, false) }
        if foreign == nil { foreign = place }
      } catch { failure = failure ?? error }
    }
    if let foreign { return (foreign, false) }
    guard mayCopy, let card = cards.first else {
      throw .cannotImport(failure ?? .operationNotSupportedByDevice, exporter: try? dmabuf.exporter())
    }
    do throws(Errno) {
      return (GuestBuffer.Place(card: card, buffer: try card.card.copy(dmabuf)), true)
    } catch { throw LendRefusal("CannotImport", "the dma-buf cannot be copied: \(error)") }
  }

  private func register(
    _ place: GuestBuffer.Place, _ request: LendRequest, _ owner: BufferOwner, foreign: DMABuf?, isCopy: Bool,
    replacing old: GuestBuffer? = nil, _ answer: @escaping (Lent) -> Void
  ) {
    let command = AgentCommand.LendCommand(
      device: place.card.device, epoch: place.card.epoch, resource: place.buffer.resource,
      lender: owner.number, offset: request.offset, size: request.size, use: request.use,
      metadata: request.metadata, to: request.to)
    session.send(.lend(command)) { [unowned self] result in
      switch result {
      case .failure(let refusal): answer(.failure(LendRefusal(refusal)))
      case .success(let lent):
        guard let id = lent.buffer else { return answer(.failure(.noSuchBuffer)) }
        answer(.success(enter(id, place, request, owner, foreign: foreign, isCopy: isCopy, replacing: old)))
      }
    }
  }

  private func enter(
    _ id: BufferID, _ place: GuestBuffer.Place, _ request: LendRequest, _ owner: BufferOwner,
    foreign: DMABuf?, isCopy: Bool, replacing old: GuestBuffer?
  ) -> GuestBuffer {
    // The lender has lent the buffer before, and the helper goes on with it.
    let known = buffers[id] ?? old
    let buffer = known ?? GuestBuffer(id, owner, request, place, foreign: foreign, isCopy: isCopy)
    let before = buffer.id == id ? nil : buffer.id
    (buffer.id, buffer.request, buffer.place, buffer.state) = (
      id, request, place, owner.isGone ? .returning : .lent
    )
    buffers[id] = buffer
    var event = LenderEvent(.lent, buffer)
    event.before = before
    whenChanged?(event)
    return buffer
  }

  // MARK: A lender's requests

  /// Passes a lender's request for a buffer to the helper.
  func send(
    _ command: AgentCommand, _ answer: @escaping (Result<Void, LendRefusal>) -> Void,
    whenDone: @escaping () -> Void = {}
  ) {
    session.send(command) { result in
      switch result {
      case .failure(let refusal): answer(.failure(LendRefusal(refusal)))
      case .success:
        whenDone()
        answer(.success(()))
      }
    }
  }

  /// Begins to take a buffer back. The agent forgets it when the helper reports its return.
  func takeBack(
    _ buffer: GuestBuffer, delay: Int?, patience: Int?,
    _ answer: @escaping (Result<Void, LendRefusal>) -> Void
  ) {
    guard buffer.state != .waiting else {
      forget(buffer)
      return answer(.success(()))
    }
    send(
      .takeBack(buffer.id, lender: buffer.owner.number, delay: delay, patience: patience), answer
    ) { [unowned self] in
      guard buffers[buffer.id] === buffer else { return }
      buffer.state = .returning
      whenChanged?(LenderEvent(.returning, buffer))
    }
  }

  /// The lender is gone: all its buffers go back.
  func end(_ owner: BufferOwner) {
    owner.isGone = true
    for buffer in all where buffer.owner === owner {
      if buffer.state == .waiting { forget(buffer) } else { buffer.state = .returning }
    }
    // A lend may be on its way; the helper takes this command after it.
    session.send(.endLender(owner.number)) { _ in }
  }

  private func forget(_ buffer: GuestBuffer) { buffers[buffer.id] = nil }

  // MARK: The helper's events

  func handle(_ event: HostEvent) {
    switch event {
    case .importers(let id, let count):
      tell(.importers, id) { buffer, event in
        buffer.importers = count
        event.count = count
      }
    case .accessBegun(let id, let mode): tell(.accessBegun, id) { $1.mode = mode }
    case .accessEnded(let id): tell(.accessEnded, id) { _, _ in }
    case .filled(let id, let bytesUsed, let timestamp, let metadata, let lost):
      tell(.filled, id) { _, event in
        (event.bytesUsed, event.timestamp, event.metadata) = (bytesUsed, timestamp, metadata)
        event.lostFills = lost > 0 ? lost : nil
      }
    case .fillAborted(let id): tell(.fillAborted, id) { _, _ in }
    case .returned(let id, let cutOff, let reading):
      tell(.returned, id) { buffer, event in
        (event.cutOff, event.reading) = (cutOff, reading)
        forget(buffer)
      }
    case .revoked(let id, let reason):
      guard let buffer = buffers[id] else { return }
      // The driver may be stopping, so nobody answers it until the card is proved again.
      if reason == RevocationReason.deviceReset.rawValue {
        buffer.place?.card.card.handles.isAnswered = false
      }
      revoke(buffer, reason: reason)
    case .deviceReset, .offered, .withdrawing, .withdrawn: break
    }
  }

  private func tell(
    _ kind: LenderEvent.Kind, _ id: BufferID, _ change: (GuestBuffer, inout LenderEvent) -> Void
  ) {
    guard let buffer = buffers[id] else { return }
    var event = LenderEvent(kind, buffer)
    change(buffer, &event)
    whenChanged?(event)
  }

  /// The host has lost a buffer. A buffer of another driver waits for the next card, while its lender wants it lent.
  private func revoke(_ buffer: GuestBuffer, reason: String) {
    if buffer.state == .waiting { return }
    if buffer.foreign != nil, buffer.state == .lent { buffer.state = .waiting } else { forget(buffer) }
    buffer.place = nil
    var event = LenderEvent(.revoked, buffer)
    event.reason = reason
    whenChanged?(event)
  }

  /// The helper is gone, and all buffers of this session end. Buffers of other drivers wait for the next helper's card.
  func endSession() {
    cards = []
    for buffer in all { revoke(buffer, reason: "sessionEnded") }
  }

  // MARK: Cards

  /// The helper knows a card, which gets the waiting buffers.
  func add(_ card: ProvenCard) {
    cards.append(card)
    for buffer in all where buffer.state == .waiting {
      guard let dmabuf = buffer.foreign else { continue }
      guard let (place, _) = try? place(dmabuf, mayCopy: false) else { continue }
      let before = buffer.id
      register(
        place, buffer.request, buffer.owner, foreign: dmabuf, isCopy: false, replacing: buffer
      ) { [unowned self] result in
        // It has a new id. If the card refused it, it waits for another one.
        guard case .success(let lent) = result, lent.id != before, buffers[before] === buffer else { return }
        buffers[before] = nil
      }
    }
  }

  /// A card is gone, or its device in the helper has changed. The buffers that the card made went with it.
  func remove(_ card: any GuestCard, reason: String) {
    cards.removeAll { $0.card === card }
    for buffer in all where buffer.place?.card.card === card { revoke(buffer, reason: reason) }
  }
}
