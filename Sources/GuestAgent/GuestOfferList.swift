package import LendingProtocol
package import Varlink

/// The reply of `Offers`.
package struct GuestOfferList: JSONWritable, Decodable {
  package let offers: [GuestOfferEntry]

  package func write(to json: inout JSONWriter) { json.object { json in json.field("offers", offers) } }
}

/// Memory of the host that this guest may have.
package struct GuestOfferEntry: JSONWritable, Decodable {
  package let offer, size: Int
  package let writable: Bool
  package let metadata: BufferMetadata
  /// Whether the host wants it back.
  package let withdrawing: Bool

  init(_ offer: GuestOffer) {
    (self.offer, size, writable) = (offer.id, offer.size, offer.isWritable)
    (metadata, withdrawing) = (offer.metadata, offer.isWithdrawing)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("offer", offer)
      json.field("size", size)
      json.field("writable", writable)
      json.field("metadata", metadata)
      json.field("withdrawing", withdrawing)
    }
  }
}

/// The reply of `Receive`; the dma-buf is the descriptor of this index.
package struct ReceiveReply: JSONWritable, Decodable {
  package let fileDescriptor: Int
  package let offer: GuestOfferEntry

  init(_ offer: GuestOfferEntry) { (fileDescriptor, self.offer) = (0, offer) }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("fileDescriptor", fileDescriptor)
      json.field("offer", offer)
    }
  }
}
