internal import LendingProtocol
internal import Linux
internal import SystemPackage

/// Joins the port, the cards and the lenders. It has the session, and knows each card's device of the helper.
final class AgentCore {
  private let loop: EventLoop
  private let log: (String) -> Void
  let session: AgentSession
  let table: GuestBufferTable
  let offers = GuestOfferTable()
  let interface: LenderInterface
  private var cards: [any GuestCard] = []
  /// Unplugged cards that have buffers of other drivers. Their device files stay open, because closing one waits for the device
  /// for ever, and a process in that wait cannot be killed.
  private var abandoned: [any GuestCard] = []

  var whenPortGone: (() -> Void)?

  /// - Parameter isDMABuf: decides whether a descriptor may be lent.
  init(
    loop: EventLoop, log: @escaping (String) -> Void,
    isDMABuf: @escaping (borrowing FD) -> Bool = { (try? $0.fileKind()) == .dmaBuf }
  ) throws(Errno) {
    (self.loop, self.log) = (loop, log)
    session = try AgentSession(loop: loop, log: log)
    table = GuestBufferTable(session)
    interface = LenderInterface(session, table, offers, isDMABuf: isDMABuf)
    session.whenOpen = { [unowned self] in
      log("the helper answers")
      interface.tell(LenderEvent(.connected))
      for card in self.cards { prove(card) }
    }
    session.whenEnded = { [unowned self] in
      log("the helper is gone")
      for card in self.cards { card.handles.isAnswered = false }
      table.endSession()
      offers.endSession()
      interface.tell(LenderEvent(.disconnected))
    }
    session.whenGone = { [unowned self] in
      log("the port is gone")
      whenPortGone?()
    }
    session.whenEvent = { [unowned self] in take($0) }
  }

  /// Begins to use a port. An earlier one was closed before.
  func open(_ port: consuming FD) throws(Errno) { try session.open(AgentPort(port, loop: loop)) }

  // MARK: Cards

  func add(_ card: any GuestCard) {
    cards.append(card)
    if session.isOpen { prove(card) }
  }

  func remove(_ card: any GuestCard) {
    cards.removeAll { $0 === card }
    card.handles.isAnswered = false
    table.remove(card, reason: "cardGone")
    if card.handles.hasForeign {
      abandoned.append(card)
      log(
        "the unplugged card has buffers of other drivers: the kernel keeps their pages until this guest reboots"
      )
    }
  }

  private func take(_ event: HostEvent) {
    switch event {
    case .deviceReset(let device, _): proveAgain(device)
    case .offered(let offer): offers.offered(offer)
    case .withdrawing(let id, let patience): offers.withdrawing(id, patience: patience)
    case .withdrawn(let id): offers.withdrawn(id)
    default: table.handle(event)
    }
  }

  private func proveAgain(_ device: Int) {
    for proven in table.cards where proven.device == device {
      proven.card.handles.isAnswered = false
      table.remove(proven.card, reason: RevocationReason.deviceReset.rawValue)
      prove(proven.card)
    }
  }

  /// Proves to the helper which of its devices a card is, by random bytes in a buffer of the card.
  private func prove(_ card: any GuestCard) {
    let secret = RandomBytes(32)
    let buffer: CardBuffer
    do throws(Errno) {
      buffer = try card.makeBuffer(systemPageSize)
      unsafe try card.map(buffer).store(secret.bytes.span.bytes, at: 0)
    } catch { return log("a card cannot make a buffer: \(error)") }
    session.send(.prove(resource: buffer.resource, secret: secret.digits)) { [unowned self] result in
      // The buffer lives until here.
      withExtendedLifetime(buffer) {}
      guard cards.contains(where: { $0 === card }) else { return }
      switch result {
      case .success(let answer):
        guard let device = answer.device, let epoch = answer.epoch else { return }
        card.handles.isAnswered = true
        table.add(ProvenCard(card: card, device: device, epoch: epoch))
      case .failure(let refusal):
        if refusal != AgentSession.ended {
          log("the helper does not serve a card, or not now: \(refusal.class): \(refusal.desc)")
        }
      }
    }
  }
}
