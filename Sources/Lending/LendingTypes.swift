package import LendingProtocol

/// A lender: a session of the guest's agent, and the agent's own number for its client.
package struct LenderID: Hashable, Sendable {
  package let session: UInt64
  package let number: Int
  package init(session: UInt64, number: Int) { (self.session, self.number) = (session, number) }
}

/// A resource of the guest. Its number is valid until its device starts anew.
package struct ResourcePlace: Hashable, Sendable {
  package let device: Int
  /// Changes at each start of the device.
  package let epoch: UInt64
  package let resource: UInt32
  package init(device: Int, epoch: UInt64, resource: UInt32) {
    (self.device, self.epoch, self.resource) = (device, epoch, resource)
  }
}

/// Some of the host's users, by the name that guests use for them.
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

/// A caller on the host.
package struct LendingCaller: Sendable {
  package let pid: Int32
  package let user: UInt32
  package let groups: Set<UInt32>
  /// Whether it is root or this process's own user, who see everything.
  package let isTrusted: Bool
  package init(pid: Int32, user: UInt32, groups: Set<UInt32>, isTrusted: Bool) {
    (self.pid, self.user, self.groups, self.isTrusted) = (pid, user, groups, isTrusted)
  }
}

/// The limits on a guest's lending, and on imports.
package struct LendingLimits: Equatable, Sendable {
  package var buffers = 1000
  /// The most bytes of metadata of one buffer.
  package var metadata = 4096
  /// The most imports of all buffers at once.
  package var imports = 256
  /// The most names in `to`.
  package static let audiences = 16
  package init() {}
}

/// A lender's request.
package struct LendingRequest: Equatable, Sendable {
  /// The lent bytes: their offset in the resource, and their number.
  package var offset, size: UInt64
  package var use: BufferUse
  /// Names of audiences; none means everybody who may use the control socket.
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

/// An importer's content for a buffer that was lent to be filled.
package struct Fill: Equatable, Sendable {
  package var bytesUsed: UInt64
  /// In nanoseconds of the filler's clock.
  package var timestamp: Int?
  package var metadata: BufferMetadata?
  package init(bytesUsed: UInt64, timestamp: Int? = nil, metadata: BufferMetadata? = nil) {
    (self.bytesUsed, self.timestamp, self.metadata) = (bytesUsed, timestamp, metadata)
  }
}

/// The mistakes of lenders and importers.
package enum LendingError: Error, Equatable {
  /// There is no buffer of this id, or it is not for the caller, who does not learn which.
  case noSuchBuffer
  case outOfRange(offset: UInt64, size: UInt64, of: UInt64)
  /// Another lender has lent the resource, or this one has lent another part of it or to others.
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
      "\(size) bytes from offset \(offset) on are not inside a resource of \(all) bytes, or are no bytes"
    case .alreadyLent(let place):
      "resource \(place.resource) is lent already, in another way or by another lender"
    case .noSuchAudience(let name): "the host defines no audience \(name)"
    case .tooManyAudiences(let limit): "a buffer can be lent to at most \(limit) audiences"
    case .tooManyBuffers(let limit): "the guest has lent \(limit) buffers already, which is its limit"
    case .metadataTooLong(let size, let limit): "the metadata has \(size) bytes, but the limit is \(limit)"
    case .tooManyImports(let limit): "there are \(limit) imports already, which is the limit"
    case .isReturning: "its lender wants the buffer back"
    case .notForFilling: "the buffer was not lent to be filled"
    case .filledByAnother: "another importer fills the buffer"
    case .notFilling: "this importer does not fill the buffer"
    }
  }
}

/// A registry's counts, present ones and those since the start.
package struct LendingStatistics: Equatable, Sendable, Encodable {
  /// The buffers that are lent or on their way back, their imports, and the listeners.
  package internal(set) var buffers = 0, imports = 0, watchers = 0
  /// Counts since the start: buffers lent and imported, and their ends.
  package internal(set) var lent = 0, imported = 0, returned = 0, revoked = 0
  /// Imports that were cut off for the guest.
  package internal(set) var cutOff = 0
}
