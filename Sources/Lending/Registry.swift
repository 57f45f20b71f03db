package import Buffers
package import LendingProtocol
package import Linux

/// The buffers that one guest lends: their lenders, their importers, and their ends.
///
/// A buffer is lent, then perhaps on its way back, and in the end returned or revoked (`LentBuffer.State`). The guest's agent
/// sends the requests, and the device has the pages and reports when they go (`Borrower`). The registry knows neither JSON
/// nor sockets.
package final class Registry {
  /// How long importers may keep buffers that are revoked together.
  package static let revocationPatience = TimeSpan.seconds(1)
  /// How long a return waits for importers when a lender goes away.
  package static let lastPatience = TimeSpan.seconds(1)

  package let limits: LendingLimits
  package let audienceNames: [String]
  /// In the order of their names.
  private let audiences: [Audience]
  private let clock: () -> Instant
  private let awaitDevices: (Buffer, _ whenOver: @escaping () -> Void) -> DeviceWait?
  /// Called when `deadline` has changed.
  package var timeHasChanged: () -> Void = {}

  /// The buffers that are lent or on their way back.
  private var buffers: [BufferID: LentBuffer] = [:]
  private var byPlace: [ResourcePlace: LentBuffer] = [:]
  /// The buffers with a deadline, and those that have ended but still have importers.
  private var timed: [BufferID: LentBuffer] = [:]
  private var importCount = 0
  private var session: UInt64 = 0
  private var isInSession = false
  private var revocationTime = RevocationTime(revocationPatience, pause: .seconds(2))
  private var feeds: [LendingFeed] = []
  private var counts = LendingStatistics()

  /// - Parameters:
  ///   - audiences: by the names that guests use for them.
  ///   - awaitDevices: waits for the devices that work on a buffer; nil if there are none.
  package init(
    limits: LendingLimits = LendingLimits(), audiences: [String: Audience] = [:],
    clock: @escaping () -> Instant = { .now },
    awaitDevices: @escaping (Buffer, _ whenOver: @escaping () -> Void) -> DeviceWait? = { _, _ in nil }
  ) {
    precondition(audiences.count <= AudienceSet.mostAudiences, "an audience is a bit")
    (self.limits, self.clock, self.awaitDevices) = (limits, clock, awaitDevices)
    let sorted = audiences.sorted { $0.key < $1.key }
    (audienceNames, self.audiences) = (sorted.map(\.key), sorted.map(\.value))
  }

  /// The present time for all deadlines.
  package var now: Instant { clock() }

  /// The audiences of a caller.
  private func memberships(of caller: LendingCaller) -> AudienceSet {
    audiences.enumerated().reduce(into: []) { set, audience in
      if audience.element.contains(caller) { set.insert(AudienceSet(audience.offset)) }
    }
  }

  // MARK: Sessions

  /// An agent begins a session. All buffers of the session before are revoked.
  /// - Returns: the session's number, for `LenderID`.
  package func beginSession() -> UInt64 {
    endSession()
    session += 1
    isInSession = true
    return session
  }

  package func endSession() {
    guard isInSession else { return }
    isInSession = false
    for buffer in buffers.values { revoke(buffer, .sessionEnded) }
  }

  // MARK: Lenders

  /// Lends a part of a resource. If this lender has lent the same part already, this cancels its return, and replaces its
  /// metadata.
  /// - Parameter pages: the resource's own pages, with a dma-buf.
  package func lend(
    _ request: LendingRequest, of pages: Buffer, at place: ResourcePlace, by owner: LenderID
  ) throws(LendingError) -> BufferID {
    precondition(pages.dmabuf != nil, "a copy cannot be lent")
    try check(request.metadata)
    let (end, isBeyond) = request.offset.addingReportingOverflow(request.size)
    guard request.size > 0, !isBeyond, end <= pages.size else {
      throw .outOfRange(offset: request.offset, size: request.size, of: pages.size)
    }
    if let buffer = byPlace[place] { return try lendAgain(buffer, request, by: owner) }
    guard request.audiences.count <= LendingLimits.audiences else {
      throw .tooManyAudiences(limit: LendingLimits.audiences)
    }
    var targets: AudienceSet = []
    for name in request.audiences {
      guard let index = audienceNames.firstIndex(of: name) else { throw .noSuchAudience(name) }
      targets.insert(AudienceSet(index))
    }
    guard buffers.count < limits.buffers else { throw .tooManyBuffers(limit: limits.buffers) }
    let buffer = LentBuffer(
      .random(), number: counts.lent, place, owner, pages, request, targets, born: clock(), registry: self)
    (buffers[buffer.id], byPlace[place]) = (buffer, buffer)
    pages.add(buffer)
    counts.lent += 1
    tell(buffer, .lent)
    return buffer.id
  }

  private func lendAgain(
    _ buffer: LentBuffer, _ request: LendingRequest, by owner: LenderID
  ) throws(LendingError) -> BufferID {
    var same = request
    same.metadata = buffer.request.metadata
    guard buffer.owner == owner, same == buffer.request, buffer.state != .lent(returns: nil) else {
      throw .alreadyLent(buffer.place)
    }
    buffer.state = .lent(returns: nil)
    buffer.reading = nil
    note(buffer)
    buffer.request.metadata = request.metadata
    tell(buffer, [.lent, .metadata])
    return buffer.id
  }

  package func setMetadata(_ metadata: BufferMetadata, of id: BufferID, by owner: LenderID)
    throws(LendingError)
  {
    let buffer = try find(id, of: owner)
    try check(metadata)
    buffer.request.metadata = metadata
    tell(buffer, .metadata)
  }

  /// Begins to take a buffer back after `delay`.
  /// - Parameter patience: how long the return then waits for importers.
  package func takeBack(
    _ id: BufferID, by owner: LenderID, after delay: TimeSpan, patience: TimeSpan
  ) throws(LendingError) {
    let buffer = try find(id, of: owner)
    buffer.patience = patience
    if case .returning(let end) = buffer.state {
      // The return has begun, and can only end sooner.
      buffer.state = .returning(until: min(end, clock() + patience))
      return note(buffer)
    }
    if delay > .zero {
      buffer.state = .lent(returns: clock() + delay)
      note(buffer)
    } else {
      beginReturn(buffer)
    }
  }

  /// The lender is gone: all its buffers go back.
  package func endLender(_ owner: LenderID) {
    for buffer in buffers.values where buffer.owner == owner {
      try? takeBack(buffer.id, by: owner, after: .zero, patience: Self.lastPatience)
    }
  }

  package func beginAccess(_ mode: AccessMode, to id: BufferID, by owner: LenderID) throws(LendingError) {
    let buffer = try find(id, of: owner)
    buffer.access = mode
    tell(buffer, .accessBegun)
  }

  package func endAccess(to id: BufferID, by owner: LenderID) throws(LendingError) {
    let buffer = try find(id, of: owner)
    guard buffer.access.take() != nil else { return }
    tell(buffer, .accessEnded)
  }

  private func find(_ id: BufferID, of owner: LenderID) throws(LendingError) -> LentBuffer {
    guard let buffer = buffers[id], buffer.owner == owner else { throw .noSuchBuffer }
    return buffer
  }

  private func check(_ metadata: BufferMetadata) throws(LendingError) {
    if metadata.size > limits.metadata { throw .metadataTooLong(metadata.size, limit: limits.metadata) }
  }

  // MARK: How a buffer ends

  private func beginReturn(_ buffer: LentBuffer) {
    buffer.state = .returning(until: clock() + buffer.patience)
    tell(buffer, .returning)
    proceedWithReturn(buffer)
  }

  /// Ends a return whose importers and devices have let go.
  private func proceedWithReturn(_ buffer: LentBuffer) {
    guard case .returning = buffer.state else { return }
    if buffer.imports.isEmpty {
      // Importers give their devices work before they let go, so the devices are looked at now.
      if buffer.reading == nil, let pages = buffer.pages {
        buffer.reading = awaitDevices(pages) { [weak self, weak buffer] in
          if let self, let buffer { proceedWithReturn(buffer) }
        }
      }
      if buffer.reading?.isOver != false { return end(buffer, .returned(cutOff: 0, isRead: false)) }
    }
    note(buffer)
  }

  /// The pages or the lender go away. Importers are told at once, and have `revocationPatience` to let go.
  func revoke(_ buffer: LentBuffer, _ reason: RevocationReason) {
    if buffer.isOver { return }
    if !buffer.imports.isEmpty { buffer.cutOff = revocationTime.begin(clock()) }
    end(buffer, .revoked(reason))
  }

  /// Cuts importers off, which ends a return.
  func cutOff(_ buffer: LentBuffer) {
    let late = buffer.imports
    buffer.imports = []
    counts.cutOff += late.count
    if case .returning = buffer.state { end(buffer, .returned(cutOff: late.count, isRead: isRead(buffer))) }
    end(late, of: buffer)
    // The state is complete by then, because these calls may use the registry.
    for late in late { late.whenCutOff.take()?() }
  }

  /// Whether a device works on the pages, for any process.
  private func isRead(_ buffer: LentBuffer) -> Bool {
    if let reading = buffer.reading { return !reading.isOver }
    return buffer.pages.flatMap { awaitDevices($0) {} } != nil
  }

  private func end(_ buffer: LentBuffer, _ state: LentBuffer.State) {
    buffer.state = state
    buffer.reading = nil
    (buffers[buffer.id], byPlace[buffer.place]) = (nil, nil)
    if case .returned = state { counts.returned += 1 } else { counts.revoked += 1 }
    tell(buffer, .over)
    // Slow listeners keep the rest until they hear of the end.
    buffer.request.metadata = BufferMetadata()
    letGoOfPages(of: buffer)
    note(buffer)
  }

  private func letGoOfPages(of buffer: LentBuffer) {
    if buffer.isOver, buffer.imports.isEmpty { buffer.pages.take()?.remove(buffer) }
  }

  // MARK: Time

  /// When `expire` must be called; nil if nothing waits.
  package var deadline: Instant? { timed.values.lazy.compactMap(\.deadline).min() }

  package func expire() {
    let now = clock()
    for buffer in Array(timed.values) where buffer.deadline.map({ $0 <= now }) ?? false {
      switch buffer.state {
      case .lent: beginReturn(buffer)
      case .returning, .returned, .revoked: cutOff(buffer)
      }
    }
  }

  private func note(_ buffer: LentBuffer) {
    let (wasTimed, isTimed) = (timed[buffer.id] != nil, buffer.deadline != nil)
    timed[buffer.id] = isTimed ? buffer : nil
    if wasTimed || isTimed { timeHasChanged() }
  }

  // MARK: Importers

  /// The buffers that a caller may import, the oldest first.
  package func list(for caller: LendingCaller) -> [LentBuffer] {
    let memberships = memberships(of: caller)
    return buffers.values.filter { $0.admits(caller, memberships) }.sorted { $0.number < $1.number }
  }

  /// The buffer of this id, if the caller may import it.
  package func find(_ id: BufferID, for caller: LendingCaller) throws(LendingError) -> LentBuffer {
    // The slow part comes first: a wrong id and a forbidden one take the same path, so a caller cannot measure a difference.
    let memberships = memberships(of: caller)
    guard let buffer = buffers[id], buffer.admits(caller, memberships) else { throw .noSuchBuffer }
    return buffer
  }

  /// Begins a use of the buffer, which lasts until `release` or the cut-off. The pages are `pages.dmabuf`.
  package func importBuffer(
    _ id: BufferID, for caller: LendingCaller, forWriting: Bool
  ) throws(LendingError) -> Import {
    let buffer = try find(id, for: caller)
    if case .returning = buffer.state { throw .isReturning }
    guard importCount < limits.imports else { throw .tooManyImports(limit: limits.imports) }
    let new = Import(buffer, caller, forWriting: forWriting)
    buffer.imports.append(new)
    importCount += 1
    counts.imported += 1
    tell(buffer, .importers)
    return new
  }

  /// The importer has let go.
  package func release(_ old: Import) {
    if old.isOver { return }
    old.whenCutOff = nil
    old.buffer.imports.removeAll { $0 === old }
    end(CollectionOfOne(old), of: old.buffer)
    proceedWithReturn(old.buffer)
  }

  /// The importer keeps the buffer, but can no longer end its fill or its access.
  package func abandon(_ user: Import) {
    if user.buffer.filler === user {
      user.buffer.filler = nil
      tell(user.buffer, .fillAborted)
    }
    endAccess(by: user)
  }

  /// Removes these imports from the buffer.
  private func end(_ old: some Collection<Import>, of buffer: LentBuffer) {
    if old.isEmpty { return }
    importCount -= old.count
    if case .revoked = buffer.state, buffer.imports.isEmpty { revocationTime.finish(clock()) }
    var news = LendingNews.importers
    if let filler = buffer.filler, filler.isOver {
      buffer.filler = nil
      news.insert(.fillAborted)
    }
    if buffer.importerAccess == nil, old.contains(where: { $0.access != nil }) {
      news.insert(.importerAccessEnded)
    }
    tell(buffer, news)
    letGoOfPages(of: buffer)
    note(buffer)
  }

  package func beginAccess(_ mode: AccessMode, by user: Import) {
    if user.isOver { return }
    user.access = mode
    tell(user.buffer, .importerAccessBegun)
  }

  package func endAccess(by user: Import) {
    if user.isOver || user.access.take() == nil || user.buffer.importerAccess != nil { return }
    tell(user.buffer, .importerAccessEnded)
  }

  /// Begins to fill a buffer that was lent for that: one importer at a time.
  package func beginFill(by user: Import) throws(LendingError) {
    let buffer = user.buffer
    if user.isOver || buffer.isOver { throw .noSuchBuffer }
    guard buffer.request.use == .fill else { throw .notForFilling }
    guard case .lent = buffer.state else { throw .isReturning }
    guard buffer.filler == nil || buffer.filler === user else { throw .filledByAnother }
    buffer.filler = user
  }

  package func endFill(_ fill: Fill, by user: Import) throws(LendingError) {
    let buffer = user.buffer
    if buffer.isOver { throw .noSuchBuffer }
    guard buffer.filler === user else { throw .notFilling }
    guard fill.bytesUsed <= buffer.request.size else {
      throw .outOfRange(offset: 0, size: fill.bytesUsed, of: buffer.request.size)
    }
    if let metadata = fill.metadata { try check(metadata) }
    buffer.filler = nil
    buffer.lastFill = fill
    buffer.fills += 1
    tell(buffer, .filled)
  }

  // MARK: Listeners

  /// Adds a listener for all news from now on.
  package func add(_ feed: LendingFeed) {
    feeds.append(feed)
    if case .importer(let caller) = feed.audience {
      feed.memberships = memberships(of: caller)
      for buffer in buffers.values.sorted(by: { $0.number < $1.number }) { feed.note(buffer, .lent) }
    }
  }

  package func remove(_ feed: LendingFeed) { feeds.removeAll { $0 === feed } }

  /// The end of a buffer is the last news of it.
  private func tell(_ buffer: LentBuffer, _ news: LendingNews) {
    if buffer.isOver, news != .over { return }
    for feed in feeds { feed.note(buffer, news) }
  }

  package var statistics: LendingStatistics {
    var now = counts
    (now.buffers, now.imports, now.watchers) = (buffers.count, importCount, feeds.count)
    return now
  }
}
