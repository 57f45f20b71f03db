package import SystemPackage

/// A forbidden reply of QEMU's display socket, or why the socket failed.
package enum QEMUDisplayError: Error, Equatable {
  case socket(Errno)
  case closed
  case unknownReply(code: UInt32)
  case noReply(QEMUDisplayRequest, flags: UInt32)
  case size(QEMUDisplayRequest, size: UInt32, expected: Int)
  case unasked(QEMUDisplayRequest)
  case outOfTurn(QEMUDisplayRequest, before: QEMUDisplayRequest)
  case type(QEMUDisplayRequest, type: UInt32, expected: UInt32)
  case edidSize(UInt32)
}

extension QEMUDisplayError: CustomStringConvertible {
  package var description: String {
    switch self {
    case .socket(let errno): "the socket failed: \(errno)"
    case .closed: "it was closed in the middle of a reply"
    case .unknownReply(let code): "a reply to \(code) came, which is no request of this protocol"
    case .noReply(let request, let flags):
      "\(request) came with flags 0x\(String(flags, radix: 16)), which are not those of a reply: 0x4"
    case .size(let request, let size, let expected):
      "the reply to \(request) has a payload of \(size) bytes instead of \(expected)"
    case .unasked(let request): "a reply to \(request) came, but nothing was asked"
    case .outOfTurn(let request, let first):
      "the reply to \(request) came before the reply to \(first), which was asked first"
    case .type(let request, let type, let expected):
      "the reply to \(request) is of type 0x\(String(type, radix: 16)) instead of 0x\(String(expected, radix: 16))"
    case .edidSize(let size): "an EDID has \(size) bytes, but the limit is \(QEMUDisplayReply.maxEDID)"
    }
  }
}

/// The first 12 bytes of every message on the display socket, in the byte order of the machine.
struct QEMUDisplayHeader {
  static let size = 12
  private static let replyFlag: UInt32 = 1 << 2

  let request: QEMUDisplayRequest
  /// The reply's size in bytes.
  let payloadSize: Int

  init(_ bytes: [UInt8]) throws(QEMUDisplayError) {
    let (code, flags, size): (UInt32, UInt32, UInt32) = (
      bytes.number(at: 0), bytes.number(at: 4), bytes.number(at: 8)
    )
    guard let request = QEMUDisplayRequest(rawValue: code), let expected = request.replySize else {
      throw .unknownReply(code: code)
    }
    if flags & Self.replyFlag == 0 { throw .noReply(request, flags: flags) }
    if size != UInt32(expected) { throw .size(request, size: size, expected: expected) }
    (self.request, payloadSize) = (request, expected)
  }
}

extension QEMUDisplayRequest {
  /// The size of its reply's payload in bytes; nil if it has no reply.
  var replySize: Int? {
    switch self {
    case .getProtocolFeatures: 8
    case .getDisplayInfo: QEMUDisplayReply.responseHeader + QEMUDisplayReply.screens * 24
    case .dmabufUpdate: 0
    case .getEDID: QEMUDisplayReply.responseHeader + 8 + QEMUDisplayReply.maxEDID
    default: nil
    }
  }

  /// Whether a front end may leave it without a reply, and answer later messages. libkrun's display does so, because it
  /// knows no protocol features.
  var mayGoUnanswered: Bool { self == .dmabufUpdate || self == .getEDID || self == .getProtocolFeatures }
}

/// A screen of the front end.
package struct QEMUDisplayScreen: Equatable, Sendable {
  package var area: QEMUDisplayArea
  package var isEnabled: Bool
  package init(area: QEMUDisplayArea, isEnabled: Bool) { (self.area, self.isEnabled) = (area, isEnabled) }
}

/// The replies of a front end on its display socket.
package enum QEMUDisplayReply: Equatable, Sendable {
  case protocolFeatures(QEMUDisplayFeatures)
  /// Always 16 screens, by the numbers of their scanouts. The C original is `virtio_gpu_resp_display_info`.
  case displayInfo([QEMUDisplayScreen])
  /// The change of a DMABUF_UPDATE is shown.
  case updated
  /// Empty if there is none. The C original is `virtio_gpu_resp_edid`.
  case edid([UInt8])

  static let screens = 16
  static let maxEDID = 1024
  /// The size of `virtio_gpu_ctrl_hdr`.
  static let responseHeader = 24
  /// VIRTIO_GPU_RESP_OK_DISPLAY_INFO and VIRTIO_GPU_RESP_OK_EDID
  private static let (displayInfoType, edidType): (UInt32, UInt32) = (0x1101, 0x1104)

  /// - Parameter bytes: as many as the header says.
  init(_ request: QEMUDisplayRequest, _ bytes: [UInt8]) throws(QEMUDisplayError) {
    // Structures of virtio are little-endian.
    func number(_ offset: Int) -> UInt32 { UInt32(littleEndian: bytes.number(at: offset)) }
    func check(_ expected: UInt32) throws(QEMUDisplayError) {
      if number(0) != expected { throw .type(request, type: number(0), expected: expected) }
    }
    switch request {
    case .getProtocolFeatures:
      self = .protocolFeatures(QEMUDisplayFeatures(rawValue: bytes.number(at: 0)))
    case .getDisplayInfo:
      try check(Self.displayInfoType)
      self = .displayInfo(
        (0..<Self.screens).map { index in
          let start = Self.responseHeader + index * 24
          let area = QEMUDisplayArea(
            x: number(start), y: number(start + 4), width: number(start + 8), height: number(start + 12))
          return QEMUDisplayScreen(area: area, isEnabled: number(start + 16) != 0)
        })
    case .dmabufUpdate: self = .updated
    case .getEDID:
      try check(Self.edidType)
      let size = number(Self.responseHeader)
      if size > UInt32(Self.maxEDID) { throw .edidSize(size) }
      let start = Self.responseHeader + 8
      self = .edid(Array(bytes[start..<start + Int(size)]))
    default: throw .unasked(request)
    }
  }
}
