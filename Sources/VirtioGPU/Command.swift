internal import Guest
internal import Scanout
internal import Virtio

/// A number that the guest gives to a resource; 0 means none.
struct ResourceID: Hashable, Sendable, CustomStringConvertible {
  let rawValue: UInt32
  init(_ rawValue: UInt32) { self.rawValue = rawValue }
  var description: String { String(rawValue) }
}

/// The header of every command and response (virtio 1.3, 5.7.6.7: `struct virtio_gpu_ctrl_hdr`).
struct ControlHeader: Equatable {
  static let size = 24
  static let fenceFlag: UInt32 = 1
  /// The ring's number means something (VIRTIO_GPU_FLAG_INFO_RING_IDX).
  static let ringFlag: UInt32 = 2

  var type: UInt32
  var flags: UInt32
  var fenceID: UInt64
  var contextID: UInt32
  var ringIndex: UInt32

  var isFenced: Bool { flags & Self.fenceFlag != 0 }
  /// A flush of a blob is to be answered at its flip: Intel's driver for Windows gives it the number of a fence alone.
  var wantsPace: Bool { isFenced || fenceID != 0 }
}

/// A command (virtio 1.3, 5.7.6.8 to 5.7.6.10), decoded. Nothing in it is checked against the
/// device's state yet.
enum Command: Equatable {
  case getDisplayInfo
  case getEDID(ScanoutID)
  case createResource(ResourceID, format: UInt32, width: UInt32, height: UInt32)
  case unrefResource(ResourceID)
  case setScanout(ScanoutID, ResourceID, Rectangle)
  case flush(ResourceID, Rectangle)
  case transferToHost(ResourceID, Rectangle, offset: UInt64)
  /// The page list follows in the chain; it is read once its length was admitted.
  case attachBacking(ResourceID, entries: UInt32)
  case detachBacking(ResourceID)
  case assignUUID(ResourceID)
  /// The page list follows in the chain, as with `attachBacking`.
  case createBlob(ResourceID, BlobRequest, entries: UInt32)
  case setScanoutBlob(ScanoutID, ResourceID, Rectangle, BlobLayout)
  case mapBlob(ResourceID, offset: UInt64)
  case unmapBlob(ResourceID)
  /// The context's number is in the header, as in the three that follow.
  case createContext
  case destroyContext
  case attachToContext(ResourceID)
  case detachFromContext(ResourceID)
  case submit(size: UInt32)
  case updateCursor(ScanoutID, CursorPosition, ResourceID, hotX: UInt32, hotY: UInt32)
  case moveCursor(ScanoutID, CursorPosition, ResourceID)
  /// A command of a feature that was not offered, or none at all.
  case unknown(UInt32)

  /// The commands' names in the spec, for people.
  var name: String {
    switch self {
    case .getDisplayInfo: "GET_DISPLAY_INFO"
    case .getEDID: "GET_EDID"
    case .createResource: "RESOURCE_CREATE_2D"
    case .unrefResource: "RESOURCE_UNREF"
    case .setScanout: "SET_SCANOUT"
    case .flush: "RESOURCE_FLUSH"
    case .transferToHost: "TRANSFER_TO_HOST_2D"
    case .attachBacking: "RESOURCE_ATTACH_BACKING"
    case .detachBacking: "RESOURCE_DETACH_BACKING"
    case .assignUUID: "RESOURCE_ASSIGN_UUID"
    case .createBlob: "RESOURCE_CREATE_BLOB"
    case .setScanoutBlob: "SET_SCANOUT_BLOB"
    case .mapBlob: "RESOURCE_MAP_BLOB"
    case .unmapBlob: "RESOURCE_UNMAP_BLOB"
    case .createContext: "CTX_CREATE"
    case .destroyContext: "CTX_DESTROY"
    case .attachToContext: "CTX_ATTACH_RESOURCE"
    case .detachFromContext: "CTX_DETACH_RESOURCE"
    case .submit: "SUBMIT_3D"
    case .updateCursor: "UPDATE_CURSOR"
    case .moveCursor: "MOVE_CURSOR"
    case .unknown(let type): "command 0x\(String(type, radix: 16))"
    }
  }
}

/// What RESOURCE_CREATE_BLOB asks for (`struct virtio_gpu_resource_create_blob`).
struct BlobRequest: Equatable {
  var memory, flags: UInt32
  /// What of the host's memory; 0 for the guest's own.
  var blobID: UInt64
  /// In bytes.
  var size: UInt64
}

/// How an image lies in a blob (`struct virtio_gpu_set_scanout_blob`): four planes at most.
struct BlobLayout: Equatable {
  var width, height, format: UInt32
  var strides, offsets: [UInt32]
}

/// The type field of a command (`enum virtio_gpu_ctrl_type`).
enum CommandType {
  static let getDisplayInfo: UInt32 = 0x100
  static let resourceCreate2D: UInt32 = 0x101
  static let resourceUnref: UInt32 = 0x102
  static let setScanout: UInt32 = 0x103
  static let resourceFlush: UInt32 = 0x104
  static let transferToHost2D: UInt32 = 0x105
  static let resourceAttachBacking: UInt32 = 0x106
  static let resourceDetachBacking: UInt32 = 0x107
  static let getEDID: UInt32 = 0x10a
  static let resourceAssignUUID: UInt32 = 0x10b
  static let resourceCreateBlob: UInt32 = 0x10c
  static let setScanoutBlob: UInt32 = 0x10d
  static let contextCreate: UInt32 = 0x200
  static let contextDestroy: UInt32 = 0x201
  static let contextAttachResource: UInt32 = 0x202
  static let contextDetachResource: UInt32 = 0x203
  static let submit3D: UInt32 = 0x207
  static let resourceMapBlob: UInt32 = 0x208
  static let resourceUnmapBlob: UInt32 = 0x209
  static let updateCursor: UInt32 = 0x300
  static let moveCursor: UInt32 = 0x301
}

/// Reads commands out of chains. It keeps one buffer for the copies, so that a command costs no allocation.
struct CommandDecoder {
  private var bytes: [UInt8] = []

  /// The header, which every chain begins with.
  mutating func header(_ reader: inout ChainReader) throws(VirtQueueError) -> ControlHeader {
    try copy(ControlHeader.size, &reader)
    return ControlHeader(
      type: u32(0), flags: u32(4), fenceID: u64(8), contextID: u32(16), ringIndex: u32(20))
  }

  /// The command behind a header; the one place that knows how commands are laid out.
  /// - Throws: when the chain ends too early.
  mutating func command(
    _ header: ControlHeader, _ reader: inout ChainReader
  ) throws(VirtQueueError) -> Command {
    switch header.type {
    case CommandType.getDisplayInfo:
      return .getDisplayInfo
    case CommandType.getEDID:
      try copy(8, &reader)
      return .getEDID(ScanoutID(u32(0)))
    case CommandType.resourceCreate2D:
      try copy(16, &reader)
      return .createResource(ResourceID(u32(0)), format: u32(4), width: u32(8), height: u32(12))
    case CommandType.resourceUnref:
      try copy(8, &reader)
      return .unrefResource(ResourceID(u32(0)))
    case CommandType.setScanout:
      try copy(24, &reader)
      return .setScanout(ScanoutID(u32(16)), ResourceID(u32(20)), rectangle())
    case CommandType.resourceFlush:
      try copy(24, &reader)
      return .flush(ResourceID(u32(16)), rectangle())
    case CommandType.transferToHost2D:
      try copy(32, &reader)
      return .transferToHost(ResourceID(u32(24)), rectangle(), offset: u64(16))
    case CommandType.resourceAttachBacking:
      try copy(8, &reader)
      return .attachBacking(ResourceID(u32(0)), entries: u32(4))
    case CommandType.resourceDetachBacking:
      try copy(8, &reader)
      return .detachBacking(ResourceID(u32(0)))
    case CommandType.resourceAssignUUID:
      try copy(8, &reader)
      return .assignUUID(ResourceID(u32(0)))
    case CommandType.resourceCreateBlob:
      try copy(32, &reader)
      return .createBlob(
        ResourceID(u32(0)), BlobRequest(memory: u32(4), flags: u32(8), blobID: u64(16), size: u64(24)),
        entries: u32(12))
    case CommandType.setScanoutBlob:
      try copy(72, &reader)
      return .setScanoutBlob(
        ScanoutID(u32(16)), ResourceID(u32(20)), rectangle(),
        BlobLayout(
          width: u32(24), height: u32(28), format: u32(32), strides: (0..<4).map { u32(40 + 4 * $0) },
          offsets: (0..<4).map { u32(56 + 4 * $0) }))
    case CommandType.resourceMapBlob:
      try copy(16, &reader)
      return .mapBlob(ResourceID(u32(0)), offset: u64(8))
    case CommandType.resourceUnmapBlob:
      try copy(8, &reader)
      return .unmapBlob(ResourceID(u32(0)))
    case CommandType.contextCreate:
      // Its name and what it is for matter to 3D alone.
      try copy(72, &reader)
      return .createContext
    case CommandType.contextDestroy:
      return .destroyContext
    case CommandType.contextAttachResource:
      try copy(8, &reader)
      return .attachToContext(ResourceID(u32(0)))
    case CommandType.contextDetachResource:
      try copy(8, &reader)
      return .detachFromContext(ResourceID(u32(0)))
    case CommandType.submit3D:
      try copy(8, &reader)
      return .submit(size: u32(0))
    case CommandType.updateCursor, CommandType.moveCursor:
      // struct virtio_gpu_update_cursor: position (scanout, x, y, padding), resource, hot spot, padding.
      try copy(32, &reader)
      let scanout = ScanoutID(u32(0))
      // The numbers are unsigned in the spec; a cursor that leaves on the left comes as a large one.
      let position = CursorPosition(x: Int32(bitPattern: u32(4)), y: Int32(bitPattern: u32(8)))
      return header.type == CommandType.moveCursor
        ? .moveCursor(scanout, position, ResourceID(u32(16)))
        : .updateCursor(scanout, position, ResourceID(u32(16)), hotX: u32(20), hotY: u32(24))
    default:
      return .unknown(header.type)
    }
  }

  /// The page list behind RESOURCE_ATTACH_BACKING (`struct virtio_gpu_mem_entry`), in one descriptor or in
  /// many. `count` was admitted before, so that it bounds what is copied.
  mutating func pageList(
    count: UInt32, _ reader: inout ChainReader
  ) throws(VirtQueueError) -> [GuestRange] {
    try copy(Int(count) * 16, &reader)
    return (0..<Int(count)).map { entry in
      GuestRange(address: GuestAddress(u64(entry * 16)), length: UInt64(u32(entry * 16 + 8)))
    }
  }

  private mutating func copy(_ count: Int, _ reader: inout ChainReader) throws(VirtQueueError) {
    bytes.removeAll(keepingCapacity: true)
    try reader.read(count, into: &bytes)
  }

  private func u32(_ offset: Int) -> UInt32 {
    UInt32(bytes[offset]) | UInt32(bytes[offset + 1]) << 8 | UInt32(bytes[offset + 2]) << 16
      | UInt32(bytes[offset + 3]) << 24
  }

  private func u64(_ offset: Int) -> UInt64 { UInt64(u32(offset)) | UInt64(u32(offset + 4)) << 32 }

  private func rectangle() -> Rectangle {
    Rectangle(x: u32(0), y: u32(4), width: u32(8), height: u32(12))
  }
}
