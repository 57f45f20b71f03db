internal import LendingProtocol
internal import Varlink

/// What a lender may want to know.
struct LenderEvent: JSONWritable {
  enum Kind: String {
    /// The first one of each Watch.
    case ready
    case connected, disconnected
    case lent, importers, accessBegun, accessEnded, filled, fillAborted, returning, returned, revoked

    /// Only the last one of a buffer is of interest.
    var replacesEarlier: Bool { self == .importers }
  }

  let kind: Kind
  var buffer: BufferID?
  /// The buffer's lender; nil for what concerns everybody.
  var user: UInt32?
  /// The id that the buffer had until now.
  var before: BufferID?
  var count, bytesUsed, timestamp, lostFills, cutOff: Int?
  var mode: AccessMode?
  var metadata: BufferMetadata?
  var reading: Bool?
  var reason: String?
  /// Events that were left out before this one.
  var lost = 0

  init(_ kind: Kind) { self.kind = kind }

  init(_ kind: Kind, _ buffer: GuestBuffer) {
    self.kind = kind
    (self.buffer, user) = (buffer.id, buffer.owner.user)
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("event", kind.rawValue)
      json.field("buffer", buffer)
      json.field("before", before)
      json.field("count", count)
      json.field("bytesUsed", bytesUsed)
      json.field("timestamp", timestamp)
      json.field("metadata", metadata)
      json.field("lostFills", lostFills)
      json.field("cutOff", cutOff)
      json.field("reading", reading)
      json.field("mode", mode?.rawValue)
      json.field("reason", reason)
      if lost > 0 { json.field("lost", lost) }
    }
  }
}
