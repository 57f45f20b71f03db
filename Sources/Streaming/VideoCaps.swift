internal import Scanout

/// The kind of memory that GStreamer's elements are told of.
package enum CapsKind: String, Sendable, CaseIterable {
  /// Plain video, which every element takes.
  case memory
  /// Dma-bufs in a format of DRM, for elements that import them.
  case dmabuf
}

/// GStreamer's description of pictures of one form.
struct VideoCaps: Equatable {
  let kind: CapsKind
  /// In pixels.
  let width, height: UInt32
  /// A format that ignores alpha, because there is nothing behind a screen.
  let format: FourCC
  private let name: String
  /// The corresponding C constants are `GST_VIDEO_FORMAT_*`.
  private let number: UInt32

  /// Nil for a format that GStreamer does not have.
  init?(_ kind: CapsKind, width: UInt32, height: UInt32, format: FourCC) {
    let format = format.opaque ?? format
    guard let known = Self.formats[format] else { return nil }
    (self.kind, self.width, self.height, self.format) = (kind, width, height, format)
    (name, number) = known
  }

  /// GStreamer names the bytes in memory, the first one first.
  private static let formats: [FourCC: (name: String, number: UInt32)] = [
    .xrgb8888: ("BGRx", 8), .xbgr8888: ("RGBx", 7), .rgbx8888: ("xBGR", 10), .bgrx8888: ("xRGB", 9),
    FourCC("RG16"): ("RGB16", 29),
  ]

  /// The caps as GStreamer writes them. The frame rate 0/1 stands for one that varies.
  var text: String {
    let size = "width=(int)\(width), height=(int)\(height), framerate=(fraction)0/1"
    return switch kind {
    case .memory: "video/x-raw, format=(string)\(name), \(size)"
    case .dmabuf:
      "video/x-raw(memory:DMABuf), format=(string)DMA_DRM, drm-format=(string)\(format), \(size)"
    }
  }

  /// The pixels of a row, in bytes.
  var rowBytes: Int { Int(width) * Int(format.bytesPerPixel ?? 4) }

  /// GStreamer's default for the bytes from one row to the next: a multiple of four.
  var stride: Int { (rowBytes + 3) / 4 * 4 }

  /// The size of a picture with such rows, in bytes.
  var size: Int { stride * Int(height) }

  func rows(stride: UInt32) -> VideoRows {
    VideoRows(format: number, width: width, height: height, stride: stride)
  }
}
