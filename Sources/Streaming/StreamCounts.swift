package import DisplayProtocol

/// Why a picture cannot be streamed, or nothing more.
package enum StreamingError: Error, CustomStringConvertible {
  /// GStreamer has no such format, or it cannot be.
  case unstreamable(DisplayFrame)
  /// It is in a memfd, and dma-bufs are wanted.
  case noDMABuf(buffer: Int)
  /// Clients have all copies that there may be.
  case copiesAreInUse(Int)

  package var description: String {
    switch self {
    case .unstreamable(let frame):
      "a frame of \(frame.width)x\(frame.height) \(frame.format) cannot be streamed"
    case .noDMABuf(let buffer):
      "buffer \(buffer) is a memfd, of which no dma-buf can be made here; plain memory can be streamed"
    case .copiesAreInUse(let count): "clients have all of the \(count) copies that there may be"
    }
  }
}

/// What a stream is made of.
package struct StreamedPicture: Equatable, Sendable, Encodable {
  package let scanout: Int
  package let picture: String
  /// As GStreamer writes caps.
  package let caps: String
  /// Why it is a copy; nil where the buffer itself goes to clients.
  package let copied: String?
}

/// What became of the pictures.
package struct StreamCounts: Equatable, Sendable, Encodable {
  /// Pictures that the scanout has shown.
  package internal(set) var frames = 0
  /// Those that were sent to clients; one that went to two counts twice. And those that a client did not get.
  package internal(set) var sent = 0, skipped = 0
  package internal(set) var overdue = 0
  /// Pictures that were copied.
  package internal(set) var copied = 0
  package internal(set) var bytesCopied: UInt64 = 0
  package internal(set) var clients = 0
  /// Clients that came when there were as many as there may be.
  package internal(set) var refused = 0
}
