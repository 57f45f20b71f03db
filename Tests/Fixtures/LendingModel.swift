package import Lending
package import LendingProtocol
package import Linux

/// What a registry of lent buffers has to do, in as few words as can be: every buffer that there ever was, and one function for each
/// thing that may happen. It knows nothing of how a registry does that.
package final class LendingModel {
  package typealias State = LentBuffer.State

  package final class Use {
    package let number: Int
    package let caller: LendingCaller
    package internal(set) var access: AccessMode?
    package internal(set) var isCutOff = false

    init(_ number: Int, _ caller: LendingCaller) { (self.number, self.caller) = (number, caller) }
  }

  package final class Lent {
    package let id: BufferID
    package let place: ResourcePlace
    package let owner: LenderID
    package internal(set) var request: LendingRequest
    package internal(set) var state = State.lent(returns: nil)
    package internal(set) var uses: [Use] = []
    package internal(set) var access: AccessMode?
    package internal(set) var filler: Use?
    package internal(set) var fills = 0
    /// How often its metadata changed, and how often a filler went away and after how many fills.
    var (metadataChanges, aborts, lastAbort) = (0, 0, 0)
    var patience = TimeSpan.zero
    var cutOff: Instant?

    init(_ id: BufferID, _ place: ResourcePlace, _ owner: LenderID, _ request: LendingRequest) {
      (self.id, self.place, self.owner, self.request) = (id, place, owner, request)
    }

    package var isOver: Bool {
      switch state {
      case .lent, .returning: false
      case .returned, .revoked: true
      }
    }
    var isReturning: Bool { if case .returning = state { true } else { false } }
    var deadline: Instant? {
      switch state {
      case .lent(let returns): returns
      case .returning(let end): end
      case .returned: nil
      case .revoked: uses.isEmpty ? nil : cutOff
      }
    }
  }

  package internal(set) var now = Instant.now
  package private(set) var all: [Lent] = []
  /// Where devices work on the pages.
  package var reading: Set<ResourcePlace> = []
  package private(set) var counts = (lent: 0, imported: 0, returned: 0, revoked: 0, cutOff: 0)
  private let limits: LendingLimits
  private let audiences: [String: Audience]
  /// Of the second for all that is revoked together: what is spent, and since when somebody is waited for.
  private var (spent, since, lastWait) = (TimeSpan.zero, Instant?.none, Instant?.none)

  package init(_ limits: LendingLimits, _ audiences: [String: Audience]) {
    (self.limits, self.audiences) = (limits, audiences)
  }

  package var live: [Lent] { all.filter { !$0.isOver } }
  package var uses: [(Lent, Use)] { all.flatMap { lent in lent.uses.map { (lent, $0) } } }
  package var deadline: Instant? { all.compactMap(\.deadline).min() }

  package func admits(_ caller: LendingCaller, to lent: Lent) -> Bool {
    caller.isTrusted || lent.request.audiences.isEmpty
      || lent.request.audiences.contains {
        audiences[$0]!.users.contains(caller.user) || !audiences[$0]!.groups.isDisjoint(with: caller.groups)
      }
  }

  // MARK: Lenders

  /// - Returns: what stands against it; nil if it is lent, and the buffer that is there already, if there is one.
  package func lend(
    _ request: LendingRequest, of size: UInt64, at place: ResourcePlace, by owner: LenderID
  ) -> (LendingError?, Lent?) {
    if request.metadata.size > limits.metadata { return (tooLong(request.metadata), nil) }
    if request.size == 0 || request.offset > size || request.size > size - request.offset {
      return (.outOfRange(offset: request.offset, size: request.size, of: size), nil)
    }
    if let old = live.first(where: { $0.place == place }) {
      var same = request
      same.metadata = old.request.metadata
      guard old.owner == owner, same == old.request, old.state != .lent(returns: nil) else {
        return (.alreadyLent(place), nil)
      }
      old.state = .lent(returns: nil)
      old.request = request
      old.metadataChanges += 1
      return (nil, old)
    }
    if request.audiences.count > 16 { return (.tooManyAudiences(limit: 16), nil) }
    if let unknown = request.audiences.first(where: { audiences[$0] == nil }) {
      return (.noSuchAudience(unknown), nil)
    }
    return (live.count >= limits.buffers ? .tooManyBuffers(limit: limits.buffers) : nil, nil)
  }

  package func add(
    _ id: BufferID, _ place: ResourcePlace, _ owner: LenderID, _ request: LendingRequest
  ) -> Lent {
    all.append(Lent(id, place, owner, request))
    counts.lent += 1
    return all.last!
  }

  private func tooLong(_ metadata: BufferMetadata) -> LendingError {
    .metadataTooLong(metadata.size, limit: limits.metadata)
  }

  private func isOf(_ lent: Lent, _ owner: LenderID) -> Bool { !lent.isOver && lent.owner == owner }

  package func setMetadata(_ metadata: BufferMetadata, of lent: Lent, by owner: LenderID) -> LendingError? {
    if !isOf(lent, owner) { return .noSuchBuffer }
    if metadata.size > limits.metadata { return tooLong(metadata) }
    lent.request.metadata = metadata
    lent.metadataChanges += 1
    return nil
  }

  package func takeBack(
    _ lent: Lent, by owner: LenderID, after delay: TimeSpan, patience: TimeSpan
  ) -> LendingError? {
    if !isOf(lent, owner) { return .noSuchBuffer }
    lent.patience = patience
    if case .returning(let end) = lent.state {
      lent.state = .returning(until: min(end, now + patience))
    } else if delay > .zero {
      lent.state = .lent(returns: now + delay)
    } else {
      beginReturn(lent)
    }
    return nil
  }

  private func beginReturn(_ lent: Lent) {
    lent.state = .returning(until: now + lent.patience)
    endReturnIfFree(lent)
  }

  private func endReturnIfFree(_ lent: Lent) {
    if lent.isReturning, lent.uses.isEmpty, !reading.contains(lent.place) {
      end(lent, .returned(cutOff: 0, isRead: false))
    }
  }

  package func endLender(_ owner: LenderID) {
    for lent in live where lent.owner == owner {
      _ = takeBack(lent, by: owner, after: .zero, patience: .seconds(1))
    }
  }

  package func setAccess(_ mode: AccessMode?, to lent: Lent, by owner: LenderID) -> LendingError? {
    if !isOf(lent, owner) { return .noSuchBuffer }
    lent.access = mode
    return nil
  }

  // MARK: Ends

  private func end(_ lent: Lent, _ state: State) {
    lent.state = state
    if case .returned = state { counts.returned += 1 } else { counts.revoked += 1 }
  }

  package func revoke(_ lent: Lent, _ reason: RevocationReason) {
    if lent.isOver { return }
    end(lent, .revoked(reason))
    if lent.uses.isEmpty { return }
    if since == nil {
      if lastWait.map({ now - $0 > .seconds(2) }) ?? true { spent = .zero }
      since = now
    }
    lent.cutOff = since! + (.seconds(1) - spent)
  }

  package func revokeAll(_ reason: RevocationReason) { for lent in live { revoke(lent, reason) } }

  package func pagesAreGone(_ buffers: [Lent]) {
    for lent in buffers {
      revoke(lent, .resourceGone)
      cutOff(lent)
    }
  }

  /// Devices that work on these pages are done.
  package func finishReading(_ place: ResourcePlace) {
    reading.remove(place)
    for lent in live where lent.place == place { endReturnIfFree(lent) }
  }

  package func expire() {
    for lent in all where lent.deadline.map({ $0 <= now }) ?? false {
      if case .lent = lent.state { beginReturn(lent) } else { cutOff(lent) }
    }
  }

  private func cutOff(_ lent: Lent) {
    let late = lent.uses
    counts.cutOff += late.count
    if lent.isReturning { end(lent, .returned(cutOff: late.count, isRead: reading.contains(lent.place))) }
    for use in late {
      use.isCutOff = true
      remove(use, from: lent)
    }
  }

  // MARK: Importers

  package func importBuffer(_ lent: Lent, by caller: LendingCaller) -> LendingError? {
    if lent.isOver || !admits(caller, to: lent) { return .noSuchBuffer }
    if lent.isReturning { return .isReturning }
    if uses.count >= limits.imports { return .tooManyImports(limit: limits.imports) }
    lent.uses.append(Use(counts.imported, caller))
    counts.imported += 1
    return nil
  }

  package func release(_ use: Use, of lent: Lent) {
    remove(use, from: lent)
    endReturnIfFree(lent)
  }

  private func remove(_ use: Use, from lent: Lent) {
    lent.uses.removeAll { $0 === use }
    if lent.filler === use {
      lent.filler = nil
      (lent.aborts, lent.lastAbort) = (lent.aborts + 1, lent.fills)
    }
    // Once the last one of all that is revoked has gone, nobody is waited for.
    guard case .revoked = lent.state, let began = since else { return }
    if all.contains(where: { if case .revoked = $0.state { !$0.uses.isEmpty } else { false } }) { return }
    spent = min(.seconds(1), spent + (now - began))
    (since, lastWait) = (nil, now)
  }

  package func setAccess(_ mode: AccessMode?, of use: Use) { use.access = mode }

  package func beginFill(by use: Use, of lent: Lent) -> LendingError? {
    if lent.isOver { return .noSuchBuffer }
    if lent.request.use != .fill { return .notForFilling }
    if lent.isReturning { return .isReturning }
    if let filler = lent.filler, filler !== use { return .filledByAnother }
    lent.filler = use
    return nil
  }

  package func endFill(_ fill: Fill, by use: Use, of lent: Lent) -> LendingError? {
    if lent.isOver { return .noSuchBuffer }
    if lent.filler !== use { return .notFilling }
    if fill.bytesUsed > lent.request.size {
      return .outOfRange(offset: 0, size: fill.bytesUsed, of: lent.request.size)
    }
    lent.filler = nil
    lent.fills += 1
    return nil
  }
}
