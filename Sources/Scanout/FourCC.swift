package import Linux

/// A pixel format by its four characters in DRM. The corresponding C constants are `DRM_FORMAT_*`.
package struct FourCC: Hashable, Sendable, CustomStringConvertible {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }

  /// The code of four ASCII characters, such as `XR24`.
  package init(_ name: StaticString) {
    precondition(name.utf8CodeUnitCount == 4, "a fourcc has four characters")
    rawValue = unsafe UnsafeBufferPointer(start: name.utf8Start, count: 4).reversed()
      .reduce(0) { $0 << 8 | UInt32($1) }
  }

  /// Bytes blue, green, red, unused.
  package static let xrgb8888 = FourCC("XR24")
  /// Bytes blue, green, red, alpha.
  package static let argb8888 = FourCC("AR24")

  // The other formats of virtio-gpu (virtio 1.3, 5.7.6.8) with DRM's names, which go from the highest bits of a
  // little-endian word to the lowest.
  package static let bgra8888 = FourCC("BA24")
  package static let bgrx8888 = FourCC("BX24")
  package static let abgr8888 = FourCC("AB24")
  package static let xbgr8888 = FourCC("XB24")
  package static let rgba8888 = FourCC("RA24")
  package static let rgbx8888 = FourCC("RX24")

  /// The same bytes without a meaning for alpha; nil for a format that has no alpha.
  package var opaque: FourCC? {
    switch self {
    case .argb8888: .xrgb8888
    case .abgr8888: .xbgr8888
    case .rgba8888: .rgbx8888
    case .bgra8888: .bgrx8888
    default: nil
    }
  }

  /// The same bytes with a meaning for the unused one.
  package var withAlpha: FourCC {
    switch self {
    case .xrgb8888: .argb8888
    case .xbgr8888: .abgr8888
    case .rgbx8888: .rgba8888
    case .bgrx8888: .bgra8888
    default: self
    }
  }

  /// The bytes of a pixel in a guest's format; nil for other formats.
  package var bytesPerPixel: UInt64? {
    switch self {
    case .xrgb8888, .argb8888, .xbgr8888, .abgr8888, .rgbx8888, .rgba8888, .bgrx8888, .bgra8888: 4
    case FourCC("RG16"): 2
    default: nil
    }
  }

  /// The bytes of a pixel in the order of memory: blue, green, red, alpha, or unused.
  private var channels: [Character]? {
    switch self {
    case .argb8888: ["B", "G", "R", "A"]
    case .xrgb8888: ["B", "G", "R", "X"]
    case .abgr8888: ["R", "G", "B", "A"]
    case .xbgr8888: ["R", "G", "B", "X"]
    case .rgba8888: ["A", "B", "G", "R"]
    case .rgbx8888: ["X", "B", "G", "R"]
    case .bgra8888: ["A", "R", "G", "B"]
    case .bgrx8888: ["X", "R", "G", "B"]
    default: nil
    }
  }

  /// The conversion of a pixel to another format; nil if one of the two formats does not have 32 bits.
  package func shuffle(to other: FourCC) -> PixelShuffle? {
    guard let from = channels, let to = other.channels else { return nil }
    // Each format has one byte that is not a colour.
    let spare = UInt8(from.firstIndex { $0 == "A" || $0 == "X" }!)
    var (order, set): ([UInt8], UInt32) = ([], 0)
    for (place, channel) in to.enumerated() {
      order.append(from.firstIndex(of: channel).map(UInt8.init) ?? spare)
      if channel == "A", from[Int(spare)] == "X" { set |= 0xff << (8 * UInt32(place)) }
    }
    return PixelShuffle(order: (order[0], order[1], order[2], order[3]), set: set)
  }

  package var description: String {
    // The text goes out with each frame, so it must not allocate; four characters fit.
    var text = ""
    for place: UInt32 in 0..<4 {
      text.unicodeScalars.append(Unicode.Scalar(UInt8(truncatingIfNeeded: rawValue >> (8 * place))))
    }
    return text
  }
}
