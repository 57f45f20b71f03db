package import DisplayProtocol

/// Why a picture, or any further one, cannot be streamed.
package enum StreamingError: Error, CustomStringConvertible {
  /// GStreamer has no such format, or the frame is impossible.
  case unstreamable(DisplayFrame)
  /// The picture is in a memfd, and dma-bufs are wanted.
  case noDMABuf(buffer: Int)
  /// Clients have as many copies as there may be.
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

/// The form of a stream's pictures.
package struct StreamedPicture: Equatable, Sendable, Encodable {
  package let scanout: Int
  package let picture: String
  /// As GStreamer writes caps.
  package let caps: String
  /// Why clients get a copy; nil if they get the buffer itself.
  package let copied: String?
}

/// The counts of a stream.
package struct StreamCounts: Equatable, Sendable, Encodable {
  /// Pictures that the scanout has shown.
  package internal(set) var frames = 0
  /// Pictures that clients got, and pictures that a client did not get. One that two clients got counts twice.
  package internal(set) var sent = 0, skipped = 0
  package internal(set) var overdue = 0
  /// Pictures that were copied.
  package internal(set) var copied = 0
  package internal(set) var bytesCopied: UInt64 = 0
  package internal(set) var clients = 0
  /// Clients that came when there were as many as there may be, and were refused.
  package internal(set) var refused = 0
}
