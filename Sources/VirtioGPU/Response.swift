internal import Scanout

/// What a command is answered with (virtio 1.3, 5.7.6.7 and 5.7.6.8).
enum Response: Equatable {
  case ok
  /// The preferred size of each scanout that is enabled; nil for one that is not.
  case displayInfo([Rectangle?])
  case edid([UInt8])
  case error(ResponseError)

  private static let scanoutsInDisplayInfo = 16
  private static let edidSpace = 1024

  private var type: UInt32 {
    switch self {
    case .ok: 0x1100
    case .displayInfo: 0x1101
    case .edid: 0x1104
    case .error(let error): error.rawValue
    }
  }

  /// How many bytes it takes, header included.
  var size: Int {
    switch self {
    case .ok, .error: ControlHeader.size
    case .displayInfo: ControlHeader.size + Self.scanoutsInDisplayInfo * 24
    case .edid: ControlHeader.size + 8 + Self.edidSpace
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
      for index in 0..<Self.scanoutsInDisplayInfo {
        let scanout = index < scanouts.count ? scanouts[index] : nil
        let area = scanout ?? Rectangle(x: 0, y: 0, width: 0, height: 0)
        for field in [area.x, area.y, area.width, area.height, scanout == nil ? 0 : 1, 0] {
          append(field, to: &bytes)
        }
      }
    case .edid(let edid):
      precondition(edid.count <= Self.edidSpace, "an EDID has at most 8 blocks")
      append(UInt32(edid.count), to: &bytes)
      append(UInt32(0), to: &bytes)
      bytes += edid
      bytes += repeatElement(0, count: Self.edidSpace - edid.count)
    }
  }

  private func append(_ value: some FixedWidthInteger, to bytes: inout [UInt8]) {
    for byte in 0..<value.bitWidth / 8 { bytes.append(UInt8(truncatingIfNeeded: value >> (8 * byte))) }
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
