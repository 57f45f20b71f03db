internal import Scanout
internal import Virtio

/// What a command is answered with (virtio 1.3, 5.7.6.7 and 5.7.6.8).
enum Response: Equatable {
  case ok
  /// The preferred size of each scanout that is enabled; nil for one that is not.
  case displayInfo([Rectangle?])
  case edid([UInt8])
  case resourceUUID(ObjectUUID)
  /// What is mapped may be cached, as all RAM.
  case mapInfo
  case error(ResponseError)

  private static let scanoutsInDisplayInfo = 16
  private static let edidSpace = 1024

  private var type: UInt32 {
    switch self {
    case .ok: 0x1100
    case .displayInfo: 0x1101
    case .edid: 0x1104
    case .resourceUUID: 0x1105
    case .mapInfo: 0x1106
    case .error(let error): error.rawValue
    }
  }

  /// How many bytes it takes, header included.
  var size: Int {
    switch self {
    case .ok, .error: ControlHeader.size
    case .displayInfo: ControlHeader.size + Self.scanoutsInDisplayInfo * 24
    case .edid: ControlHeader.size + 8 + Self.edidSpace
    case .resourceUUID: ControlHeader.size + ObjectUUID.size
    case .mapInfo: ControlHeader.size + 8
    }
  }

  /// Appends the response to a command with this header, whose fence it repeats (5.7.6.7).
  func encode(_ command: ControlHeader, into bytes: inout [UInt8]) {
    append(type, to: &bytes)
    append(command.flags & ControlHeader.fenceFlag, to: &bytes)
    append(command.isFenced ? command.fenceID : 0, to: &bytes)
    append(command.contextID, to: &bytes)
    append(UInt32(0), to: &bytes)
    switch self {
    case .ok, .error: break
    case .displayInfo(let scanouts):
      let end = bytes.count + Self.scanoutsInDisplayInfo * 24
      for scanout in scanouts.prefix(Self.scanoutsInDisplayInfo) {
        let area = scanout ?? Rectangle(x: 0, y: 0, width: 0, height: 0)
        append(area.x, to: &bytes)
        append(area.y, to: &bytes)
        append(area.width, to: &bytes)
        append(area.height, to: &bytes)
        append(UInt64(scanout == nil ? 0 : 1), to: &bytes)  // enabled, flags
      }
      bytes.append(contentsOf: repeatElement(0, count: end - bytes.count))
    case .edid(let edid):
      precondition(edid.count <= Self.edidSpace, "an EDID has at most 8 blocks")
      append(UInt32(edid.count), to: &bytes)
      append(UInt32(0), to: &bytes)
      bytes += edid
      bytes += repeatElement(0, count: Self.edidSpace - edid.count)
    case .resourceUUID(let uuid): bytes += uuid.bytes
    case .mapInfo: append(UInt64(1), to: &bytes)  // VIRTIO_GPU_MAP_CACHE_CACHED, padding
    }
  }

  private func append(_ value: some FixedWidthInteger & BitwiseCopyable, to bytes: inout [UInt8]) {
    unsafe withUnsafeBytes(of: value.littleEndian) { unsafe bytes.append(contentsOf: $0) }
  }
}

/// The errors that the spec has for a guest's mistakes.
enum ResponseError: UInt32, Error {
  case unspecified = 0x1200
  case outOfMemory = 0x1201
  case invalidScanout = 0x1202
  case invalidResource = 0x1203
  case invalidContext = 0x1204
  case invalidParameter = 0x1205
}
