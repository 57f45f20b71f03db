internal import Linux

/// The layout of an image in a dma-buf.
package struct FrameLayout: Hashable, Sendable, CustomStringConvertible {
  /// In pixels.
  package var width, height: UInt32
  package var format: FourCC
  /// Bytes from one row to the next.
  package var stride: UInt32
  /// The offset of the first pixel in bytes.
  package var offset: UInt32
  /// The arrangement of pixels: 0 is linear, plain rows. The corresponding C constants are `DRM_FORMAT_MOD_*`.
  package var modifier: UInt64

  package init(
    width: UInt32, height: UInt32, format: FourCC, stride: UInt32, offset: UInt32 = 0, modifier: UInt64 = 0
  ) {
    (self.width, self.height, self.format) = (width, height, format)
    (self.stride, self.offset, self.modifier) = (stride, offset, modifier)
  }

  package var bounds: Rectangle { Rectangle(x: 0, y: 0, width: width, height: height) }

  /// The end of the last pixel in bytes; nil if the format is unknown.
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
