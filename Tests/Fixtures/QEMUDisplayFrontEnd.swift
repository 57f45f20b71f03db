package import Linux
internal import SystemPackage

/// QEMU's end of the display socket.
package final class QEMUDisplayFrontEnd {
  private final class End {
    let socket: UnixSocket
    init(_ socket: consuming UnixSocket) { self.socket = socket }
  }

  /// A message as it came.
  package struct Received: Equatable, Sendable {
    package let request: UInt32
    package let payload: [UInt8]
    /// Of the descriptor that came with it.
    package let inode: UInt64?

    package init(_ request: UInt32, _ payload: [UInt8] = [], inode: UInt64? = nil) {
      (self.request, self.payload, self.inode) = (request, payload, inode)
    }
  }

  private var mine: End?
  private var bytes: [UInt8] = []
  /// How many bytes have been read.
  package private(set) var received = 0
  private var inode: UInt64?
  /// The last descriptor that came, for a look into its memory.
  package private(set) var mapping: Mapping?

  /// - Parameter body: takes the other end.
  package init(_ body: (consuming UnixSocket) throws -> Void) throws {
    try UnixSocket.pair { mine, theirs in
      try mine.fd.setNonblocking()
      self.mine = End(mine)
      try body(theirs)
    }
  }

  /// Takes over an end that is connected.
  package init(adopting socket: consuming UnixSocket) { mine = End(socket) }

  /// The next message; nil if there is no whole one.
  package func next() throws -> Received? {
    guard try fill(to: 12) else { return nil }
    let (request, flags, size): (UInt32, UInt32, UInt32) = (
      bytes.value(at: 0), bytes.value(at: 4), bytes.value(at: 8)
    )
    if flags != 0 { throw FrontEndError.wrongReply(bytes) }
    guard try fill(to: 12 + Int(size)) else { return nil }
    defer {
      bytes.removeAll()
      inode = nil
    }
    return Received(request, Array(bytes[12...]), inode: inode)
  }

  /// All that is there.
  package func all() throws -> [Received] {
    var messages: [Received] = []
    while let message = try next() { messages.append(message) }
    return messages
  }

  private func fill(to size: Int) throws -> Bool {
    while bytes.count < size {
      var descriptors = ReceivedDescriptors()
      do {
        let count = try mine?.socket.receive(
          into: &bytes, upTo: size - bytes.count, descriptors: &descriptors)
        guard let count, count > 0 else { return false }
        received += count
      } catch {
        if error == .wouldBlock { return false }
        throw error
      }
      guard let fd = descriptors.take(0) else { continue }
      if inode != nil || descriptors.count > 1 { throw FrontEndError.wrongReply(bytes) }
      let status = try fd.status()
      inode = status.inode
      mapping = try? Mapping(fd, offset: 0, length: Int(status.size), writable: false)
    }
    return true
  }

  // MARK: Replies

  package func reply(_ request: UInt32, _ payload: [UInt8] = [], flags: UInt32 = 4) throws {
    try send([request, flags, UInt32(payload.count)].flatMap(\.bytes) + payload)
  }

  /// - Parameter screens: the first ones of 16; the rest is not enabled.
  package static func displayInfo(_ screens: [(width: UInt32, height: UInt32)]) -> [UInt8] {
    var numbers: [UInt32] = [0x1101, 0, 0, 0, 0, 0]
    for index in 0..<16 {
      let screen = index < screens.count ? screens[index] : (width: 0, height: 0)
      numbers += [0, 0, screen.width, screen.height, screen.width == 0 ? 0 : 1, 0]
    }
    return numbers.flatMap(\.bytes)
  }

  package static func edid(_ bytes: [UInt8]) -> [UInt8] {
    ([0x1104, 0, 0, 0, 0, 0, UInt32(bytes.count), 0] as [UInt32]).flatMap(\.bytes) + bytes
      + [UInt8](repeating: 0, count: 1024 - bytes.count)
  }

  package func send(_ bytes: [UInt8], descriptors: [CInt] = []) throws {
    _ = unsafe try mine?.socket.send(bytes.span.bytes, rawDescriptors: descriptors)
  }

  /// The other end sees that nobody is there any more.
  package func hangUp() {
    mine?.socket.shutDown()
    mine = nil
  }

  /// The other end is closed.
  package var isOver: Bool {
    get throws {
      var rest: [UInt8] = []
      var descriptors = ReceivedDescriptors()
      do { return try mine?.socket.receive(into: &rest, upTo: 1, descriptors: &descriptors) == 0 } catch {
        if error == .wouldBlock { return false }
        throw error
      }
    }
  }
}
