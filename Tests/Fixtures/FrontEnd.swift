internal import CLinux
internal import CUdmabuf
package import Linux
package import SystemPackage

/// What went wrong at the front end's side of a test.
package enum FrontEndError: Error, Equatable {
  /// The back end closed the connection.
  case closed
  /// The back end has nothing more to do and has not answered.
  case noReply(UInt32)
  /// A back end in another process has not answered in `Patience`.
  case late
  case wrongReply([UInt8])
}

/// The front end of a vhost-user connection, which does what QEMU does, in QEMU's order. It shares no code
/// with the back end: bytes are written and read here once more.
///
/// Both ends may live in one thread: whenever this end waits for an answer, it calls `turn`, which lets the
/// other end work.
package final class FrontEnd {
  /// How memory is announced.
  package enum MemoryStyle: Sendable, CaseIterable {
    /// One `SET_MEM_TABLE`, again at every start.
    case table
    /// `ADD_MEM_REG` for each region, once.
    case slots
  }

  // Requests by their number in the specification.
  package static let getFeatures: UInt32 = 1
  package static let setFeatures: UInt32 = 2
  package static let setOwner: UInt32 = 3
  package static let resetOwner: UInt32 = 4
  package static let setMemoryTable: UInt32 = 5
  package static let setLogBase: UInt32 = 6
  package static let setLogDescriptor: UInt32 = 7
  package static let setVringNum: UInt32 = 8
  package static let setVringAddress: UInt32 = 9
  package static let setVringBase: UInt32 = 10
  package static let getVringBase: UInt32 = 11
  package static let setVringKick: UInt32 = 12
  package static let setVringCall: UInt32 = 13
  package static let setVringError: UInt32 = 14
  package static let getProtocolFeatures: UInt32 = 15
  package static let setProtocolFeatures: UInt32 = 16
  package static let getQueueNum: UInt32 = 17
  package static let setVringEnable: UInt32 = 18
  package static let setBackendRequestSocket: UInt32 = 21
  package static let getConfig: UInt32 = 24
  package static let setConfig: UInt32 = 25
  package static let setDisplaySocket: UInt32 = 33
  package static let resetDevice: UInt32 = 34
  package static let getMaxMemorySlots: UInt32 = 36
  package static let addMemoryRegion: UInt32 = 37
  package static let removeMemoryRegion: UInt32 = 38
  package static let getSharedObject: UInt32 = 41
  package static let getSharedMemoryConfig: UInt32 = 44

  /// Lets the back end work. It returns whether there was anything to do.
  package typealias Turn = () throws -> Bool

  package let socket: UnixSocket
  private let turn: Turn
  /// What the back end offered and what was taken of it.
  package private(set) var offeredFeatures: UInt64 = 0
  package private(set) var protocolFeatures: UInt64 = 0
  package private(set) var queueCount = 0
  private var lines: [(kick: Line, call: Line, error: Line)] = []
  private var memorySent = false
  /// The descriptors that came with the last answer.
  private var descriptors = ReceivedDescriptors()
  /// Feature bits that go into `SET_FEATURES` beside the ones that were offered, as vhost-user-gpu's do.
  package var extraFeatures: UInt64 = 1 << 40

  /// Deliver each message in pieces of so many bytes, with a turn of the back end after each; the
  /// descriptors go with the first piece.
  package var pieceSize: Int? = nil

  /// An eventfd of this side.
  package final class Line {
    package let event: EventFD
    package init() throws(Errno) { event = try EventFD() }
  }

  /// A descriptor that came with an answer.
  package final class Passed {
    package let fd: FD
    init(_ fd: consuming FD) { self.fd = fd }
  }

  package init(_ socket: consuming UnixSocket, turn: @escaping Turn) throws(Errno) {
    try socket.fd.setNonblocking()
    self.socket = socket
    self.turn = turn
  }

  // MARK: Messages

  /// Sends one message. `descriptors` are borrowed for the call.
  package func send(
    _ request: UInt32, _ payload: [UInt8] = [], flags: UInt32 = 1, size: UInt32? = nil,
    descriptors: [CInt] = []
  ) throws {
    let message = bytes(request, flags, size ?? UInt32(payload.count)) + payload
    let step = pieceSize ?? message.count
    for start in stride(from: 0, to: message.count, by: step) {
      let piece = Array(message[start..<min(start + step, message.count)])
      try sendBytes(piece, descriptors: start == 0 ? descriptors : [])
      if pieceSize != nil { _ = try turn() }
    }
  }

  /// Sends any bytes: a part of a message, or none.
  package func sendBytes(_ bytes: [UInt8], descriptors: [CInt] = []) throws {
    var idle = 0
    while try !sendOnce(bytes, descriptors) {
      idle = try turn() ? 0 : idle + 1
      if idle > 2 { throw FrontEndError.noReply(0) }
    }
  }

  /// - Returns: false when the socket is full.
  private func sendOnce(_ bytes: [UInt8], _ descriptors: [CInt]) throws -> Bool {
    let sent: Int
    do {
      sent = unsafe try socket.send(bytes.span.bytes, rawDescriptors: descriptors)
    } catch {
      if error == .wouldBlock { return false }
      throw error == .brokenPipe ? FrontEndError.closed : error
    }
    precondition(sent == bytes.count, "a short message is sent whole")
    return true
  }

  /// The payload of the answer to `request`.
  package func reply(to request: UInt32) throws -> [UInt8] {
    descriptors = ReceivedDescriptors()
    let header = try receive(12, for: request)
    let (code, flags): (UInt32, UInt32) = (header.value(at: 0), header.value(at: 4))
    guard code == request, flags == 5 else { throw FrontEndError.wrongReply(header) }
    return try receive(Int(header.value(at: 8) as UInt32), for: request)
  }

  private func receive(_ size: Int, for request: UInt32) throws -> [UInt8] {
    var bytes: [UInt8] = []
    var idle = 0
    while bytes.count < size {
      if try receiveSome(into: &bytes, upTo: size - bytes.count) {
        idle = 0
      } else {
        idle = try turn() ? 0 : idle + 1
        if idle > 2 { throw FrontEndError.noReply(request) }
      }
    }
    return bytes
  }

  /// - Returns: false when nothing is there.
  private func receiveSome(into bytes: inout [UInt8], upTo count: Int) throws -> Bool {
    let received: Int
    do {
      received = try socket.receive(into: &bytes, upTo: count, descriptors: &descriptors)
    } catch {
      if error == .wouldBlock { return false }
      throw error == .connectionReset ? FrontEndError.closed : error
    }
    if received == 0 { throw FrontEndError.closed }
    return true
  }

  /// Whether there is anything to read, the end of the stream included.
  package var hasInput: Bool { socket.fd.withRaw { cu_pollable($0, CL_EPOLLIN, 0) } == 1 }

  /// Asks, and returns the answer's payload.
  package func ask(_ request: UInt32, _ payload: [UInt8] = [], descriptors: [CInt] = []) throws -> [UInt8] {
    try send(request, payload, descriptors: descriptors)
    return try reply(to: request)
  }

  package func askWord(_ request: UInt32) throws -> UInt64 { try ask(request).value(at: 0) }

  /// Sends a message and waits until the back end says that it is done, if it can (`REPLY_ACK`).
  package func tell(_ request: UInt32, _ payload: [UInt8] = [], descriptors: [CInt] = []) throws {
    guard protocolFeatures & 1 << 3 != 0 else {
      return try send(request, payload, descriptors: descriptors)
    }
    try send(request, payload, flags: 1 | 1 << 3, descriptors: descriptors)
    let answer = try reply(to: request)
    if answer != [UInt8](repeating: 0, count: 8) { throw FrontEndError.wrongReply(answer) }
  }

  private func bytes(_ numbers: UInt32...) -> [UInt8] { numbers.flatMap { $0.bytes } }

  // MARK: What QEMU does

  /// The start of a device, before there is a driver.
  /// - Parameters:
  ///   - memory: with `.table`, slots are not negotiated even if they are offered.
  ///   - replyAck: whether acknowledgements are negotiated.
  ///   - backendRequests: whether to hand over a socket for the back end's requests, and which.
  ///   - sharedObjects: whether this front end knows objects that devices share.
  ///   - sharedMemory: whether it can map host memory into the guest.
  package func realize(
    memory: MemoryStyle, replyAck: Bool = true, backendRequests: CInt? = nil, sharedObjects: Bool = false,
    sharedMemory: Bool = false
  ) throws {
    offeredFeatures = try askWord(Self.getFeatures)
    var wanted = try askWord(Self.getProtocolFeatures)
    wanted &= 1 << 0 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 18 | 1 << 22
    if memory == .table { wanted &= ~(1 << 15) }
    if !replyAck { wanted &= ~(1 << 3) }
    if backendRequests == nil { wanted &= ~(1 << 5) }
    if !sharedObjects { wanted &= ~(1 << 18) }
    if !sharedMemory { wanted &= ~(1 << 22) }
    try send(Self.setProtocolFeatures, wanted.bytes)
    protocolFeatures = wanted
    queueCount = Int(try askWord(Self.getQueueNum))
    if memory == .slots { _ = try askWord(Self.getMaxMemorySlots) }
    if let backendRequests { try tell(Self.setBackendRequestSocket, descriptors: [backendRequests]) }
    try send(Self.setOwner)
    offeredFeatures = try askWord(Self.getFeatures)
    lines = try (0..<queueCount).map { _ in (try Line(), try Line(), try Line()) }
    for queue in 0..<queueCount {
      try sendLine(Self.setVringCall, queue, lines[queue].call)
      try sendLine(Self.setVringError, queue, lines[queue].error)
    }
  }

  /// The configuration space, as the driver's probe reads it.
  package func config(offset: UInt32 = 0, size: UInt32) throws -> [UInt8] {
    let answer = try ask(
      Self.getConfig, bytes(offset, size, 0) + [UInt8](repeating: 0, count: Int(size)))
    return Array(answer.dropFirst(12))
  }

  package func writeConfig(offset: UInt32 = 0, _ config: [UInt8]) throws {
    try send(Self.setConfig, bytes(offset, UInt32(config.count), 0) + config)
  }

  /// Asks for the object of that name, as for another device that looked it up.
  /// - Returns: its descriptor; nil if the back end has none of that name.
  package func sharedObject(_ uuid: [UInt8]) throws -> Passed? {
    let answer = try ask(Self.getSharedObject, uuid)
    if !answer.isEmpty || descriptors.count > 1 { throw FrontEndError.wrongReply(answer) }
    guard let fd = descriptors.take(0) else { return nil }
    return Passed(fd)
  }

  /// The driver is ready: features, memory, and one ring after the other. The rings start at the index that
  /// the driver's ring has now.
  package func start(_ queues: [DriverQueue], display: CInt? = nil) throws {
    if let display { try send(Self.setDisplaySocket, descriptors: [display]) }
    var features = offeredFeatures | extraFeatures
    if !queues.allSatisfy(\.eventIndex) { features &= ~(1 << 29) }
    try send(Self.setFeatures, features.bytes)
    if let ram = queues.first?.ram { try sendMemory(ram) }
    for (index, queue) in queues.enumerated() { try setUp(index, queue, base: queue.seenUsed) }
    for index in queues.indices { try enable(index, true) }
    for index in queues.indices { try sendLine(Self.setVringCall, index, lines[index].call) }
  }

  /// Announces all of the RAM, in the way that was negotiated.
  package func sendMemory(_ ram: GuestRAM) throws {
    if protocolFeatures & 1 << 15 == 0 {
      try sendTable(ram, ram.blocks)
    } else if !memorySent {
      for block in ram.blocks { try add(ram, block) }
    }
    memorySent = true
  }

  package func sendTable(_ ram: GuestRAM, _ blocks: [GuestRAM.Block]) throws {
    let payload = bytes(UInt32(blocks.count), 0) + blocks.flatMap(Self.region)
    try tell(Self.setMemoryTable, payload, descriptors: blocks.map { ram.files[$0.file].number })
  }

  package func add(_ ram: GuestRAM, _ block: GuestRAM.Block) throws {
    try tell(
      Self.addMemoryRegion, bytes(0, 0) + Self.region(block), descriptors: [ram.files[block.file].number])
  }

  package func remove(_ block: GuestRAM.Block) throws {
    try tell(Self.removeMemoryRegion, bytes(0, 0) + Self.region(block))
  }

  /// `VhostUserMemoryRegion`
  package static func region(_ block: GuestRAM.Block) -> [UInt8] {
    [block.address, block.length, GuestRAM.userBase + block.address, block.offset].flatMap { $0.bytes }
  }

  /// Everything that a ring needs, but for its enabling.
  package func setUp(_ index: Int, _ queue: DriverQueue, base: UInt16) throws {
    try send(Self.setVringNum, bytes(UInt32(index), UInt32(queue.size)))
    try send(Self.setVringBase, bytes(UInt32(index), UInt32(base)))
    try send(Self.setVringAddress, Self.addresses(index, queue))
    try sendLine(Self.setVringKick, index, lines[index].kick)
  }

  /// `struct vhost_vring_addr`
  package static func addresses(_ index: Int, _ queue: DriverQueue) -> [UInt8] {
    let base = GuestRAM.userBase
    return [UInt32(index), 0].flatMap { $0.bytes }
      + [base + queue.descriptors, base + queue.used, base + queue.available, 0].flatMap { $0.bytes }
  }

  package func enable(_ index: Int, _ isEnabled: Bool) throws {
    try tell(Self.setVringEnable, bytes(UInt32(index), isEnabled ? 1 : 0))
  }

  package func sendLine(_ request: UInt32, _ index: Int, _ line: Line) throws {
    let number = line.event.fd.withRaw { $0 }
    try send(request, UInt64(index).bytes, descriptors: [number])
  }

  /// The VM pauses, or the driver resets the device.
  /// - Returns: the index at which each ring stopped.
  package func stop() throws -> [UInt16] {
    for index in 0..<queueCount { try enable(index, false) }
    return try (0..<queueCount).map(base)
  }

  /// Stops one ring.
  package func base(of index: Int) throws -> UInt16 {
    let answer = try ask(Self.getVringBase, bytes(UInt32(index), 0))
    guard answer.value(at: 0) == UInt32(index) else { throw FrontEndError.wrongReply(answer) }
    return UInt16(answer.value(at: 4) as UInt32)
  }

  // MARK: Events

  package func kick(_ index: Int) { lines[index].kick.event.signal() }

  /// Kicks if the device asked for it, as a driver does.
  /// - Returns: whether it did.
  @discardableResult
  package func kickIfWanted(_ index: Int, _ queue: DriverQueue) -> Bool {
    let wanted = queue.wantsKick()
    if wanted { kick(index) }
    return wanted
  }

  /// Whether the back end called since the last look.
  package func called(_ index: Int) -> Bool { lines[index].call.event.drain() }

  /// Whether the back end reported an error since the last look.
  package func failed(_ index: Int) -> Bool { lines[index].error.event.drain() }

  package func line(_ index: Int) -> (kick: Line, call: Line, error: Line) { lines[index] }
}

extension Memfd {
  /// The number, for a call that passes it on.
  package var number: CInt { withDescriptor { $0.withRaw { $0 } } }
}

extension FixedWidthInteger {
  /// In the byte order of the machine.
  package var bytes: [UInt8] {
    (0..<Self.bitWidth / 8).map { UInt8(truncatingIfNeeded: self >> Self(8 * $0)) }
  }
}

extension [UInt8] {
  package func value<Number: FixedWidthInteger>(at offset: Int) -> Number {
    self[offset..<offset + Number.bitWidth / 8].reversed().reduce(0) { $0 << 8 | Number($1) }
  }
}
