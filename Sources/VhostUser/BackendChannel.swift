internal import Linux
internal import SystemPackage
package import Virtio

/// Where something of the host's is mapped in a shared memory region. The C original is `VhostUserMMap`.
package struct SharedMemoryMapping: Equatable, Sendable {
  /// The region's id.
  package var region: UInt8
  /// Where the mapped bytes begin in the descriptor, and in the region; how many there are. All in bytes, whole
  /// pages: QEMU does not check that.
  package var fileOffset, offset, length: UInt64
  package var isWritable: Bool

  package init(region: UInt8, fileOffset: UInt64 = 0, offset: UInt64, length: UInt64, isWritable: Bool) {
    (self.region, self.fileOffset, self.offset) = (region, fileOffset, offset)
    (self.length, self.isWritable) = (length, isWritable)
  }

  fileprivate var bytes: [UInt8] {
    var bytes: [UInt8] = [region, 0, 0, 0, 0, 0, 0, 0]
    for number in [fileOffset, offset, length, isWritable ? 1 : 0] { bytes.append(number: number) }
    return bytes
  }
}

/// What a back end may ask of the front end. The C originals are `VHOST_USER_BACKEND_*`.
package enum BackendRequest: Equatable, Sendable {
  /// The configuration space changed.
  case configChanged
  /// This device has an object of that name: who looks it up is sent here, with `GET_SHARED_OBJECT`.
  case addSharedObject(ObjectUUID)
  /// It has it no more.
  case removeSharedObject(ObjectUUID)
  /// A descriptor goes with it.
  case map(SharedMemoryMapping)
  case unmap(SharedMemoryMapping)

  fileprivate var code: UInt32 {
    switch self {
    case .configChanged: 2
    case .addSharedObject: 6
    case .removeSharedObject: 7
    case .map: 9
    case .unmap: 10
    }
  }

  fileprivate var payload: [UInt8] {
    switch self {
    case .configChanged: []
    case .addSharedObject(let uuid), .removeSharedObject(let uuid): uuid.bytes
    case .map(let mapping), .unmap(let mapping): mapping.bytes
    }
  }

  /// The protocol feature without which a front end does not know it.
  var needs: ProtocolFeatures {
    switch self {
    case .configChanged: .config
    case .addSharedObject, .removeSharedObject: .sharedObject
    case .map, .unmap: .sharedMemory
    }
  }
}

/// The socket for requests in the other direction (`SET_BACKEND_REQ_FD`).
///
/// Nothing waits: an acknowledgement that was asked for comes through the loop, while the session serves what the
/// front end sends meanwhile. It often must be served first: QEMU tells of a mapping's memory, and has that
/// acknowledged, before it acknowledges the mapping. The reason of a failure QEMU says nowhere.
package final class BackendChannel {
  private let socket: UnixSocket
  private let loop: EventLoop
  private var token: EventLoop.Token?
  /// A part of a message is in the socket, or one cannot be understood, so that nothing that follows can be.
  private var isBroken = false
  /// Who waits for acknowledgements, in the order in which they come.
  private var waiting: [(code: UInt32, finished: (Bool) -> Void)] = []
  /// What did not fit into the socket and must not be lost; it goes before all else.
  private var owed: [(request: BackendRequest, finished: (Bool) -> Void)] = []
  /// What has come of an acknowledgement.
  private var bytes: [UInt8] = []

  private static let acknowledgementSize = MessageHeader.size + 8

  init(_ socket: consuming UnixSocket, loop: EventLoop) throws(Errno) {
    try socket.fd.setNonblocking()
    self.socket = socket
    self.loop = loop
    token = try loop.add(self.socket.fd) { [weak self] readiness in
      if readiness.contains(.writable) { self?.sendOwed() }
      self?.receive()
    }
  }

  deinit {
    if let token { loop.remove(token, socket.fd) }
    for finished in waiting.map(\.finished) + owed.map(\.finished) { finished(false) }
  }

  /// Sends without waiting.
  /// - Throws: `socket` when it does not fit, or the front end is gone.
  package func send(_ request: BackendRequest) throws(VhostUserError) {
    try send(request, needsReply: false, [])
  }

  /// Sends, and calls `finished` once the front end has acknowledged, or is gone.
  func send(
    _ request: BackendRequest, passing fd: borrowing FD, _ finished: @escaping (Bool) -> Void
  ) throws(VhostUserError) {
    let number = fd.withRaw { $0 }
    try send(request, needsReply: true, [number])
    waiting.append((request.code, finished))
  }

  /// The same for what must reach the front end: what does not fit is sent when there is room.
  func send(_ request: BackendRequest, _ finished: @escaping (Bool) -> Void) throws(VhostUserError) {
    if isBroken { throw .socket(.brokenPipe) }
    owed.append((request, finished))
    sendOwed()
  }

  private func sendOwed() {
    while let (request, finished) = owed.first {
      do throws(VhostUserError) { try transmit(request, needsReply: true, []) } catch {
        // A broken channel has lost all of it by now.
        if !isBroken, error != .socket(.wouldBlock) { giveUp() }
        break
      }
      owed.removeFirst()
      waiting.append((request.code, finished))
    }
    guard let token else { return }
    do throws(Errno) {
      try loop.modify(token, socket.fd, owed.isEmpty ? .readable : [.readable, .writable])
    } catch { giveUp() }
  }

  private func send(
    _ request: BackendRequest, needsReply: Bool, _ descriptors: [CInt]
  ) throws(VhostUserError) {
    if isBroken { throw .socket(.brokenPipe) }
    if !owed.isEmpty { throw .socket(.wouldBlock) }
    try transmit(request, needsReply: needsReply, descriptors)
  }

  private func transmit(
    _ request: BackendRequest, needsReply: Bool, _ descriptors: [CInt]
  ) throws(VhostUserError) {
    let payload = request.payload
    let message =
      MessageHeader.encode(code: request.code, needsReply: needsReply, payloadSize: payload.count) + payload
    let sent: Int
    do { sent = unsafe try socket.send(message.span.bytes, rawDescriptors: descriptors) } catch {
      throw .socket(error)
    }
    if sent < message.count {
      giveUp()
      throw .socket(.wouldBlock)
    }
  }

  /// Takes acknowledgements: the request's code and a word, 0 for success.
  private func receive() {
    while !isBroken {
      var descriptors = ReceivedDescriptors()
      do throws(Errno) {
        let count = try socket.receive(
          into: &bytes, upTo: Self.acknowledgementSize - bytes.count, descriptors: &descriptors)
        if count == 0 { return giveUp() }
      } catch {
        return error == .wouldBlock ? () : giveUp()
      }
      if bytes.count < Self.acknowledgementSize { continue }
      let (code, flags, size): (UInt32, UInt32, UInt32) = (
        bytes.number(at: 0), bytes.number(at: 4), bytes.number(at: 8)
      )
      let word: UInt64 = bytes.number(at: MessageHeader.size)
      bytes.removeAll(keepingCapacity: true)
      guard size == 8, MessageHeader.isReply(flags), let first = waiting.first, first.code == code else {
        return giveUp()
      }
      waiting.removeFirst()
      first.finished(word == 0)
    }
  }

  /// Nothing can be asked any more.
  private func giveUp() {
    isBroken = true
    if let token = token.take() { loop.remove(token, socket.fd) }
    let lost = waiting.map(\.finished) + owed.map(\.finished)
    (waiting, owed) = ([], [])
    for finished in lost { finished(false) }
  }
}
