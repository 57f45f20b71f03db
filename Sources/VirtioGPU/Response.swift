internal import Scanout
internal import Virtio

/// The answer to a command (virtio 1.3, 5.7.6.7 and 5.7.6.8).
enum Response: Equatable {
  case ok
  /// The preferred size of each scanout; nil for a disabled one.
  case displayInfo([Rectangle?])
  case edid([UInt8])
  case resourceUUID(ObjectUUID)
  /// The mapped memory may be cached, as RAM.
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

  /// The size in bytes, header included.
  var size: Int {
    switch self {
    case .ok, .error: ControlHeader.size
    case .displayInfo: ControlHeader.size + Self.scanoutsInDisplayInfo * 24
    case .edid: ControlHeader.size + 8 + Self.edidSpace
    case .resourceUUID: ControlHeader.size + ObjectUUID.size
    case .mapInfo: ControlHeader.size + 8
    }
  }

  /// Appends the response to a command with this header. It repeats the header's fence and ring (5.7.6.7).
  func encode(_ command: ControlHeader, into bytes: inout [UInt8]) {
    bytes.append(addingCapacity: size) { output in
      output.put(type)
      output.put(command.isFenced ? command.flags & (ControlHeader.fenceFlag | ControlHeader.ringFlag) : 0)
      output.put(command.isFenced ? command.fenceID : 0)
      output.put(command.contextID)
      // One byte, and three of padding.
      output.put(command.isFenced ? command.ringIndex & 0xff : 0)
      switch self {
      case .ok, .error: break
      case .displayInfo(let scanouts):
        for scanout in scanouts.prefix(Self.scanoutsInDisplayInfo) {
          let area = scanout ?? Rectangle(x: 0, y: 0, width: 0, height: 0)
          output.put(area.x)
          output.put(area.y)
          output.put(area.width)
          output.put(area.height)
          output.put(UInt64(scanout == nil ? 0 : 1))  // enabled, flags
        }
      case .edid(let edid):
        precondition(edid.count <= Self.edidSpace, "an EDID has at most 8 blocks")
        output.put(UInt32(edid.count))
        output.put(UInt32(0))
        for byte in edid { output.append(byte) }
      case .resourceUUID(let uuid): for byte in uuid.bytes { output.append(byte) }
      case .mapInfo: output.put(UInt64(1))  // VIRTIO_GPU_MAP_CACHE_CACHED, padding
      }
      output.append(repeating: 0, count: output.freeCapacity)
    }
  }
}

extension OutputSpan<UInt8> {
  fileprivate mutating func put(_ number: some FixedWidthInteger) {
    for shift in stride(from: 0, to: number.bitWidth, by: 8) {
      append(UInt8(truncatingIfNeeded: number >> shift))
    }
  }
}

/// The spec's errors for a guest's mistakes.
enum ResponseError: UInt32, Error {
  case unspecified = 0x1200
  case outOfMemory = 0x1201
  case invalidScanout = 0x1202
  case invalidResource = 0x1203
  case invalidContext = 0x1204
  case invalidParameter = 0x1205
}
