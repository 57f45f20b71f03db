package import Linux

/// The requests of a back end on QEMU's display socket. The C originals are `VHOST_USER_GPU_*`.
package enum QEMUDisplayRequest: UInt32, Sendable, CaseIterable {
  case getProtocolFeatures = 1
  case setProtocolFeatures
  case getDisplayInfo
  case cursorPosition
  case cursorHide
  case cursorUpdate
  case scanout
  case update
  case dmabufScanout
  case dmabufUpdate
  case getEDID
  case dmabufScanout2
}

extension QEMUDisplayRequest: CustomStringConvertible {
  /// The protocol's name for it.
  package var description: String {
    switch self {
    case .getProtocolFeatures: "GET_PROTOCOL_FEATURES"
    case .setProtocolFeatures: "SET_PROTOCOL_FEATURES"
    case .getDisplayInfo: "GET_DISPLAY_INFO"
    case .cursorPosition: "CURSOR_POS"
    case .cursorHide: "CURSOR_POS_HIDE"
    case .cursorUpdate: "CURSOR_UPDATE"
    case .scanout: "SCANOUT"
    case .update: "UPDATE"
    case .dmabufScanout: "DMABUF_SCANOUT"
    case .dmabufUpdate: "DMABUF_UPDATE"
    case .getEDID: "GET_EDID"
    case .dmabufScanout2: "DMABUF_SCANOUT2"
    }
  }
}

/// The abilities of a front end's display beyond the first version of the protocol. The C originals are
/// `VHOST_USER_GPU_PROTOCOL_F_*`.
package struct QEMUDisplayFeatures: OptionSet, Sendable {
  package let rawValue: UInt64
  package init(rawValue: UInt64) { self.rawValue = rawValue }
  /// It answers GET_EDID.
  package static let edid = QEMUDisplayFeatures(rawValue: 1 << 0)
  /// It knows DMABUF_SCANOUT2.
  package static let dmabuf2 = QEMUDisplayFeatures(rawValue: 1 << 1)
}

/// A part of a scanout, or of a desktop, in pixels.
package struct QEMUDisplayArea: Equatable, Sendable {
  package var x, y, width, height: UInt32
  package init(x: UInt32, y: UInt32, width: UInt32, height: UInt32) {
    (self.x, self.y, self.width, self.height) = (x, y, width, height)
  }
}

/// The place of a cursor: the upper left pixel of its image, which may lie outside the picture.
package struct QEMUDisplayCursorPlace: Equatable, Sendable {
  package var scanout: UInt32
  package var x, y: Int32
  package init(scanout: UInt32, x: Int32, y: Int32) { (self.scanout, self.x, self.y) = (scanout, x, y) }
}

/// The layout of an image in the dma-buf of a DMABUF_SCANOUT. The C original is `VhostUserGpuDMABUFScanout`.
package struct QEMUDisplayBuffer: Equatable, Sendable {
  /// The shown part of the image. QEMU does not look at x and y.
  package var area: QEMUDisplayArea
  /// The size of the whole image in pixels.
  package var width, height: UInt32
  /// Bytes from one row to the next. The first row begins with the dma-buf.
  package var stride: UInt32
  /// DRM's name of the pixel format.
  package var fourcc: UInt32

  package init(area: QEMUDisplayArea, width: UInt32, height: UInt32, stride: UInt32, fourcc: UInt32) {
    (self.area, self.width, self.height) = (area, width, height)
    (self.stride, self.fourcc) = (stride, fourcc)
  }
}

/// The source of an UPDATE's pixels: rows of four bytes for each pixel, blue, green, red and an unused one.
package struct QEMUDisplayPixels {
  package let mapping: Mapping
  /// The offset of the first pixel, and the distance from one row to the next, in bytes.
  package let offset, stride: Int

  /// All rows must be in `mapping`.
  package init(_ mapping: Mapping, offset: Int, stride: Int) {
    (self.mapping, self.offset, self.stride) = (mapping, offset, stride)
  }
}

/// A message of a back end on QEMU's display socket.
package enum QEMUDisplayMessage {
  case getProtocolFeatures
  case setProtocolFeatures(QEMUDisplayFeatures)
  case getDisplayInfo
  /// Shows the cursor there.
  case cursorPosition(QEMUDisplayCursorPlace)
  /// Shows no cursor.
  case cursorHide(QEMUDisplayCursorPlace)
  /// Shows this image: 64x64 pixels of four bytes, blue, green, red, alpha.
  case cursorUpdate(QEMUDisplayCursorPlace, hotX: UInt32, hotY: UInt32, image: [UInt8])
  /// The scanout shows pixels of this size, which UPDATE carries; none if a side is 0.
  case scanout(UInt32, width: UInt32, height: UInt32)
  case update(UInt32, QEMUDisplayArea, QEMUDisplayPixels)
  /// The scanout shows a dma-buf, whose descriptor goes with the message. Nil shows none, without a descriptor.
  case dmabufScanout(UInt32, QEMUDisplayBuffer?)
  /// The dma-buf has changed there. The reply comes when the change is shown.
  case dmabufUpdate(UInt32, QEMUDisplayArea)
  case getEDID(UInt32)
  /// As DMABUF_SCANOUT, with DRM's modifier.
  case dmabufScanout2(UInt32, QEMUDisplayBuffer, modifier: UInt64)

  /// An UPDATE carries no more bytes of pixels than this.
  package static let maxPixelBytes = 1 << 20
  /// The bytes of a CURSOR_UPDATE's image.
  package static let cursorBytes = 64 * 64 * 4

  package var request: QEMUDisplayRequest {
    switch self {
    case .getProtocolFeatures: .getProtocolFeatures
    case .setProtocolFeatures: .setProtocolFeatures
    case .getDisplayInfo: .getDisplayInfo
    case .cursorPosition: .cursorPosition
    case .cursorHide: .cursorHide
    case .cursorUpdate: .cursorUpdate
    case .scanout: .scanout
    case .update: .update
    case .dmabufScanout: .dmabufScanout
    case .dmabufUpdate: .dmabufUpdate
    case .getEDID: .getEDID
    case .dmabufScanout2: .dmabufScanout2
    }
  }

  private var payloadSize: Int {
    switch self {
    case .getProtocolFeatures, .getDisplayInfo: 0
    case .setProtocolFeatures: 8
    case .cursorPosition, .cursorHide, .scanout: 12
    case .cursorUpdate: 20 + Self.cursorBytes
    case .update(_, let area, _): 20 + Int(area.width) * Int(area.height) * 4
    case .dmabufScanout: 40
    case .dmabufUpdate: 20
    case .getEDID: 4
    case .dmabufScanout2: 48
    }
  }

  /// Whether a descriptor goes with it.
  var hasDescriptor: Bool {
    switch self {
    case .dmabufScanout(_, let buffer): buffer != nil
    case .dmabufScanout2: true
    default: false
    }
  }

  /// Writes the whole message at the end of `bytes`: request, flags and size of the payload, then the payload.
  func encode(into bytes: inout [UInt8]) {
    for number in [request.rawValue, 0, UInt32(payloadSize)] { bytes.append(number: number) }
    switch self {
    case .getProtocolFeatures, .getDisplayInfo: break
    case .setProtocolFeatures(let features): bytes.append(number: features.rawValue)
    case .cursorPosition(let place), .cursorHide(let place): bytes.append(place)
    case .cursorUpdate(let place, let hotX, let hotY, let image):
      precondition(image.count == Self.cursorBytes, "a cursor has 64x64 pixels")
      bytes.append(place)
      bytes.append(number: hotX)
      bytes.append(number: hotY)
      bytes += image
    case .scanout(let scanout, let width, let height):
      for number in [scanout, width, height] { bytes.append(number: number) }
    case .update(let scanout, let area, let pixels):
      let row = Int(area.width) * 4
      precondition(row * Int(area.height) <= Self.maxPixelBytes, "pixels go in parts")
      bytes.append(number: scanout)
      bytes.append(area)
      for index in 0..<Int(area.height) {
        pixels.mapping.append(to: &bytes, from: pixels.offset + index * pixels.stride, count: row)
      }
    case .dmabufScanout(let scanout, let buffer): bytes.append(scanout, buffer)
    case .dmabufUpdate(let scanout, let area):
      bytes.append(number: scanout)
      bytes.append(area)
    case .getEDID(let scanout): bytes.append(number: scanout)
    case .dmabufScanout2(let scanout, let buffer, let modifier):
      bytes.append(scanout, buffer)
      bytes.append(number: modifier)
    }
  }
}

extension [UInt8] {
  fileprivate mutating func append(_ place: QEMUDisplayCursorPlace) {
    append(number: place.scanout)
    append(number: place.x)
    append(number: place.y)
  }

  fileprivate mutating func append(_ area: QEMUDisplayArea) {
    for number in [area.x, area.y, area.width, area.height] { append(number: number) }
  }

  fileprivate mutating func append(_ scanout: UInt32, _ buffer: QEMUDisplayBuffer?) {
    append(number: scanout)
    append(buffer?.area ?? QEMUDisplayArea(x: 0, y: 0, width: 0, height: 0))
    // No flags: the first row is the upper one.
    for number in [buffer?.width, buffer?.height, buffer?.stride, 0, buffer?.fourcc] {
      append(number: number ?? 0)
    }
  }
}
