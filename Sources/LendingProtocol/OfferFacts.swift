package import Varlink

// What goes over the control socket about memory that the host offers to the guest.

/// What an offer is now.
package struct OfferFacts: Equatable, Sendable, Decodable, JSONWritable {
  package enum State: String, Sendable, Decodable { case offered, withdrawing, withdrawn }

  /// By which the guest asks for it.
  package var id: Int
  package var state: State
  /// In bytes.
  package var size: Int
  package var writable: Bool
  /// So many blobs of it the guest may have, and has.
  package var uses, used: Int
  /// In milliseconds, until the guest is cut off.
  package var patience: Int?
  package var metadata: BufferMetadata

  package init(
    id: Int, state: State, size: Int, writable: Bool, uses: Int, used: Int, patience: Int?,
    metadata: BufferMetadata
  ) {
    (self.id, self.state, self.size, self.writable) = (id, state, size, writable)
    (self.uses, self.used, self.patience, self.metadata) = (uses, used, patience, metadata)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("id", id)
      json.field("state", state.rawValue)
      json.field("size", size)
      json.field("writable", writable)
      json.field("uses", uses)
      json.field("used", used)
      json.field("patience", patience)
      json.field("metadata", metadata)
    }
  }
}

package struct OfferReply: Equatable, Sendable, Decodable, JSONWritable {
  package var id, size: Int

  package init(id: Int, size: Int) { (self.id, self.size) = (id, size) }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("id", id)
      json.field("size", size)
    }
  }
}

package struct OffersReply: Equatable, Sendable, Decodable, JSONWritable {
  package var offers: [OfferFacts]

  package init(offers: [OfferFacts]) { self.offers = offers }

  package func write(to json: inout JSONWriter) { json.object { json in json.field("offers", offers) } }
}

package struct OffersEvent: Equatable, Sendable, Decodable, JSONWritable {
  package enum Kind: String, Sendable, Decodable { case offered, used, withdrawing, withdrawn, end }

  package var event: Kind
  package var offer: OfferFacts?

  package init(_ event: Kind, _ offer: OfferFacts? = nil) { (self.event, self.offer) = (event, offer) }

  /// This offer is over, or nothing more will be told.
  package func ends(_ id: Int) -> Bool {
    switch event {
    case .end: true
    case .withdrawn: offer?.id == id
    default: false
    }
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("event", event.rawValue)
      json.field("offer", offer)
    }
  }
}

/// What is asked for; nil leaves a parameter out. The descriptors go with the call.
package struct OfferRequest: JSONWritable {
  package var id: Int?
  package var fileDescriptor, token: Int?
  package var uses, patience: Int?
  package var metadata: BufferMetadata?

  package init(
    id: Int? = nil, fileDescriptor: Int? = nil, token: Int? = nil, uses: Int? = nil, patience: Int? = nil,
    metadata: BufferMetadata? = nil
  ) {
    (self.id, self.fileDescriptor, self.token) = (id, fileDescriptor, token)
    (self.uses, self.patience, self.metadata) = (uses, patience, metadata)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("id", id)
      json.field("fileDescriptor", fileDescriptor)
      json.field("token", token)
      json.field("uses", uses)
      json.field("patience", patience)
      json.field("metadata", metadata)
    }
  }
}
