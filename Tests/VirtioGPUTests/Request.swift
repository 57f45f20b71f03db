import Fixtures
import Scanout

/// Commands as a driver lays them out: `struct virtio_gpu_*` of `linux/virtio_gpu.h`. Nothing of the device's
/// own decoder is used.
enum Request {
  static let controlTypes: [UInt32] = [
    0x100, 0x101, 0x102, 0x103, 0x104, 0x105, 0x106, 0x107, 0x10a, 0x10b, 0x10c, 0x10d, 0x200, 0x202, 0x203,
    0x207, 0x208, 0x209,
  ]
  static let cursorTypes: [UInt32] = [0x300, 0x301]

  /// `struct virtio_gpu_ctrl_hdr`
  static func header(
    _ type: UInt32, fence: UInt64? = nil, context: UInt32 = 0, moreFlags: UInt32 = 0
  ) -> [UInt8] {
    words([type, (fence == nil ? 0 : 1) | moreFlags]) + (fence ?? 0).bytes + words([context, 0])
  }

  static func displayInfo(fence: UInt64? = nil) -> [UInt8] { header(0x100, fence: fence) }

  static func create(
    _ id: UInt32, format: UInt32 = 2, _ width: UInt32 = 64, _ height: UInt32 = 48, fence: UInt64? = nil
  ) -> [UInt8] { header(0x101, fence: fence) + words([id, format, width, height]) }

  static func unref(_ id: UInt32, fence: UInt64? = nil) -> [UInt8] {
    header(0x102, fence: fence) + words([id, 0])
  }

  static func setScanout(
    _ scanout: UInt32, _ id: UInt32, _ area: Rectangle = Rectangle(x: 0, y: 0, width: 64, height: 48)
  ) -> [UInt8] { header(0x103) + rectangle(area) + words([scanout, id]) }

  static func flush(
    _ id: UInt32, _ area: Rectangle = Rectangle(x: 0, y: 0, width: 64, height: 48), fence: UInt64? = nil
  ) -> [UInt8] { header(0x104, fence: fence) + rectangle(area) + words([id, 0]) }

  static func transfer(
    _ id: UInt32, _ area: Rectangle = Rectangle(x: 0, y: 0, width: 64, height: 48), offset: UInt64 = 0,
    fence: UInt64? = nil
  ) -> [UInt8] { header(0x105, fence: fence) + rectangle(area) + offset.bytes + words([id, 0]) }

  /// `count` is what the command says; by default the truth.
  static func attach(
    _ id: UInt32, _ entries: [(address: UInt64, length: UInt32)], count: UInt32? = nil, fence: UInt64? = nil
  ) -> [UInt8] {
    header(0x106, fence: fence) + words([id, count ?? UInt32(entries.count)])
      + entries.flatMap { $0.address.bytes + words([$0.length, 0]) }
  }

  static func detach(_ id: UInt32, fence: UInt64? = nil) -> [UInt8] {
    header(0x107, fence: fence) + words([id, 0])
  }

  static func edid(_ scanout: UInt32) -> [UInt8] { header(0x10a) + words([scanout, 0]) }

  static func assignUUID(_ id: UInt32, fence: UInt64? = nil) -> [UInt8] {
    header(0x10b, fence: fence) + words([id, 0])
  }

  /// `struct virtio_gpu_resource_create_blob`; `count` is what the command says of its entries.
  static func createBlob(
    _ id: UInt32, size: UInt64, _ entries: [(address: UInt64, length: UInt32)] = [], memory: UInt32 = 1,
    flags: UInt32 = 2, blobID: UInt64 = 0, count: UInt32? = nil, context: UInt32 = 0
  ) -> [UInt8] {
    header(0x10c, context: context) + words([id, memory, flags, count ?? UInt32(entries.count)])
      + blobID.bytes + size.bytes + entries.flatMap { $0.address.bytes + words([$0.length, 0]) }
  }

  /// `struct virtio_gpu_set_scanout_blob`
  static func setScanoutBlob(
    _ scanout: UInt32, _ id: UInt32, _ width: UInt32 = 64, _ height: UInt32 = 48, format: UInt32 = 2,
    stride: UInt32? = nil, offset: UInt32 = 0, area: Rectangle? = nil
  ) -> [UInt8] {
    header(0x10d) + rectangle(area ?? Rectangle(x: 0, y: 0, width: width, height: height))
      + words([scanout, id, width, height, format, 0])
      + words([stride ?? width &* 4, 0, 0, 0, offset, 0, 0, 0])
  }

  /// `struct virtio_gpu_resource_map_blob`
  static func mapBlob(_ id: UInt32, at offset: UInt64, fence: UInt64? = nil) -> [UInt8] {
    header(0x208, fence: fence) + words([id, 0]) + offset.bytes
  }

  static func unmapBlob(_ id: UInt32) -> [UInt8] { header(0x209) + words([id, 0]) }

  /// `struct virtio_gpu_ctx_create`
  static func createContext(_ id: UInt32) -> [UInt8] {
    header(0x200, context: id) + words([4, 0]) + [UInt8](repeating: 0x61, count: 64)
  }

  static func destroyContext(_ id: UInt32) -> [UInt8] { header(0x201, context: id) }

  static func attachToContext(_ context: UInt32, _ id: UInt32, detach: Bool = false) -> [UInt8] {
    header(detach ? 0x203 : 0x202, context: context) + words([id, 0])
  }

  static func submit(_ context: UInt32, size: UInt32) -> [UInt8] {
    header(0x207, context: context) + words([size, 0])
  }

  /// `struct virtio_gpu_update_cursor`
  static func updateCursor(
    _ scanout: UInt32, _ id: UInt32, x: Int32 = 10, y: Int32 = 20, fence: UInt64? = nil
  ) -> [UInt8] {
    header(0x300, fence: fence)
      + words([scanout, UInt32(bitPattern: x), UInt32(bitPattern: y), 0, id, 1, 2, 0])
  }

  static func moveCursor(_ scanout: UInt32, _ id: UInt32 = 0, x: Int32 = 10, y: Int32 = 20) -> [UInt8] {
    header(0x301) + words([scanout, UInt32(bitPattern: x), UInt32(bitPattern: y), 0, id, 0, 0, 0])
  }

  static func rectangle(_ area: Rectangle) -> [UInt8] { words([area.x, area.y, area.width, area.height]) }

  static func words(_ words: [UInt32]) -> [UInt8] { words.flatMap(\.bytes) }
}

/// `enum virtio_gpu_ctrl_type`, what a device answers.
enum ResponseType {
  static let ok: UInt32 = 0x1100
  static let displayInfo: UInt32 = 0x1101
  static let edid: UInt32 = 0x1104
  static let resourceUUID: UInt32 = 0x1105
  static let mapInfo: UInt32 = 0x1106
  static let unspecified: UInt32 = 0x1200
  static let outOfMemory: UInt32 = 0x1201
  static let invalidScanout: UInt32 = 0x1202
  static let invalidResource: UInt32 = 0x1203
  static let invalidContext: UInt32 = 0x1204
  static let invalidParameter: UInt32 = 0x1205
}

/// What came back for one chain.
struct Answer: Equatable {
  let head: UInt16
  let written: UInt32
  let bytes: [UInt8]

  /// 0 when there is not even a header.
  var type: UInt32 { bytes.count < 24 ? 0 : bytes.value(at: 0) }
  var flags: UInt32 { bytes.value(at: 4) }
  var fence: UInt64 { bytes.value(at: 8) }
  var context: UInt32 { bytes.value(at: 16) }
}

extension Rectangle {
  init(_ x: UInt32, _ y: UInt32, _ width: UInt32, _ height: UInt32) {
    self.init(x: x, y: y, width: width, height: height)
  }
}
