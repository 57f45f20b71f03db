package import Buffers
package import Lending
internal import LendingProtocol
package import Linux
internal import SystemPackage
internal import Varlink

/// The methods of `io.udmabridge.Buffers` by which processes offer memory of the host to the guest.
package final class OffersService {
  /// Makes an offer of a descriptor.
  /// - Parameters:
  ///   - uses: at most this many blobs of it may exist at once.
  ///   - token: is closed when the guest has let go of the memory.
  package typealias Make =
    (_ id: UInt64, _ fd: consuming FD, _ uses: Int, _ token: consuming FD?) throws(OfferObstacle) -> HostOffer

  private let table: OfferTable
  private let make: Make
  private let shares: UserShares
  private let loop: EventLoop
  private var owners: [ObjectIdentifier: OfferOwner] = [:]
  private var watchers: [ObjectIdentifier: OffersWatcher] = [:]

  /// The descriptors that it may need: for each offer its file, a dma-buf and its token, and the same for one more that is
  /// being made.
  package static func descriptors(_ limits: OfferLimits) -> Int { 3 * limits.offers + 8 }

  package init(_ table: OfferTable, loop: EventLoop, make: @escaping Make) {
    (self.table, self.loop, self.make) = (table, loop, make)
    shares = UserShares(table.limits.offers)
  }

  // MARK: Methods

  func offer(
    _ what: OfferParameters, _ caller: LendingCaller, _ connection: VarlinkConnection
  ) throws(VarlinkError) {
    guard let fd = connection.takeDescriptor(what.fileDescriptor) else {
      throw .invalidParameter("fileDescriptor")
    }
    var token: FD?
    if let index = what.token {
      guard let given = connection.takeDescriptor(index) else { throw .invalidParameter("token") }
      token = consume given
    }
    if let reached = shares.reached(by: caller.user, beside: table.all.compactMap(\.owner?.user)) {
      throw error("TooManyOffers", "limit", reached.limit)
    }
    let id: UInt64
    do throws(OfferError) { id = try table.prepare(what.metadata) } catch { throw refusal(error) }
    let memory: HostOffer
    do throws(OfferObstacle) { memory = try make(id, fd, what.uses, token) } catch {
      throw VarlinkError("\(buffersInterfaceName).CannotOffer", "reason", .text("\(error)"))
    }
    do throws(OfferError) {
      try table.add(memory, what.metadata, by: owner(caller, connection))
    } catch { throw refusal(error) }
    connection.reply(OfferReply(id: Int(id), size: Int(memory.size)))
  }

  func withdraw(_ what: WithdrawParameters, _ caller: LendingCaller) throws(VarlinkError) {
    guard let offer = table[UInt64(what.id)], concerns(caller, offer) else {
      throw VarlinkError("\(buffersInterfaceName).NoSuchOffer", "", .text(""))
    }
    table.withdraw(offer, patience: .milliseconds(Int64(what.patience)))
  }

  func list(for caller: LendingCaller) -> OffersReply {
    let now = table.now
    return OffersReply(offers: table.all.filter { concerns(caller, $0) }.map { OfferFacts($0, now: now) })
  }

  func watch(_ caller: LendingCaller, _ connection: VarlinkConnection) {
    let watcher = OffersWatcher(table, connection, loop: loop) { [unowned self] offer in
      concerns(caller, offer)
    }
    watchers[ObjectIdentifier(connection)] = watcher
    forgetAtEnd(of: connection)
    connection.beginStream { [weak watcher] in watcher?.proceed() }
    watcher.proceed()
  }

  /// Tells all watchers that this is the end.
  func end() { for watcher in watchers.values { watcher.end() } }

  // MARK: Callers

  /// A process sees its user's offers; root and the helper's user see all.
  private func concerns(_ caller: LendingCaller, _ offer: Offer) -> Bool {
    caller.isTrusted || offer.owner?.user == caller.user
  }

  private func owner(_ caller: LendingCaller, _ connection: VarlinkConnection) -> OfferOwner {
    let id = ObjectIdentifier(connection)
    if let known = owners[id] { return known }
    let owner = OfferOwner(user: caller.user)
    owners[id] = owner
    forgetAtEnd(of: connection)
    return owner
  }

  private func forgetAtEnd(of connection: VarlinkConnection) {
    let id = ObjectIdentifier(connection)
    connection.whenGone(for: self) { [unowned self] in
      watchers[id] = nil
      if let owner = owners.removeValue(forKey: id) { table.end(owner) }
    }
  }

  // MARK: Errors

  private func refusal(_ error: OfferError) -> VarlinkError {
    switch error {
    case .tooLarge(_, let limit): self.error("TooLarge", "limit", Int(clamping: limit))
    case .tooManyOffers(let limit): self.error("TooManyOffers", "limit", limit)
    case .metadataTooLong(_, let limit): self.error("MetadataTooLong", "limit", limit)
    }
  }

  private func error(_ error: String, _ field: StaticString, _ number: Int) -> VarlinkError {
    VarlinkError("\(buffersInterfaceName).\(error)", field, .number(number))
  }
}

// MARK: Parameters

struct OfferParameters: VarlinkParameters {
  static let names = ["fileDescriptor", "token", "metadata", "uses"]
  /// The most blobs of an offer, each of which is a mapping in QEMU.
  private static let mostUses = 224

  let fileDescriptor: Int
  let token: Int?
  let metadata: BufferMetadata
  let uses: Int

  private enum Keys: String, CodingKey { case fileDescriptor, token, metadata, uses }

  init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: Keys.self)
    fileDescriptor = try fields.optionalNumber(.fileDescriptor, in: 0...7) ?? 0
    token = try fields.optionalNumber(.token, in: 0...7)
    metadata = try fields.decodeIfPresent(BufferMetadata.self, forKey: .metadata) ?? BufferMetadata()
    uses = try fields.optionalNumber(.uses, in: 1...Self.mostUses) ?? 1
  }
}

struct WithdrawParameters: VarlinkParameters {
  static let names = ["id", "patience"]
  let id: Int
  /// In milliseconds.
  let patience: Int

  private enum Keys: String, CodingKey { case id, patience }

  init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: Keys.self)
    id = try fields.number(.id, in: exactNumbers)
    patience = try fields.optionalNumber(.patience, in: 0...3_600_000) ?? 1000
  }
}

extension OfferFacts {
  init(_ offer: Offer, now: Instant) {
    let state: State =
      switch offer.state {
      case .offered: .offered
      case .withdrawing: .withdrawing
      case .withdrawn: .withdrawn
      }
    self.init(
      id: Int(clamping: offer.id), state: state, size: Int(offer.memory.size),
      writable: offer.memory.isWritable,
      uses: offer.memory.limit, used: offer.memory.uses,
      patience: offer.timeLeft(now).map { Int($0.milliseconds) }, metadata: offer.metadata)
  }
}
