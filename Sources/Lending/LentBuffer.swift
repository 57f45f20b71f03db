package import Buffers
package import LendingProtocol
package import Linux

/// A buffer that a guest lends, as long as it is lent or somebody still has it.
package final class LentBuffer {
  package enum State: Equatable, Sendable {
    /// At this time its return begins, if its lender has asked for that.
    case lent(returns: Instant?)
    /// Nobody may import it any more; who has it may keep it until then.
    case returning(until: Instant)
    /// Back with its lender: this many importers had not let go, and a device still reads it.
    case returned(cutOff: Int, isRead: Bool)
    case revoked(RevocationReason)
  }

  package let id: BufferID
  /// One more than that of the buffer that was lent before it.
  package let number: Int
  package let place: ResourcePlace
  package let owner: LenderID
  /// The resource's pages, of which `offset` and `size` are a part; nil when it is over and nobody has it.
  package internal(set) var pages: Buffer?
  package internal(set) var request: LendingRequest
  package let born: Instant
  package internal(set) var state = State.lent(returns: nil)
  package internal(set) var imports: [Import] = []
  /// What its lender does with it by the CPU.
  package internal(set) var access: AccessMode?
  package internal(set) weak var filler: Import?
  /// What its importers do with it by the CPU, all of them together.
  package var importerAccess: AccessMode? {
    imports.lazy.compactMap(\.access).reduce(nil) { $0 == nil || $0 == $1 ? $1 : .readWrite }
  }
  package internal(set) var lastFill: Fill?
  /// How often it was filled.
  package internal(set) var fills = 0

  /// How long its importers are waited for once its return begins.
  var patience = TimeSpan.zero
  /// Devices that read it after its last importer; nil before that, or if there are none.
  var reading: DeviceWait?
  /// Once it was revoked: until when those who had imported it then may keep it.
  var cutOff: Instant?
  /// To whom it is lent; to everybody, if its lender has named nobody.
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

  /// When something is to be done about it without a word from anybody.
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
  /// What it does with the buffer by the CPU.
  package internal(set) var access: AccessMode?
  /// It may not use the buffer any more: runs once, unless the importer has let go before.
  package var whenCutOff: (() -> Void)?

  init(_ buffer: LentBuffer, _ caller: LendingCaller, forWriting: Bool) {
    (self.buffer, self.caller, self.forWriting) = (buffer, caller, forWriting)
  }

  package var isOver: Bool { !buffer.imports.contains { $0 === self } }
}
