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
  /// Whether the ring's number is valid (VIRTIO_GPU_FLAG_INFO_RING_IDX).
  static let ringFlag: UInt32 = 2

  var type: UInt32
  var flags: UInt32
  var fenceID: UInt64
  var contextID: UInt32
  var ringIndex: UInt32

  var isFenced: Bool { flags & Self.fenceFlag != 0 }
  /// Whether a flush of a blob is to be answered at its flip. Intel's driver for Windows sets the fence's number, but not
  /// the flag.
  var wantsPace: Bool { isFenced || fenceID != 0 }
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
