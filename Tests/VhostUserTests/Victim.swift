import Fixtures
import Linux
import Testing
import VhostUser

/// A well-formed message of each kind.
struct Form: CustomTestStringConvertible, Sendable {
  let request: Request
  let payload: [UInt8]
  let descriptors: Int
  /// It may also come with one descriptor more.
  var toleratesDescriptor = false
  /// Its payload may also have this size.
  var otherSize: Int? = nil

  var testDescription: String { "\(request)" }

  static let all: [Form] = [
    Form(request: .getFeatures, payload: [], descriptors: 0),
    Form(request: .setFeatures, payload: UInt64(1 << 32 | 1 << 30).bytes, descriptors: 0),
    Form(request: .setOwner, payload: [], descriptors: 0),
    Form(request: .resetOwner, payload: [], descriptors: 0),
    Form(
      request: .setMemoryTable,
      payload: numbers(2, 0) + FrontEnd.region(blocks[0]) + FrontEnd.region(blocks[1]), descriptors: 2),
    Form(
      request: .setLogBase, payload: UInt64(4096).bytes + UInt64(0).bytes, descriptors: 0,
      toleratesDescriptor: true, otherSize: 8),
    Form(request: .setLogDescriptor, payload: [], descriptors: 0, toleratesDescriptor: true),
    Form(request: .setVringSize, payload: numbers(0, 64), descriptors: 0),
    Form(
      request: .setVringAddress, payload: numbers(0, 0) + [UInt8](repeating: 0, count: 32), descriptors: 0),
    Form(request: .setVringBase, payload: numbers(0, 0), descriptors: 0),
    Form(request: .getVringBase, payload: numbers(0, 0), descriptors: 0),
    Form(request: .setVringKick, payload: UInt64(0).bytes, descriptors: 1),
    Form(request: .setVringCall, payload: UInt64(0).bytes, descriptors: 1),
    Form(request: .setVringError, payload: UInt64(1).bytes, descriptors: 1),
    Form(request: .getProtocolFeatures, payload: [], descriptors: 0),
    Form(request: .setProtocolFeatures, payload: UInt64(0).bytes, descriptors: 0),
    Form(request: .getQueueCount, payload: [], descriptors: 0),
    Form(request: .setVringEnable, payload: numbers(0, 0), descriptors: 0),
    Form(request: .setBackendRequestSocket, payload: [], descriptors: 1),
    Form(request: .getConfig, payload: numbers(0, 4, 0, 0), descriptors: 0),
    Form(request: .setConfig, payload: numbers(0, 4, 0, 7), descriptors: 0),
    Form(request: .setDisplaySocket, payload: [], descriptors: 1),
    Form(request: .resetDevice, payload: [], descriptors: 0),
    Form(request: .getMaxMemorySlots, payload: [], descriptors: 0),
    Form(request: .addMemoryRegion, payload: numbers(0, 0) + FrontEnd.region(blocks[2]), descriptors: 1),
    Form(
      request: .removeMemoryRegion, payload: numbers(0, 0) + FrontEnd.region(blocks[0]), descriptors: 0,
      toleratesDescriptor: true),
    Form(
      request: .getSharedObject, payload: [UInt8](repeating: 7, count: 16), descriptors: 0,
      otherSize: 0),
    Form(request: .getSharedMemoryConfig, payload: [], descriptors: 0),
  ]

  static let blocks: [GuestRAM.Block] = [
    .init(at: 0, length: 0x1000), .init(at: 0x1000, length: 0x1000, offset: 0x1000),
    .init(at: 0x2000, length: 0x1000, offset: 0x2000),
  ]
}

func numbers(_ numbers: UInt32...) -> [UInt8] { numbers.flatMap { $0.bytes } }

/// A session past its handshake, with two regions of memory and no ring.
final class Victim {
  let setup: Setup
  let file: Memfd
  private let spare: Spare

  /// A socket to hand over.
  private final class Spare {
    let socket: UnixSocket
    init(_ socket: consuming UnixSocket) { self.socket = socket }
  }

  init() throws {
    setup = try Setup(ram: GuestRAM(size: 1 << 16))
    setup.device.sharedMemory = [1: 1 << 16]
    var spare: Spare?
    try UnixSocket.pair { mine, _ in spare = Spare(mine) }
    self.spare = spare!
    file = try Memfd.create(name: "victim", size: 0x3000)
    try setup.frontEnd.realize(
      memory: .slots, backendRequests: self.spare.socket.fd.withRaw { $0 }, sharedObjects: true,
      sharedMemory: true)
    try setup.frontEnd.send(FrontEnd.setFeatures, UInt64(1 << 32 | 1 << 30).bytes)
    try setup.frontEnd.tell(
      FrontEnd.setMemoryTable, Form.all.first { $0.request == .setMemoryTable }!.payload,
      descriptors: [file.number, file.number])
  }

  /// Descriptors of the kind that the message wants.
  func descriptors(for request: Request, _ count: Int) -> [CInt] {
    let number: CInt =
      switch request {
      case .setBackendRequestSocket, .setDisplaySocket: spare.socket.fd.withRaw { $0 }
      case .setVringKick, .setVringCall, .setVringError: setup.frontEnd.line(0).kick.event.fd.withRaw { $0 }
      default: file.number
      }
    return [CInt](repeating: number, count: count)
  }

  /// How the session ends after this message, or nil if it goes on.
  func end(after request: Request, _ payload: [UInt8], descriptors: Int = 0) throws -> VhostUserError? {
    try setup.frontEnd.send(
      request.rawValue, payload, descriptors: self.descriptors(for: request, descriptors))
    try setup.link.settle()
    return setup.error
  }
}
