internal import Fixtures
package import Linux
package import SystemPackage

/// What GStreamer's unixfdsrc is to a server: it reads as that does, first the eight bytes of a command and then the payload,
/// and keeps nothing to itself.
package final class UnixFDClient {
  package enum Message {
    case caps(String)
    case buffer(Buffer)
    case end
    /// The server has closed the connection.
    case closed
    /// Something that no server says.
    case unknown(UInt32, [UInt8])
  }

  /// A picture, as it came.
  package struct Buffer {
    package let id, pts, dts, duration, offset, offsetEnd: UInt64
    package let flags: UInt32
    package let type, memories: UInt8
    package let metas: UInt16
    /// Of the memory.
    package let size, start: UInt64
    /// What comes behind the memory.
    package let rest: [UInt8]
    package let memory: Memfd

    /// All bytes of the picture's memory.
    package func bytes() throws -> [UInt8] {
      let (size, start) = (Int(size), Int(start))
      let mapping = try memory.withDescriptor { fd throws(Errno) in
        try Mapping(fd, offset: 0, length: start + size, writable: false)
      }
      return mapping.bytes(at: start, count: size)
    }
  }

  private let socket: UnixSocket
  private var bytes: [UInt8] = []
  private var memory: Memfd?

  package init(_ path: FilePath) throws { socket = try UnixSocket.connect(path) }

  /// The next message; nil while it is not all there.
  package func next() throws -> Message? {
    while true {
      let size = bytes.count < 8 ? 8 : 8 + Int(number(UInt32.self, 4))
      if bytes.count == size, size >= 8, bytes.count > 8 || number(UInt32.self, 4) == 0 { break }
      var descriptors = ReceivedDescriptors()
      do throws(Errno) {
        let count = try socket.receive(into: &bytes, upTo: size - bytes.count, descriptors: &descriptors)
        if count == 0 { return .closed }
      } catch {
        if error == .wouldBlock { return nil }
        if error == .connectionReset { return .closed }
        throw error
      }
      if let fd = descriptors.take(0) { memory = try Memfd(adopting: fd) }
      if descriptors.count > 1 { throw TroubleInTest("\(descriptors.count) descriptors came") }
    }
    defer { bytes = [] }
    switch number(UInt32.self, 0) {
    case 0:
      guard let memory = memory.take(), bytes.count >= 80 else {
        throw TroubleInTest("a buffer of \(bytes.count) bytes, or without a descriptor")
      }
      return .buffer(
        Buffer(
          id: number(UInt64.self, 8), pts: number(UInt64.self, 16), dts: number(UInt64.self, 24),
          duration: number(UInt64.self, 32), offset: number(UInt64.self, 40),
          offsetEnd: number(UInt64.self, 48),
          flags: number(UInt32.self, 56), type: bytes[60], memories: bytes[61],
          metas: number(UInt16.self, 62),
          size: number(UInt64.self, 64), start: number(UInt64.self, 72), rest: Array(bytes[80...]),
          memory: memory))
    case 2:
      guard bytes.last == 0 else { throw TroubleInTest("caps without an end") }
      return .caps(String(decoding: bytes[8..<bytes.count - 1], as: UTF8.self))
    case 3: return .end
    case let command: return .unknown(command, bytes)
    }
  }

  private func number<Number: FixedWidthInteger>(_: Number.Type, _ offset: Int) -> Number {
    bytes[offset..<offset + MemoryLayout<Number>.size].reversed().reduce(0) { $0 << 8 | Number($1) }
  }

  /// What unixfdsrc says when its pipeline has let a buffer go.
  package func release(_ id: UInt64) throws {
    try send([1, 0, 0, 0, 8, 0, 0, 0] + (0..<8).map { UInt8(truncatingIfNeeded: id >> ($0 * 8)) })
  }

  /// Says anything.
  package func send(_ bytes: [UInt8]) throws { unsafe try socket.fd.write(bytes.span.bytes) }
}
