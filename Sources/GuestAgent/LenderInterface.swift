internal import LendingProtocol
internal import Linux
internal import SystemPackage
internal import Udmabuf
internal import Varlink

/// `io.udmabridge.Lender`, by which programs of the guest lend.
final class LenderInterface: VarlinkInterface {
  let name = lenderInterfaceName
  let description = lenderDescription

  private let session: AgentSession
  private let table: GuestBufferTable
  private let offers: GuestOfferTable
  private let isDMABuf: (borrowing FD) -> Bool
  private var owners: [ObjectIdentifier: BufferOwner] = [:]
  private var watches: [ObjectIdentifier: LenderWatch] = [:]
  private var nextOwner = 1

  init(
    _ session: AgentSession, _ table: GuestBufferTable, _ offers: GuestOfferTable,
    isDMABuf: @escaping (borrowing FD) -> Bool
  ) {
    (self.session, self.table, self.offers, self.isDMABuf) = (session, table, offers, isDMABuf)
    table.whenChanged = { [unowned self] in tell($0) }
    offers.whenChanged = { [unowned self] in tell($0) }
  }

  func tell(_ event: LenderEvent) { for watch in watches.values { watch.add(event) } }

  // MARK: Methods

  func handle(
    _ method: String, _ call: VarlinkCall, from connection: VarlinkConnection
  ) throws(VarlinkError) {
    switch method {
    case "Make":
      let size = try call.parameters(MakeParameters.self).size
      try refusing { () throws(LendRefusal) in try make(UInt64(size), connection) }
    case "Lend":
      let wanted = try call.parameters(LendParameters.self)
      try refusing { () throws(LendRefusal) in try lend(wanted, connection) }
    case "SetMetadata":
      let wanted = try call.parameters(SetMetadataParameters.self)
      let buffer = try buffer(wanted.buffer, connection)
      send(.setMetadata(buffer.id, lender: buffer.owner.number, wanted.metadata), connection) {
        buffer.request.metadata = wanted.metadata
      }
    case "Return":
      let wanted = try call.parameters(ReturnParameters.self)
      let buffer = try buffer(wanted.buffer, connection)
      connection.answerLater()
      table.takeBack(buffer, delay: wanted.delay, patience: wanted.patience) { connection.answer($0) }
    case "BeginAccess":
      let wanted = try call.parameters(BeginAccessParameters.self)
      let buffer = try buffer(wanted.buffer, connection)
      send(.beginAccess(buffer.id, lender: buffer.owner.number, wanted.mode), connection)
    case "EndAccess":
      let buffer = try buffer(try call.parameters(BufferParameters.self).buffer, connection)
      send(.endAccess(buffer.id, lender: buffer.owner.number), connection)
    case "Offers":
      _ = try call.parameters(EmptyObject.self)
      connection.reply(GuestOfferList(offers: offers.all.map { GuestOfferEntry($0) }))
    case "Receive":
      let wanted = try call.parameters(ReceiveParameters.self)
      try refusing { () throws(LendRefusal) in try receive(wanted, connection) }
    case "List":
      _ = try call.parameters(EmptyObject.self)
      connection.reply(list(for: connection.peer))
    case "Watch":
      _ = try call.parameters(EmptyObject.self)
      guard call.wantsMore, !call.isOneway else { throw .expectedMore }
      watch(connection)
    default: throw .methodNotFound(call.method)
    }
  }

  private func make(_ size: UInt64, _ connection: VarlinkConnection) throws(LendRefusal) {
    guard let card = table.cards.first?.card else { throw session.isOpen ? .noCard : .notConnected }
    do throws(Errno) {
      let buffer = try card.makeBuffer(size)
      // The dma-buf keeps the buffer, and the agent lets it go.
      connection.reply(MakeReply(size: Int(buffer.size)), passing: try card.export(buffer))
    } catch {
      let limit = error == .fileTooLarge ? ": a card without blobs makes at most 4 GiB minus a page" : ""
      throw LendRefusal("CannotMake", "no buffer of \(size) bytes can be made: \(error)\(limit)")
    }
  }

  private func lend(_ wanted: LendParameters, _ connection: VarlinkConnection) throws(LendRefusal) {
    guard connection.descriptorCount == 1, let fd = connection.takeDescriptor(wanted.fileDescriptor) else {
      throw LendRefusal(
        "NoDMABuf",
        "\(connection.descriptorCount) descriptors came with the call: pass one, whose index is 0")
    }
    guard isDMABuf(fd), let dmabuf = try? DMABuf(adopting: fd) else {
      throw LendRefusal(
        "NoDMABuf",
        "the descriptor is not a dma-buf: get one from Make, a dma-heap, a camera, or /dev/udmabuf (of a memfd)"
      )
    }
    guard let all = Int(exactly: dmabuf.size), wanted.offset < all,
      wanted.size ?? 1 <= all - wanted.offset
    else {
      throw LendRefusal(
        "OutOfRange",
        "offset \(wanted.offset)\(wanted.size.map { " and size \($0)" } ?? "") are not inside the \(dmabuf.size) bytes of the dma-buf"
      )
    }
    let request = LendRequest(
      offset: wanted.offset, size: wanted.size ?? all - wanted.offset, use: wanted.use,
      metadata: wanted.metadata, to: wanted.to)
    connection.answerLater()
    table.lend(dmabuf, request, owner(connection), mayCopy: wanted.copy) { lent in
      connection.answer(
        lent.map { LendReply(buffer: $0.id, copied: $0.isCopy) }.mapError(\.varlink))
    }
  }

  private func receive(_ wanted: ReceiveParameters, _ connection: VarlinkConnection) throws(LendRefusal) {
    if !session.isOpen { throw .notConnected }
    let found = wanted.offer.map { offers[$0] } ?? offers.newest(wanted.name ?? "", wanted.value ?? "")
    guard let offer = found else {
      throw LendRefusal("NoSuchOffer", "the host has no such offer, or no longer")
    }
    guard let card = table.cards.first(where: { $0.device == offer.device })?.card else { throw .noCard }
    do throws(Errno) {
      let buffer = try card.receive(UInt64(offer.id), size: UInt64(offer.size))
      // The dma-buf keeps the buffer, and the agent lets it go.
      connection.reply(ReceiveReply(GuestOfferEntry(offer)), passing: try card.export(buffer))
    } catch {
      throw LendRefusal(
        "CannotReceive",
        "offer \(offer.id) of \(offer.size) bytes cannot be mapped (\(error)): the host takes it back, its limit of uses is reached, "
          + "or there is no room for it in the region or in QEMU")
    }
  }

  private func list(for peer: PeerCredentials) -> LenderList {
    LenderList(
      connected: session.isOpen, cards: table.cards.count, audiences: session.audiences,
      copies: table.copies,
      buffers: table.all.filter { mayName(peer, $0.owner.user) }.map { LenderListEntry($0) })
  }

  private func watch(_ connection: VarlinkConnection) {
    let peer = connection.peer
    let watch = LenderWatch(connection) { [unowned self] event in
      event.user.map { mayName(peer, $0) } ?? true
    }
    let id = ObjectIdentifier(connection)
    watches[id] = watch
    forgetAtEnd(of: connection)
    connection.beginStream { [weak watch] in watch?.proceed() }
    watch.add(LenderEvent(.ready))
  }

  /// Passes the caller's request on, and answers when the helper does.
  private func send(
    _ command: AgentCommand, _ connection: VarlinkConnection, whenDone: @escaping () -> Void = {}
  ) {
    connection.answerLater()
    table.send(command, { connection.answer($0) }, whenDone: whenDone)
  }

  // MARK: Callers

  private func owner(_ connection: VarlinkConnection) -> BufferOwner {
    let id = ObjectIdentifier(connection)
    if let known = owners[id] { return known }
    let owner = BufferOwner(number: nextOwner, user: connection.peer.user, pid: connection.peer.pid)
    nextOwner += 1
    owners[id] = owner
    forgetAtEnd(of: connection)
    return owner
  }

  private func forgetAtEnd(of connection: VarlinkConnection) {
    let id = ObjectIdentifier(connection)
    connection.whenGone(for: self) { [unowned self] in
      watches[id] = nil
      if let owner = owners.removeValue(forKey: id) { table.end(owner) }
    }
  }

  private func mayName(_ peer: PeerCredentials, _ user: UInt32) -> Bool {
    peer.user == user || peer.user == 0 || peer.user == effectiveUser()
  }

  private func buffer(_ id: BufferID, _ connection: VarlinkConnection) throws(VarlinkError) -> GuestBuffer {
    guard let buffer = table[id], mayName(connection.peer, buffer.owner.user) else {
      throw LendRefusal.noSuchBuffer.varlink
    }
    return buffer
  }

  private func refusing(_ body: () throws(LendRefusal) -> Void) throws(VarlinkError) {
    do throws(LendRefusal) { try body() } catch { throw error.varlink }
  }
}

extension VarlinkConnection {
  fileprivate func answer(_ result: Result<Void, LendRefusal>) {
    answer(result.map { EmptyObject() }.mapError(\.varlink))
  }
}
