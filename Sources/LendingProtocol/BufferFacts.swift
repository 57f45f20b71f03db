package import Varlink

// The values of `io.udmabridge.Buffers` on the control socket: the service writes them, its callers read them.

/// The present state of a buffer.
package struct BufferFacts: Equatable, Sendable, Decodable, JSONWritable {
  package enum State: String, Sendable, Decodable { case lent, returning, returned, revoked }

  package var id: BufferID
  package var state: State
  package var use: BufferUse
  /// The offset of the first lent byte in the dma-buf, and the number of lent bytes.
  package var offset, size: Int
  /// In milliseconds.
  package var age: Int
  /// The dma-buf's inode; nil after the buffer's end, when nobody has it.
  package var inode: Int?
  /// Imports.
  package var users: Int
  /// How often it was filled.
  package var fills: Int
  /// Milliseconds until its return begins, or until its importers are cut off.
  package var returns: Int?
  /// Its lender's access by the CPU.
  package var access: AccessMode?

  package init(
    id: BufferID, state: State, use: BufferUse, offset: Int, size: Int, age: Int, inode: Int?, users: Int,
    fills: Int, returns: Int?, access: AccessMode?
  ) {
    (self.id, self.state, self.use, self.offset, self.size) = (id, state, use, offset, size)
    (self.age, self.inode, self.users) = (age, inode, users)
    (self.fills, self.returns, self.access) = (fills, returns, access)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("id", id)
      json.field("state", state.rawValue)
      json.field("use", use.rawValue)
      json.field("offset", offset)
      json.field("size", size)
      json.field("age", age)
      json.field("inode", inode)
      json.field("users", users)
      json.field("fills", fills)
      json.field("returns", returns)
      json.field("access", access?.rawValue)
    }
  }
}

/// An importer's content for a buffer.
package struct FillingFacts: Equatable, Sendable, Decodable, JSONWritable {
  package var bytesUsed: Int
  package var timestamp: Int?
  package var metadata: BufferMetadata?

  package init(bytesUsed: Int, timestamp: Int?, metadata: BufferMetadata?) {
    (self.bytesUsed, self.timestamp, self.metadata) = (bytesUsed, timestamp, metadata)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("bytesUsed", bytesUsed)
      json.field("timestamp", timestamp)
      json.field("metadata", metadata)
    }
  }
}

/// An import and its state.
package struct ImporterFacts: Equatable, Sendable, Decodable, JSONWritable {
  package var process, user: Int
  package var forWriting: Bool
  package var access: AccessMode?
  package var filler: Bool

  package init(process: Int, user: Int, forWriting: Bool, access: AccessMode?, filler: Bool) {
    (self.process, self.user, self.forWriting) = (process, user, forWriting)
    (self.access, self.filler) = (access, filler)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("process", process)
      json.field("user", user)
      json.field("forWriting", forWriting)
      json.field("access", access?.rawValue)
      json.field("filler", filler)
    }
  }
}

// MARK: Replies

package struct BuffersReply: Equatable, Sendable, Decodable, JSONWritable {
  package var buffers: [BufferFacts]

  package init(buffers: [BufferFacts]) { self.buffers = buffers }

  package func write(to json: inout JSONWriter) { json.object { json in json.field("buffers", buffers) } }
}

package struct ImportReply: Equatable, Sendable, Decodable, JSONWritable {
  package var buffer: BufferFacts
  /// The buffer's own.
  package var offset, size: Int
  package var metadata: BufferMetadata
  /// Indices of descriptors: the dma-buf, and the token, as long as whose copies the import lasts.
  package var fileDescriptor, token: Int

  package init(buffer: BufferFacts, metadata: BufferMetadata, fileDescriptor: Int, token: Int) {
    (self.buffer, offset, size) = (buffer, buffer.offset, buffer.size)
    (self.metadata, self.fileDescriptor, self.token) = (metadata, fileDescriptor, token)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("buffer", buffer)
      json.field("offset", offset)
      json.field("size", size)
      json.field("metadata", metadata)
      json.field("fileDescriptor", fileDescriptor)
      json.field("token", token)
    }
  }
}

package struct QueryReply: Equatable, Sendable, Decodable, JSONWritable {
  package var buffer: BufferFacts
  package var metadata: BufferMetadata
  package var filling: FillingFacts?
  package var pages, items, firstOffset, lastLength, device, resource: Int
  /// Nil for callers who may not know.
  package var importers: [ImporterFacts]?

  package init(
    buffer: BufferFacts, metadata: BufferMetadata, filling: FillingFacts?, pages: Int, items: Int,
    firstOffset: Int, lastLength: Int, device: Int, resource: Int, importers: [ImporterFacts]?
  ) {
    (self.buffer, self.metadata, self.filling) = (buffer, metadata, filling)
    (self.pages, self.items, self.firstOffset) = (pages, items, firstOffset)
    (self.lastLength, self.device, self.resource) = (lastLength, device, resource)
    self.importers = importers
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("buffer", buffer)
      json.field("metadata", metadata)
      json.field("filling", filling)
      json.field("pages", pages)
      json.field("items", items)
      json.field("firstOffset", firstOffset)
      json.field("lastLength", lastLength)
      json.field("device", device)
      json.field("resource", resource)
      if let importers { json.field("importers", importers) }
    }
  }
}

package struct BuffersEvent: Equatable, Sendable, Decodable, JSONWritable {
  package enum Kind: String, Sendable, Decodable {
    case lent, metadata, filled, fillAborted, accessBegun, accessEnded, returning, returned, revoked, end
  }

  package var event: Kind
  package var buffer: BufferFacts?
  package var metadata: BufferMetadata?
  package var filling: FillingFacts?
  /// The number of fills before this one that were not told.
  package var lost: Int?
  package var mode: AccessMode?
  package var reason: RevocationReason?

  package init(_ event: Kind, _ buffer: BufferFacts? = nil) { (self.event, self.buffer) = (event, buffer) }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("event", event.rawValue)
      json.field("buffer", buffer)
      json.field("metadata", metadata)
      json.field("filling", filling)
      json.field("lost", lost)
      json.field("mode", mode?.rawValue)
      json.field("reason", reason?.rawValue)
    }
  }
}

// MARK: Calls

/// The parameters of a method; nil leaves one out.
package struct BuffersRequest: JSONWritable {
  package var id: BufferID?
  package var forWriting: Bool?
  package var mode: AccessMode?
  package var filling: FillingFacts?

  package init(
    id: BufferID? = nil, forWriting: Bool? = nil, mode: AccessMode? = nil, filling: FillingFacts? = nil
  ) {
    (self.id, self.forWriting, self.mode, self.filling) = (id, forWriting, mode, filling)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("id", id)
      json.field("forWriting", forWriting)
      json.field("mode", mode?.rawValue)
      json.field("bytesUsed", filling?.bytesUsed)
      json.field("timestamp", filling?.timestamp)
      json.field("metadata", filling?.metadata)
    }
  }
}
