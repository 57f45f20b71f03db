package import Buffers
package import LendingProtocol
package import Linux

/// A buffer that a guest lends, until its end, or until its last importer has let go.
package final class LentBuffer {
  package enum State: Equatable, Sendable {
    /// Lent. If its lender has asked for a return, that begins at this time.
    case lent(returns: Instant?)
    /// On its way back. Nobody may import it any more; importers may keep it until this time.
    case returning(until: Instant)
    /// Back with its lender; this many importers were cut off, and perhaps a device still reads it.
    case returned(cutOff: Int, isRead: Bool)
    case revoked(RevocationReason)
  }

  package let id: BufferID
  /// Its number, one more than that of the buffer lent before it.
  package let number: Int
  package let place: ResourcePlace
  package let owner: LenderID
  /// The resource's pages, of which `offset` and `size` are a part; nil after its end, when nobody has it.
  package internal(set) var pages: Buffer?
  package internal(set) var request: LendingRequest
  package let born: Instant
  package internal(set) var state = State.lent(returns: nil)
  package internal(set) var imports: [Import] = []
  /// Its lender's access by the CPU.
  package internal(set) var access: AccessMode?
  package internal(set) weak var filler: Import?
  /// The accesses of all its importers by the CPU.
  package var importerAccess: AccessMode? {
    imports.lazy.compactMap(\.access).reduce(nil) { $0 == nil || $0 == $1 ? $1 : .readWrite }
  }
  package internal(set) var lastFill: Fill?
  /// How often it was filled.
  package internal(set) var fills = 0

  /// How long its return waits for importers.
  var patience = TimeSpan.zero
  /// Devices that read it after its last importer; nil before that, or if there are none.
  var reading: DeviceWait?
  /// After a revocation: how long its importers may keep it.
  var cutOff: Instant?
  /// Its audiences; everybody, if its lender has named none.
  let audiences: AudienceSet
  private weak var registry: Registry?

  init(
    _ id: BufferID, number: Int, _ place: ResourcePlace, _ owner: LenderID, _ pages: Buffer,
    _ request: LendingRequest, _ audiences: AudienceSet, born: Instant, registry: Registry
  ) {
    self.number = number
    (self.id, self.place, self.owner, self.pages, self.request) = (id, place, owner, pages, request)
    (self.audiences, self.born, self.registry) = (audiences, born, registry)
  }

  package var isOver: Bool {
    switch state {
    case .lent, .returning: false
    case .returned, .revoked: true
    }
  }

  /// - Parameter memberships: the audiences that the caller is in.
  func admits(_ caller: LendingCaller, _ memberships: AudienceSet) -> Bool {
    caller.isTrusted || request.audiences.isEmpty || !memberships.isDisjoint(with: audiences)
  }

  /// The time of its next change without a call.
  var deadline: Instant? {
    switch state {
    case .lent(let returns): returns
    case .returning(let end): end
    case .returned: nil
    case .revoked: imports.isEmpty ? nil : cutOff
    }
  }
}

extension LentBuffer: Borrower {
  package func pagesAreWanted(isReset: Bool) -> Instant? {
    registry?.revoke(self, isReset ? .deviceReset : .resourceGone)
    return imports.isEmpty ? nil : cutOff
  }

  package func pagesAreGone() {
    registry?.revoke(self, .resourceGone)
    registry?.cutOff(self)
  }
}

/// One importer's use of a buffer.
package final class Import {
  package let buffer: LentBuffer
  package let caller: LendingCaller
  package let forWriting: Bool
  /// Its access by the CPU.
  package internal(set) var access: AccessMode?
  /// Called once when the importer may no longer use the buffer, unless it has let go before.
  package var whenCutOff: (() -> Void)?

  init(_ buffer: LentBuffer, _ caller: LendingCaller, forWriting: Bool) {
    (self.buffer, self.caller, self.forWriting) = (buffer, caller, forWriting)
  }

  package var isOver: Bool { !buffer.imports.contains { $0 === self } }
}
