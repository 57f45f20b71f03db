package import LendingProtocol
package import Varlink

/// An event for a lender.
package struct LenderEvent: JSONWritable, Decodable {
  package enum Kind: String, Decodable {
    /// The first one of each Watch.
    case ready
    case connected, disconnected
    case lent, importers, accessBegun, accessEnded, filled, fillAborted, returning, returned, revoked
    case offered, withdrawing, withdrawn

    /// Only the last one of a buffer matters.
    var replacesEarlier: Bool { self == .importers }
  }

  package let event: Kind
  package var buffer: BufferID?
  /// The id that the buffer had until now.
  package var before: BufferID?
  package var count, bytesUsed, timestamp, lostFills, cutOff: Int?
  package var mode: AccessMode?
  package var metadata: BufferMetadata?
  package var reading: Bool?
  package var reason: String?
  /// An offer's number, its size in bytes, and its patience in milliseconds.
  package var offer, size, patience: Int?
  package var writable: Bool?
  /// The number of events that were left out before this one.
  package var lost: Int?
  /// The buffer's lender; nil for an event that concerns everybody.
  var user: UInt32?

  private enum CodingKeys: String, CodingKey {
    case event, buffer, before, count, bytesUsed, timestamp, lostFills, cutOff, mode, metadata, reading,
      reason
    case offer, size, patience, writable, lost
  }

  init(_ event: Kind) { self.event = event }

  init(_ event: Kind, _ buffer: GuestBuffer) {
    self.event = event
    (self.buffer, user) = (buffer.id, buffer.owner.user)
  }

  init(_ event: Kind, _ offer: GuestOffer) {
    self.event = event
    self.offer = offer.id
    guard event == .offered else { return }
    (size, writable, metadata) = (offer.size, offer.isWritable, offer.metadata)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("event", event.rawValue)
      json.field("buffer", buffer)
      json.field("offer", offer)
      json.field("size", size)
      if let writable { json.field("writable", writable) }
      json.field("patience", patience)
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
      json.field("lost", lost)
    }
  }
}
