internal import Buffers
package import Lending
internal import LendingProtocol
package import Linux
internal import SystemPackage
internal import Udmabuf
package import Varlink

/// `io.udmabridge.Buffers`, by which other processes get the buffers that a guest lends.
package final class BuffersInterface: VarlinkInterface {
  package let name = buffersInterfaceName
  package let description = buffersDescription

  private let registry: Registry
  private let watchers: WatcherLimit
  private let shares: UserShares
  private let loop: EventLoop
  /// Nil if the guest cannot have memory of the host.
  private let offers: OffersService?
  /// Asks who is at the other end of a connection.
  var identify: (VarlinkConnection) -> PeerCredentials = { $0.peer }
  private var importers: [ObjectIdentifier: BuffersImporter] = [:]
  /// The holds by their imports. They may outlive their connections.
  private var holds: [ObjectIdentifier: BufferHold] = [:]

  /// The descriptors that it may need besides those of its connections: one end of a pipe for each import; for an import
  /// that is being made also the other end, and the dma-buf.
  /// - Parameter limits: the registry's.
  package static func descriptors(_ limits: LendingLimits) -> Int { limits.imports + 2 }

  /// Descriptors that wait for a caller who does not read, on each connection.
  package static let descriptorsPerConnection = 2

  package init(
    _ registry: Registry, _ offers: OffersService? = nil,
    watchers: WatcherLimit = WatcherLimit(VarlinkServer.connectionLimit), loop: EventLoop
  ) {
    (self.registry, self.offers, self.watchers, self.loop) = (registry, offers, watchers, loop)
    shares = UserShares(registry.limits.imports)
  }

  // MARK: Parameters

  private struct WhichBuffer: VarlinkParameters {
    static let names = ["id"]
    let id: BufferID
  }

  private struct WhatImport: VarlinkParameters {
    static let names = ["id", "forWriting"]
    let id: BufferID
    let forWriting: Bool?
  }

  private struct WhatAccess: VarlinkParameters {
    static let names = ["id", "mode"]
    let id: BufferID
    let mode: AccessMode
  }

  private struct WhatFill: VarlinkParameters {
    static let names = ["id", "bytesUsed", "timestamp", "metadata"]
    let id: BufferID
    let fill: Fill

    private enum Keys: String, CodingKey { case id, bytesUsed, timestamp, metadata }

    init(from decoder: any Decoder) throws {
      let fields = try decoder.container(keyedBy: Keys.self)
      id = try fields.decode(BufferID.self, forKey: .id)
      fill = Fill(
        bytesUsed: UInt64(try fields.number(.bytesUsed, in: exactNumbers)),
        timestamp: try fields.decodeIfPresent(Int.self, forKey: .timestamp),
        metadata: try fields.decodeIfPresent(BufferMetadata.self, forKey: .metadata))
    }
  }

  // MARK: Methods

  package func handle(
    _ method: String, _ call: VarlinkCall, from connection: VarlinkConnection
  ) throws(VarlinkError) {
    let importer = importer(connection)
    switch method {
    case "List":
      _ = try call.parameters(EmptyObject.self)
      let now = registry.now
      connection.reply(
        BuffersReply(buffers: registry.list(for: importer.caller).map { BufferFacts($0, now: now) }))
    case "Query":
      let buffer = try find(try call.parameters(WhichBuffer.self).id, importer)
      connection.reply(
        QueryReply(buffer, now: registry.now, showsImporters: importer.caller.isTrusted))
    case "Import":
      let what = try call.parameters(WhatImport.self)
      try importBuffer(what.id, forWriting: what.forWriting ?? false, importer, connection)
    case "Release":
      let id = try call.parameters(WhichBuffer.self).id
      guard let use = importer.newest(id) else { throw try notImported(id, importer) }
      end(use)
      registry.release(use)
      connection.reply(EmptyObject())
    case "BeginAccess":
      let what = try call.parameters(WhatAccess.self)
      registry.beginAccess(what.mode, by: try use(what.id, importer))
      connection.reply(EmptyObject())
    case "EndAccess":
      registry.endAccess(by: try use(try call.parameters(WhichBuffer.self).id, importer))
      connection.reply(EmptyObject())
    case "Fill":
      let use = try use(try call.parameters(WhichBuffer.self).id, importer)
      try asked { () throws(LendingError) in try registry.beginFill(by: use) }
      connection.reply(EmptyObject())
    case "Filled":
      let what = try call.parameters(WhatFill.self)
      let use = try use(what.id, importer)
      try asked { () throws(LendingError) in try registry.endFill(what.fill, by: use) }
      connection.reply(EmptyObject())
    case "Watch":
      _ = try call.parameters(EmptyObject.self)
      // A caller that wants no reply cannot get events.
      guard call.wantsMore, !call.isOneway else { throw .expectedMore }
      if let limit = watchers.add(connection) { throw error("TooManyWatchers", "limit", limit) }
      let watcher = BuffersWatcher(registry, importer.caller, connection, loop: loop)
      importer.watcher = watcher
      connection.beginStream { [weak watcher] in watcher?.proceed() }
      watcher.proceed()
    case "Offer", "Withdraw", "ListOffers", "WatchOffers":
      try handleOffers(method, call, importer.caller, connection)
    default: throw .methodNotFound(call.method)
    }
  }

  /// The methods about what the host offers.
  private func handleOffers(
    _ method: String, _ call: VarlinkCall, _ caller: LendingCaller, _ connection: VarlinkConnection
  ) throws(VarlinkError) {
    guard let offers else { throw error("NoSharedMemory") }
    switch method {
    case "Offer": try offers.offer(try call.parameters(), caller, connection)
    case "Withdraw":
      try offers.withdraw(try call.parameters(), caller)
      connection.reply(EmptyObject())
    case "ListOffers":
      _ = try call.parameters(EmptyObject.self)
      connection.reply(offers.list(for: caller))
    default:
      _ = try call.parameters(EmptyObject.self)
      guard call.wantsMore, !call.isOneway else { throw .expectedMore }
      if let limit = watchers.add(connection) { throw error("TooManyWatchers", "limit", limit) }
      offers.watch(caller, connection)
    }
  }

  private func importBuffer(
    _ id: BufferID, forWriting: Bool, _ importer: BuffersImporter, _ connection: VarlinkConnection
  ) throws(VarlinkError) {
    let caller = importer.caller
    // A wrong id and a forbidden one fail here, before anything else is checked.
    _ = try find(id, importer)
    if let reached = shares.reached(by: caller.user, beside: holds.values.map(\.use.caller.user)) {
      throw error("TooManyImports", "limit", reached.limit)
    }
    let use = try asked { () throws(LendingError) in
      try registry.importBuffer(id, for: caller, forWriting: forWriting)
    }
    guard let dmabuf = use.buffer.pages?.dmabuf else { preconditionFailure("what is lent has a dma-buf") }
    do throws(Errno) {
      let fd = try dmabuf.withSharedDescriptor { fd throws(Errno) in try fd.duplicate() }
      let token = try makePipe { fd throws(Errno) in
        holds[ObjectIdentifier(use)] = try BufferHold(use, fd, loop: loop) { [unowned self, unowned use] in
          end(use)
          registry.release(use)
        }
      }
      importer.add(use)
      use.whenCutOff = { [unowned self, unowned use] in end(use) }
      let buffer = use.buffer
      let reply = ImportReply(
        buffer: BufferFacts(buffer, now: registry.now), metadata: buffer.request.metadata, fileDescriptor: 0,
        token: 1)
      connection.reply(reply, passing: fd, token)
    } catch {
      registry.release(use)
      throw self.error("NoDescriptor", "errno", Int(error.rawValue))
    }
  }

  /// Forgets an import, and shows the holders of its token that it is over.
  private func end(_ use: Import) {
    holds[ObjectIdentifier(use)] = nil
    for importer in importers.values { importer.remove(use) }
  }

  // MARK: Callers

  private func importer(_ connection: VarlinkConnection) -> BuffersImporter {
    let id = ObjectIdentifier(connection)
    if let known = importers[id] { return known }
    let peer = identify(connection)
    let importer = BuffersImporter(peer, isTrusted: shares.isTrusted(peer.user))
    importers[id] = importer
    connection.whenGone(for: self) { [unowned self] in
      // Its imports last as long as their tokens, but nobody can end their fills and accesses any more.
      for use in importers.removeValue(forKey: id)?.uses ?? [] { registry.abandon(use) }
    }
    return importer
  }

  private func find(_ id: BufferID, _ importer: BuffersImporter) throws(VarlinkError) -> LentBuffer {
    try asked { () throws(LendingError) in try registry.find(id, for: importer.caller) }
  }

  private func use(_ id: BufferID, _ importer: BuffersImporter) throws(VarlinkError) -> Import {
    guard let use = importer.oldest(id), !use.buffer.isOver else { throw try notImported(id, importer) }
    return use
  }

  /// - Throws: `NoSuchBuffer`, also if the caller must not know of the buffer.
  private func notImported(_ id: BufferID, _ importer: BuffersImporter) throws(VarlinkError) -> VarlinkError {
    _ = try find(id, importer)
    return error("NotImported")
  }

  /// Tells all watchers that this is the end.
  package func end() {
    for importer in importers.values { importer.watcher?.end() }
    offers?.end()
  }

  // MARK: Errors

  private func asked<Answer>(_ body: () throws(LendingError) -> Answer) throws(VarlinkError) -> Answer {
    do throws(LendingError) { return try body() } catch {
      switch error {
      case .noSuchBuffer: throw self.error("NoSuchBuffer")
      case .isReturning: throw self.error("IsReturning")
      case .notForFilling: throw self.error("NotForFilling")
      case .filledByAnother: throw self.error("FilledByAnother")
      case .notFilling: throw self.error("NotFilling")
      case .outOfRange(_, _, let size): throw self.error("OutOfRange", "limit", Int(clamping: size))
      case .metadataTooLong(_, let limit): throw self.error("MetadataTooLong", "limit", limit)
      case .tooManyImports(let limit): throw self.error("TooManyImports", "limit", limit)
      case .alreadyLent, .noSuchAudience, .tooManyAudiences, .tooManyBuffers:
        preconditionFailure("an importer does not lend: \(error)")
      }
    }
  }

  private func error(_ error: String) -> VarlinkError { VarlinkError("\(name).\(error)", "", .text("")) }

  private func error(_ error: String, _ field: StaticString, _ number: Int) -> VarlinkError {
    VarlinkError("\(name).\(error)", field, .number(number))
  }
}
