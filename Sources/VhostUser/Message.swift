internal import Guest
internal import Virtio

/// The first 12 bytes of every message, in the byte order of the machine.
struct MessageHeader {
  static let size = 12
  /// The limit is far above every message of the protocol.
  static let maxPayload: UInt32 = 4096

  let request: Request
  let needsReply: Bool
  /// The payload's size in bytes, at most `maxPayload`.
  let payloadSize: Int

  private static let version: UInt32 = 1
  private static let replyFlag: UInt32 = 1 << 2
  private static let needReplyFlag: UInt32 = 1 << 3

  init(_ bytes: [UInt8]) throws(VhostUserError) {
    let flags: UInt32 = bytes.number(at: 4)
    if flags & 0x3 != Self.version { throw .version(flags: flags) }
    let code: UInt32 = bytes.number(at: 0)
    if flags & Self.replyFlag != 0 { throw .replyInsteadOfRequest(code: code) }
    guard let request = Request(rawValue: code) else { throw .unknownRequest(code) }
    let size: UInt32 = bytes.number(at: 8)
    if size > Self.maxPayload { throw .payloadTooLong(request, size: size, limit: Self.maxPayload) }
    self.request = request
    needsReply = flags & Self.needReplyFlag != 0
    payloadSize = Int(size)
  }

  /// Whether these flags are those of an answer.
  static func isReply(_ flags: UInt32) -> Bool { flags & (0x3 | replyFlag) == version | replyFlag }

  /// The header of a message from this side.
  static func encode(
    code: UInt32, isReply: Bool = false, needsReply: Bool = false, payloadSize: Int
  ) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(number: code)
    bytes.append(number: version | (isReply ? replyFlag : 0) | (needsReply ? needReplyFlag : 0))
    bytes.append(number: UInt32(payloadSize))
    return bytes
  }
}

/// One region of a memory table, of which only the form was checked.
struct RegionDescription: Equatable {
  static let size = 32

  let guestAddress: GuestAddress
  let length: UInt64
  let userAddress: UInt64
  let offset: UInt64

  fileprivate init(_ bytes: [UInt8], at offset: Int) {
    guestAddress = GuestAddress(bytes.number(at: offset))
    length = bytes.number(at: offset + 8)
    userAddress = bytes.number(at: offset + 16)
    self.offset = bytes.number(at: offset + 24)
  }
}

/// The addresses of a ring, in the front end's own address space.
struct VringAddresses: Equatable {
  var descriptors: UInt64
  var available: UInt64
  var used: UInt64
}

/// A request with its payload. Its descriptors are kept apart; their number was checked.
enum Message {
  case getFeatures
  case setFeatures(UInt64)
  case setOwner
  case resetOwner
  case setMemoryTable([RegionDescription])
  case setLogBase
  case setLogDescriptor
  case setVringSize(queue: UInt32, size: UInt32)
  case setVringAddress(queue: UInt32, VringAddresses)
  case setVringBase(queue: UInt32, base: UInt32)
  case getVringBase(queue: UInt32)
  case setVringKick(queue: UInt32, hasDescriptor: Bool)
  case setVringCall(queue: UInt32, hasDescriptor: Bool)
  case setVringError(queue: UInt32, hasDescriptor: Bool)
  case getProtocolFeatures
  case setProtocolFeatures(UInt64)
  case getQueueCount
  case setVringEnable(queue: UInt32, Bool)
  case setBackendRequestSocket
  case getConfig(offset: UInt32, size: UInt32)
  case setConfig(offset: UInt32, [UInt8])
  case setDisplaySocket
  case resetDevice
  case getMaxMemorySlots
  case addMemoryRegion(RegionDescription)
  case removeMemoryRegion(RegionDescription)
  /// Nil if the front end did not name one.
  case getSharedObject(ObjectUUID?)
  case getSharedMemoryConfig

  /// The most regions in one `SET_MEM_TABLE`.
  static let maxRegionsInTable = 8
  /// `VHOST_USER_MAX_CONFIG_SIZE`: no configuration space is larger.
  static let maxConfigSize = 256

  /// Decodes a payload. Its size and the number of descriptors are checked before any field is used.
  init(_ request: Request, _ payload: [UInt8], descriptorCount: Int) throws(VhostUserError) {
    let form = Form(request: request, payload: payload, descriptorCount: descriptorCount)
    switch request {
    case .getFeatures: self = try form.empty(.getFeatures)
    case .setFeatures: self = .setFeatures(try form.word())
    case .setOwner: self = try form.empty(.setOwner)
    case .resetOwner: self = try form.empty(.resetOwner)
    case .setMemoryTable: self = .setMemoryTable(try form.regions())
    case .setLogBase: self = try form.log(.setLogBase, sizes: [16, 8])
    case .setLogDescriptor: self = try form.log(.setLogDescriptor, sizes: [0])
    case .setVringSize:
      let (queue, size) = try form.vringState()
      self = .setVringSize(queue: queue, size: size)
    case .setVringAddress:
      let (queue, addresses) = try form.vringAddresses()
      self = .setVringAddress(queue: queue, addresses)
    case .setVringBase:
      let (queue, base) = try form.vringState()
      self = .setVringBase(queue: queue, base: base)
    case .getVringBase: self = .getVringBase(queue: try form.vringState().queue)
    case .setVringKick:
      let (queue, hasDescriptor) = try form.vringDescriptor()
      self = .setVringKick(queue: queue, hasDescriptor: hasDescriptor)
    case .setVringCall:
      let (queue, hasDescriptor) = try form.vringDescriptor()
      self = .setVringCall(queue: queue, hasDescriptor: hasDescriptor)
    case .setVringError:
      let (queue, hasDescriptor) = try form.vringDescriptor()
      self = .setVringError(queue: queue, hasDescriptor: hasDescriptor)
    case .getProtocolFeatures: self = try form.empty(.getProtocolFeatures)
    case .setProtocolFeatures: self = .setProtocolFeatures(try form.word())
    case .getQueueCount: self = try form.empty(.getQueueCount)
    case .setVringEnable:
      let (queue, state) = try form.vringState()
      if state > 1 { throw .value(request, field: "state", value: UInt64(state), wanted: "0 or 1") }
      self = .setVringEnable(queue: queue, state == 1)
    case .setBackendRequestSocket: self = try form.empty(.setBackendRequestSocket, descriptors: 1)
    case .getConfig:
      let (offset, bytes) = try form.config()
      self = .getConfig(offset: offset, size: UInt32(bytes.count))
    case .setConfig:
      let (offset, bytes) = try form.config()
      self = .setConfig(offset: offset, bytes)
    case .setDisplaySocket: self = try form.empty(.setDisplaySocket, descriptors: 1)
    case .resetDevice: self = try form.empty(.resetDevice)
    case .getMaxMemorySlots: self = try form.empty(.getMaxMemorySlots)
    case .addMemoryRegion:
      self = .addMemoryRegion(try form.region(descriptors: 1))
    case .removeMemoryRegion:
      // The specification lets a front end send one descriptor, which is closed unused.
      self = .removeMemoryRegion(try form.region(descriptors: descriptorCount == 1 ? 1 : 0))
    case .getSharedObject: self = .getSharedObject(try form.sharedObject())
    case .getSharedMemoryConfig: self = try form.empty(.getSharedMemoryConfig)
    }
  }
}

/// The payloads that occur. Each function checks the sizes, then reads the fields.
private struct Form {
  let request: Request
  let payload: [UInt8]
  let descriptorCount: Int

  private func check(size: Int, descriptors: Int = 0) throws(VhostUserError) {
    if payload.count != size { throw .payloadSize(request, size: payload.count, expected: size) }
    if descriptorCount != descriptors {
      throw .descriptorCount(request, count: descriptorCount, expected: descriptors)
    }
  }

  func empty(_ message: Message, descriptors: Int = 0) throws(VhostUserError) -> Message {
    try check(size: 0, descriptors: descriptors)
    return message
  }

  func word() throws(VhostUserError) -> UInt64 {
    try check(size: 8)
    return payload.number(at: 0)
  }

  /// `struct vhost_vring_state`
  func vringState() throws(VhostUserError) -> (queue: UInt32, number: UInt32) {
    try check(size: 8)
    return (payload.number(at: 0), payload.number(at: 4))
  }

  /// `struct vhost_vring_addr`
  func vringAddresses() throws(VhostUserError) -> (queue: UInt32, VringAddresses) {
    try check(size: 40)
    let flags: UInt32 = payload.number(at: 4)
    // VHOST_VRING_F_LOG: the used ring is to be logged.
    if flags > 1 { throw .value(request, field: "flags", value: UInt64(flags), wanted: "0 or 1") }
    let addresses = VringAddresses(
      descriptors: payload.number(at: 8), available: payload.number(at: 24), used: payload.number(at: 16))
    return (payload.number(at: 0), addresses)
  }

  /// The log of a migration, which is not offered. A descriptor that comes with it is closed unused.
  func log(_ message: Message, sizes: [Int]) throws(VhostUserError) -> Message {
    try check(
      size: sizes.contains(payload.count) ? payload.count : sizes[0],
      descriptors: descriptorCount == 1 ? 1 : 0)
    return message
  }

  /// The queue in bits 0 to 7; bit 8 says that no descriptor comes.
  func vringDescriptor() throws(VhostUserError) -> (queue: UInt32, hasDescriptor: Bool) {
    if payload.count != 8 { throw .payloadSize(request, size: payload.count, expected: 8) }
    let word: UInt64 = payload.number(at: 0)
    let hasDescriptor = word & 0x100 == 0
    try check(size: 8, descriptors: hasDescriptor ? 1 : 0)
    if word > 0x1ff {
      throw .value(request, field: "payload", value: word, wanted: "a queue and bit 8 alone")
    }
    return (UInt32(word & 0xff), hasDescriptor)
  }

  func regions() throws(VhostUserError) -> [RegionDescription] {
    if payload.count < 8 { throw .payloadSize(request, size: payload.count, expected: 8) }
    let count: UInt32 = payload.number(at: 0)
    if count > Message.maxRegionsInTable {
      throw .value(
        request, field: "the number of regions", value: UInt64(count),
        wanted: "at most \(Message.maxRegionsInTable)")
    }
    try check(size: 8 + Int(count) * RegionDescription.size, descriptors: Int(count))
    return (0..<Int(count)).map { RegionDescription(payload, at: 8 + $0 * RegionDescription.size) }
  }

  func region(descriptors: Int) throws(VhostUserError) -> RegionDescription {
    try check(size: 8 + RegionDescription.size, descriptors: descriptors)
    return RegionDescription(payload, at: 8)
  }

  /// `struct VhostUserShared`, or nothing: QEMU up to 10.1 at least sends the header alone.
  func sharedObject() throws(VhostUserError) -> ObjectUUID? {
    try check(size: payload.isEmpty ? 0 : ObjectUUID.size)
    return payload.isEmpty ? nil : ObjectUUID(payload)
  }

  func config() throws(VhostUserError) -> (offset: UInt32, [UInt8]) {
    if payload.count < 12 { throw .payloadSize(request, size: payload.count, expected: 12) }
    let (offset, size): (UInt32, UInt32) = (payload.number(at: 0), payload.number(at: 4))
    if size == 0 || size > Message.maxConfigSize {
      throw .value(request, field: "size", value: UInt64(size), wanted: "1 to \(Message.maxConfigSize)")
    }
    try check(size: 12 + Int(size))
    if UInt64(offset) + UInt64(size) > Message.maxConfigSize {
      throw .value(
        request, field: "offset", value: UInt64(offset),
        wanted: "at most \(Message.maxConfigSize - Int(size))")
    }
    let flags: UInt32 = payload.number(at: 8)
    if flags > 1 { throw .value(request, field: "flags", value: UInt64(flags), wanted: "0 or 1") }
    return (offset, Array(payload[12...]))
  }
}

/// The answers of a session.
enum Reply {
  case word(UInt64)
  case vringState(queue: UInt32, number: UInt32)
  case config(offset: UInt32, [UInt8])
  /// The sizes of the shared memory regions, by their ids.
  case sharedMemory([UInt8: UInt64])
  /// The answer to a request for a descriptor, which goes with it, or is missing.
  case empty

  func encode(to request: Request) -> [UInt8] {
    var payload: [UInt8] = []
    switch self {
    case .word(let word): payload.append(number: word)
    case .vringState(let queue, let number):
      payload.append(number: queue)
      payload.append(number: number)
    case .config(let offset, let bytes):
      payload.append(number: offset)
      payload.append(number: UInt32(bytes.count))
      payload.append(number: UInt32(0))
      payload += bytes
    case .sharedMemory(let sizes):
      // `VhostUserShMemConfig`: as many sizes as there are ids.
      payload.append(number: UInt32(sizes.count))
      payload.append(number: UInt32(0))
      for id in UInt8.min...UInt8.max { payload.append(number: sizes[id] ?? 0) }
    case .empty: break
    }
    return MessageHeader.encode(code: request.rawValue, isReply: true, payloadSize: payload.count) + payload
  }
}

extension [UInt8] {
  /// A number in the byte order of the machine. Reading past the end traps: sizes are checked before.
  func number<Number: FixedWidthInteger & BitwiseCopyable>(at offset: Int) -> Number {
    unsafe span.bytes.unsafeLoadUnaligned(fromByteOffset: offset, as: Number.self)
  }

  mutating func append<Number: FixedWidthInteger & BitwiseCopyable>(number: Number) {
    unsafe Swift.withUnsafeBytes(of: number) { unsafe append(contentsOf: $0) }
  }
}
