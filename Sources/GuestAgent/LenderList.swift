package import LendingProtocol
package import Varlink

/// The reply of `List`.
package struct LenderList: JSONWritable, Decodable {
  /// Whether a helper of the host answers.
  package let connected: Bool
  package let cards: Int
  package let audiences: [String]
  package let copies: Int
  package let buffers: [LenderListEntry]

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("connected", connected)
      json.field("cards", cards)
      json.field("audiences", audiences)
      json.field("copies", copies)
      json.field("buffers", buffers)
    }
  }
}

/// A buffer in the reply of `List`.
package struct LenderListEntry: JSONWritable, Decodable {
  package let buffer: BufferID
  package let state: String
  package let offset, size: Int
  package let use: BufferUse
  package let to: [String]?
  package let metadata: BufferMetadata?
  package let importers: Int
  package let copied: Bool
  package let pid, user: Int

  init(_ buffer: GuestBuffer) {
    self.buffer = buffer.id
    state = buffer.state.rawValue
    let request = buffer.request
    (offset, size, use, to, metadata) = (
      request.offset, request.size, request.use, request.to, request.metadata
    )
    (importers, copied) = (buffer.importers, buffer.isCopy)
    (pid, user) = (Int(buffer.owner.pid), Int(buffer.owner.user))
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("buffer", buffer)
      json.field("state", state)
      json.field("offset", offset)
      json.field("size", size)
      json.field("use", use.rawValue)
      if let to { json.field("to", to) }
      json.field("metadata", metadata)
      json.field("importers", importers)
      json.field("copied", copied)
      json.field("pid", pid)
      json.field("user", user)
    }
  }
}
