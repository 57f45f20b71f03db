// The protocol of GStreamer's elements unixfdsink and unixfdsrc (plugin unixfd of gst-plugins-bad, 1.24 and later). A message is
// a command, the size of its payload, and the payload, in the byte order of the machine.

/// A message to a client.
package enum UnixFDMessage: Equatable, Sendable {
  /// The caps of the buffers that follow, as GStreamer writes them. The corresponding C constant is `COMMAND_TYPE_CAPS`.
  case caps(String)
  /// A picture. The descriptor of its memory goes with the first byte. The corresponding C constant is
  /// `COMMAND_TYPE_NEW_BUFFER`.
  case buffer(UnixFDBuffer)
  /// The end of the stream. The corresponding C constant is `COMMAND_TYPE_EOS`.
  case end

  private var command: UInt32 {
    switch self {
    case .buffer: 0
    case .caps: 2
    case .end: 3
    }
  }

  /// The whole message as it is sent.
  package var bytes: [UInt8] {
    var payload: [UInt8] = []
    switch self {
    case .caps(let text): payload = Array(text.utf8) + [0]
    case .buffer(let buffer): buffer.write(to: &payload)
    case .end: break
    }
    var bytes: [UInt8] = []
    bytes.put(command)
    bytes.put(UInt32(payload.count))
    return bytes + payload
  }
}

/// A picture in a message.
package struct UnixFDBuffer: Equatable, Sendable {
  /// The kind of the picture's memory.
  package enum Memory: UInt8, Sendable {
    /// A file that can be mapped. The corresponding C constant is `MEMORY_TYPE_DEFAULT`.
    case file = 0
    /// The corresponding C constant is `MEMORY_TYPE_DMABUF`.
    case dmabuf = 1
  }

  /// The number by which the client releases the picture.
  package var id: UInt64
  /// When it was shown, in nanoseconds of the monotonic clock.
  package var time: UInt64
  /// The picture's number among the scanout's.
  package var number: UInt64
  /// The client has not got the picture before this one.
  package var isAfterGap: Bool
  package var memory: Memory
  /// The picture's place in the memory, in bytes.
  package var offset, size: UInt64
  /// The layout of the rows; nil if GStreamer computes it from the caps.
  package var rows: VideoRows?

  package init(
    id: UInt64, time: UInt64, number: UInt64, isAfterGap: Bool, memory: Memory, offset: UInt64, size: UInt64,
    rows: VideoRows? = nil
  ) {
    (self.id, self.time, self.number, self.isAfterGap) = (id, time, number, isAfterGap)
    (self.memory, self.offset, self.size, self.rows) = (memory, offset, size, rows)
  }

  /// The corresponding C constant is `GST_BUFFER_FLAG_DISCONT`.
  private static let discontinuity: UInt32 = 1 << 6
  /// The corresponding C constant is `GST_CLOCK_TIME_NONE`.
  private static let noTime = UInt64.max

  /// The corresponding C struct is `NewBufferPayload`, with what follows it.
  fileprivate func write(to bytes: inout [UInt8]) {
    bytes.put(id)
    bytes.put(time)
    bytes.put(Self.noTime)  // when it is decoded
    bytes.put(Self.noTime)  // how long it lasts
    bytes.put(number)
    bytes.put(number &+ 1)
    bytes.put(isAfterGap ? Self.discontinuity : 0)
    bytes.append(memory.rawValue)
    bytes.append(1)  // pieces of memory
    // The number of metadata. The protocol's first version called it padding, and read nothing after the pieces of memory.
    bytes.put(UInt16(rows == nil ? 0 : 1))
    bytes.put(size)
    bytes.put(offset)
    rows?.write(to: &bytes)
  }
}

/// The layout of one plane's rows, for a client that cannot compute it from the caps. The corresponding C struct is
/// `GstVideoMeta`, as `gst_meta_serialize` writes it in its version 0: always little-endian.
package struct VideoRows: Equatable, Sendable {
  /// The corresponding C constants are `GST_VIDEO_FORMAT_*`.
  package var format: UInt32
  /// In pixels.
  package var width, height: UInt32
  /// Bytes from one row to the next.
  package var stride: UInt32

  package init(format: UInt32, width: UInt32, height: UInt32, stride: UInt32) {
    (self.format, self.width, self.height, self.stride) = (format, width, height, stride)
  }

  private static let name = Array("GstVideoMeta".utf8)

  fileprivate func write(to bytes: inout [UInt8]) {
    let start = bytes.count
    bytes.put(UInt32(0))  // the size, which comes later
    bytes.put(UInt32(Self.name.count))
    bytes += Self.name + [0]
    bytes.append(0)  // version
    bytes.put(UInt32(0))  // flags
    for number in [format, width, height, 1] { bytes.put(number) }  // one plane
    bytes.put(UInt64(0))  // its offset from the start of the memory
    bytes.put(stride)
    for _ in 0..<4 { bytes.put(UInt32(0)) }  // nothing around it
    bytes.put(UInt32(0))  // alignment of its rows
    var size: [UInt8] = []
    size.put(UInt32(bytes.count - start))
    bytes.replaceSubrange(start..<start + 4, with: size)
  }
}

extension [UInt8] {
  fileprivate mutating func put(_ number: some FixedWidthInteger) {
    for shift in stride(from: 0, to: number.bitWidth, by: 8) {
      append(UInt8(truncatingIfNeeded: number >> shift))
    }
  }
}

/// A client's breach of the protocol.
package enum UnixFDError: Error, Equatable, CustomStringConvertible {
  case command(UInt32)
  case size(UInt32)
  /// The client has no such buffer.
  case notHeld(UInt64)

  package var description: String {
    switch self {
    case .command(let command):
      "it sent command \(command); a client sends RELEASE_BUFFER (\(UnixFDAnswer.command)) alone"
    case .size(let size):
      "it sent RELEASE_BUFFER with a payload of \(size) bytes, which are \(UnixFDAnswer.payloadSize)"
    case .notHeld(let id): "it let go of buffer \(id), which it does not have"
    }
  }
}

/// A message from a client.
package enum UnixFDAnswer: Equatable, Sendable {
  /// The client does not need the buffer of this number any more. The corresponding C constant is
  /// `COMMAND_TYPE_RELEASE_BUFFER`.
  case release(UInt64)

  fileprivate static let command: UInt32 = 1
  fileprivate static let payloadSize: UInt32 = 8
  /// In bytes.
  package static let size = 16

  /// Takes the first answer from the front of the received bytes.
  /// - Returns: nil while the answer is incomplete.
  /// - Throws: as soon as the bytes cannot be the start of an answer.
  package static func next(in bytes: inout ArraySlice<UInt8>) throws(UnixFDError) -> UnixFDAnswer? {
    guard let command = bytes.number(UInt32.self, at: 0) else { return nil }
    guard command == Self.command else { throw .command(command) }
    guard let size = bytes.number(UInt32.self, at: 4) else { return nil }
    guard size == payloadSize else { throw .size(size) }
    guard let id = bytes.number(UInt64.self, at: 8) else { return nil }
    bytes.removeFirst(Self.size)
    return .release(id)
  }
}

extension ArraySlice<UInt8> {
  /// Nil if the number is incomplete.
  fileprivate func number<Number: FixedWidthInteger>(_: Number.Type, at offset: Int) -> Number? {
    let size = MemoryLayout<Number>.size
    guard count >= offset + size else { return nil }
    return self[startIndex + offset..<startIndex + offset + size].reversed().reduce(0) {
      $0 << 8 | Number($1)
    }
  }
}
