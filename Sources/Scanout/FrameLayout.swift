internal import Linux

/// A rectangle in pixels.
package struct Rectangle: Hashable, Sendable, CustomStringConvertible {
  package var x, y, width, height: UInt32

  package init(x: UInt32, y: UInt32, width: UInt32, height: UInt32) {
    (self.x, self.y, self.width, self.height) = (x, y, width, height)
  }

  package var isEmpty: Bool { width == 0 || height == 0 }

  /// It lies wholly inside an image of this size. Never overflows.
  package func fits(width imageWidth: UInt32, height imageHeight: UInt32) -> Bool {
    width <= imageWidth && x <= imageWidth - width && height <= imageHeight && y <= imageHeight - height
  }

  /// The part of it that is inside an image of this size. Never overflows.
  package func clipped(width imageWidth: UInt32, height imageHeight: UInt32) -> Rectangle {
    let (left, top) = (min(x, imageWidth), min(y, imageHeight))
    return Rectangle(
      x: left, y: top, width: min(width, imageWidth - left), height: min(height, imageHeight - top))
  }

  /// The smallest rectangle around both, of which each fits an image.
  package func union(_ other: Rectangle) -> Rectangle {
    if isEmpty { return other }
    if other.isEmpty { return self }
    let (left, top) = (min(x, other.x), min(y, other.y))
    return Rectangle(
      x: left, y: top, width: max(x + width, other.x + other.width) - left,
      height: max(y + height, other.y + other.height) - top)
  }

  /// What both have in common, of which each fits an image; empty if nothing.
  package func intersection(_ other: Rectangle) -> Rectangle {
    let (left, top) = (max(x, other.x), max(y, other.y))
    let (right, bottom) = (min(x + width, other.x + other.width), min(y + height, other.y + other.height))
    if right <= left || bottom <= top { return Rectangle(x: left, y: top, width: 0, height: 0) }
    return Rectangle(x: left, y: top, width: right - left, height: bottom - top)
  }

  package var description: String { "\(width)x\(height)+\(x)+\(y)" }
}

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
