internal import Linux

/// A pixel format, named by the four characters that DRM gives it. The corresponding C constants are
/// `DRM_FORMAT_*`.
public struct FourCC: Hashable, Sendable, CustomStringConvertible {
  public let rawValue: UInt32
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// The code of four ASCII characters, such as `XR24`.
  public init(_ name: StaticString) {
    precondition(name.utf8CodeUnitCount == 4, "a fourcc has four characters")
    rawValue = unsafe UnsafeBufferPointer(start: name.utf8Start, count: 4).reversed()
      .reduce(0) { $0 << 8 | UInt32($1) }
  }

  /// Bytes blue, green, red, unused.
  public static let xrgb8888 = FourCC("XR24")
  /// Bytes blue, green, red, alpha.
  public static let argb8888 = FourCC("AR24")

  // The formats of virtio-gpu beside these two (virtio 1.3, 5.7.6.8), named as DRM names them: from the
  // highest bits of a little-endian word to the lowest.
  public static let bgra8888 = FourCC("BA24")
  public static let bgrx8888 = FourCC("BX24")
  public static let abgr8888 = FourCC("AB24")
  public static let xbgr8888 = FourCC("XB24")
  public static let rgba8888 = FourCC("RA24")
  public static let rgbx8888 = FourCC("RX24")

  /// The same bytes without a meaning for alpha; nil for a format that has no alpha.
  public var opaque: FourCC? {
    switch self {
    case .argb8888: .xrgb8888
    case .abgr8888: .xbgr8888
    case .rgba8888: .rgbx8888
    case .bgra8888: .bgrx8888
    default: nil
    }
  }

  /// Of the formats of guests; nil for one that is not among them.
  public var bytesPerPixel: UInt64? {
    switch self {
    case .xrgb8888, .argb8888, .xbgr8888, .abgr8888, .rgbx8888, .rgba8888, .bgrx8888, .bgra8888: 4
    case FourCC("RG16"): 2
    default: nil
    }
  }

  public var description: String {
    String(decoding: (0..<4).map { UInt8(truncatingIfNeeded: rawValue >> (8 * $0)) }, as: UTF8.self)
  }
}

/// A rectangle in pixels.
public struct Rectangle: Hashable, Sendable, CustomStringConvertible {
  public var x, y, width, height: UInt32

  public init(x: UInt32, y: UInt32, width: UInt32, height: UInt32) {
    (self.x, self.y, self.width, self.height) = (x, y, width, height)
  }

  public var isEmpty: Bool { width == 0 || height == 0 }

  /// It lies wholly inside an image of this size. Never overflows.
  public func fits(width imageWidth: UInt32, height imageHeight: UInt32) -> Bool {
    width <= imageWidth && x <= imageWidth - width && height <= imageHeight && y <= imageHeight - height
  }

  /// The smallest rectangle around both, of which each fits an image.
  public func union(_ other: Rectangle) -> Rectangle {
    if isEmpty { return other }
    if other.isEmpty { return self }
    let (left, top) = (min(x, other.x), min(y, other.y))
    return Rectangle(
      x: left, y: top, width: max(x + width, other.x + other.width) - left,
      height: max(y + height, other.y + other.height) - top)
  }

  /// What both have in common, of which each fits an image; empty if nothing.
  public func intersection(_ other: Rectangle) -> Rectangle {
    let (left, top) = (max(x, other.x), max(y, other.y))
    let (right, bottom) = (min(x + width, other.x + other.width), min(y + height, other.y + other.height))
    if right <= left || bottom <= top { return Rectangle(x: left, y: top, width: 0, height: 0) }
    return Rectangle(x: left, y: top, width: right - left, height: bottom - top)
  }

  public var description: String { "\(width)x\(height)+\(x)+\(y)" }
}

/// How an image lies in a dma-buf.
public struct FrameLayout: Hashable, Sendable, CustomStringConvertible {
  /// In pixels.
  public var width, height: UInt32
  public var format: FourCC
  /// Bytes from one row to the next.
  public var stride: UInt32
  /// Where the first pixel stands, in bytes.
  public var offset: UInt32
  /// The corresponding C constants are `DRM_FORMAT_MOD_*`; 0 is linear, rows of pixels as one expects.
  public var modifier: UInt64

  public init(
    width: UInt32, height: UInt32, format: FourCC, stride: UInt32, offset: UInt32 = 0, modifier: UInt64 = 0
  ) {
    (self.width, self.height, self.format) = (width, height, format)
    (self.stride, self.offset, self.modifier) = (stride, offset, modifier)
  }

  public var bounds: Rectangle { Rectangle(x: 0, y: 0, width: width, height: height) }

  /// Where the last pixel ends, in bytes; nil if the format is not known.
  public var end: UInt64? {
    guard let pixel = format.bytesPerPixel, height > 0 else { return nil }
    return UInt64(offset) + UInt64(stride) * UInt64(height - 1) + UInt64(width) * pixel
  }

  /// The size in bytes of all rows, rounded up to whole pages.
  public var pages: UInt64 {
    (UInt64(stride) * UInt64(height) + systemPageSize - 1) / systemPageSize * systemPageSize
  }

  public var description: String { "\(width)x\(height) \(format), stride \(stride), offset \(offset)" }
}
