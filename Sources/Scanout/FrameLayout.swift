internal import Linux

/// How an image lies in a dma-buf.
package struct FrameLayout: Hashable, Sendable, CustomStringConvertible {
  /// In pixels.
  package var width, height: UInt32
  package var format: FourCC
  /// Bytes from one row to the next.
  package var stride: UInt32
  /// Where the first pixel stands, in bytes.
  package var offset: UInt32
  /// The corresponding C constants are `DRM_FORMAT_MOD_*`; 0 is linear, rows of pixels as one expects.
  package var modifier: UInt64

  package init(
    width: UInt32, height: UInt32, format: FourCC, stride: UInt32, offset: UInt32 = 0, modifier: UInt64 = 0
  ) {
    (self.width, self.height, self.format) = (width, height, format)
    (self.stride, self.offset, self.modifier) = (stride, offset, modifier)
  }

  package var bounds: Rectangle { Rectangle(x: 0, y: 0, width: width, height: height) }

  /// Where the last pixel ends, in bytes; nil if the format is not known.
  package var end: UInt64? {
    guard let pixel = format.bytesPerPixel, height > 0 else { return nil }
    return UInt64(offset) + UInt64(stride) * UInt64(height - 1) + UInt64(width) * pixel
  }

  /// The size in bytes of all rows.
  package var bytes: UInt64 { UInt64(stride) * UInt64(height) }

  /// The same, rounded up to whole pages.
  package var pages: UInt64 { wholePages(bytes) }

  package var description: String { "\(width)x\(height) \(format), stride \(stride), offset \(offset)" }
}
