package import LendingProtocol

/// For whom a buffer is lent: a session of the guest's agent, and the agent's own number for its client.
package struct LenderID: Hashable, Sendable {
  package let session: UInt64
  package let number: Int
  package init(session: UInt64, number: Int) { (self.session, self.number) = (session, number) }
}

/// A resource of the guest, which has this number until its device starts anew.
package struct ResourcePlace: Hashable, Sendable {
  package let device: Int
  /// Another one after each start of the device.
  package let epoch: UInt64
  package let resource: UInt32
  package init(device: Int, epoch: UInt64, resource: UInt32) {
    (self.device, self.epoch, self.resource) = (device, epoch, resource)
  }
}

/// A part of the host's users, by the name that guests know it by.
package struct Audience: Sendable {
  package var users: Set<UInt32>
  package var groups: Set<UInt32>
  package init(users: Set<UInt32> = [], groups: Set<UInt32> = []) {
    (self.users, self.groups) = (users, groups)
  }

  func contains(_ caller: LendingCaller) -> Bool {
    users.contains(caller.user) || !groups.isDisjoint(with: caller.groups)
  }
}

/// Some of a registry's audiences, by their places among the sorted names.
struct AudienceSet: OptionSet {
  let rawValue: UInt64
  static let mostAudiences = 64
}

extension AudienceSet {
  /// One alone.
  init(_ index: Int) { self.init(rawValue: 1 << UInt64(index)) }
}

/// Who asks on the host.
package struct LendingCaller: Sendable {
  package let pid: Int32
  package let user: UInt32
  package let groups: Set<UInt32>
  /// Root or this process's own user, who see everything.
  package let isTrusted: Bool
  package init(pid: Int32, user: UInt32, groups: Set<UInt32>, isTrusted: Bool) {
    (self.pid, self.user, self.groups, self.isTrusted) = (pid, user, groups, isTrusted)
  }
}

/// What a guest may have lent at once, and others may make of it.
package struct LendingLimits: Equatable, Sendable {
  package var buffers = 1000
  /// Bytes of metadata of one buffer.
  package var metadata = 4096
  /// Imports of all buffers at once.
  package var imports = 256
  /// Names in `to`.
  package static let audiences = 16
  package init() {}
}

/// What a lender asks for.
package struct LendingRequest: Equatable, Sendable {
  /// The lent bytes: where they begin in the resource, and how many.
  package var offset, size: UInt64
  package var use: BufferUse
  /// Names of audiences; none: whoever may use the control socket.
  package var audiences: [String]
  package var metadata: BufferMetadata
  package init(
    offset: UInt64, size: UInt64, use: BufferUse = .read, audiences: [String] = [],
    metadata: BufferMetadata = BufferMetadata()
  ) {
    (self.offset, self.size, self.use) = (offset, size, use)
    (self.audiences, self.metadata) = (audiences, metadata)
  }
}

/// What an importer has written into a buffer that was lent to be filled.
package struct Fill: Equatable, Sendable {
  package var bytesUsed: UInt64
  /// In nanoseconds of the filler's clock.
  package var timestamp: Int?
  package var metadata: BufferMetadata?
  package init(bytesUsed: UInt64, timestamp: Int? = nil, metadata: BufferMetadata? = nil) {
    (self.bytesUsed, self.timestamp, self.metadata) = (bytesUsed, timestamp, metadata)
  }
}

/// What lenders and importers do wrong.
package enum LendingError: Error, Equatable {
  /// There is none of this id, or it is not for the caller. Nobody learns which of both.
  case noSuchBuffer
  case outOfRange(offset: UInt64, size: UInt64, of: UInt64)
  /// Another lender has the resource, or this one lent another part of it or to others.
  case alreadyLent(ResourcePlace)
  case noSuchAudience(String)
  case tooManyAudiences(limit: Int)
  case tooManyBuffers(limit: Int)
  case metadataTooLong(Int, limit: Int)
  case tooManyImports(limit: Int)
  /// Its lender wants it back.
  case isReturning
  /// It was not lent to be filled.
  case notForFilling
  case filledByAnother
  /// The import has not begun to fill it.
  case notFilling
}

extension LendingError: CustomStringConvertible {
  package var description: String {
    switch self {
    case .noSuchBuffer: "there is no such buffer"
    case .outOfRange(let offset, let size, let all):
      "\(size) bytes from \(offset) on do not lie in a resource of \(all) bytes, or are none"
    case .alreadyLent(let place):
      "resource \(place.resource) is lent already, in another way or by another lender"
    case .noSuchAudience(let name): "the host defines no audience \(name)"
    case .tooManyAudiences(let limit): "a buffer is lent to \(limit) audiences at most"
    case .tooManyBuffers(let limit): "the guest has \(limit) buffers lent already, as many as it may"
    case .metadataTooLong(let size, let limit): "the metadata has \(size) bytes, and \(limit) at most"
    case .tooManyImports(let limit): "there are \(limit) imports already, as many as there may be"
    case .isReturning: "its lender wants the buffer back"
    case .notForFilling: "the buffer was not lent to be filled"
    case .filledByAnother: "another importer fills the buffer"
    case .notFilling: "this importer does not fill the buffer"
    }
  }
}

/// A registry's counts: of now, and since the start.
package struct LendingStatistics: Equatable, Sendable, Encodable {
  /// Buffers that are lent now or on their way back, imports of them, and who is told of them.
  package internal(set) var buffers = 0, imports = 0, watchers = 0
  /// Since the start: how many were lent and imported, and how they ended.
  package internal(set) var lent = 0, imported = 0, returned = 0, revoked = 0
  /// Imports that were ended for the guest's sake.
  package internal(set) var cutOff = 0
}
