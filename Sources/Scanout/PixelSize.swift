/// The size of an image or a screen in pixels, as `1920x1080`.
package struct PixelSize: Hashable, Sendable, CustomStringConvertible {
  package let width, height: UInt32

  package init(width: UInt32, height: UInt32) { (self.width, self.height) = (width, height) }

  /// Reads `1920x1080`.
  /// - Returns: nil if the text has another form, or a side is not within `sides`.
  package init?(_ text: String, sides: ClosedRange<UInt32>) {
    let parts = text.split(separator: "x", omittingEmptySubsequences: false)
    guard parts.count == 2, let width = UInt32(parts[0]), let height = UInt32(parts[1]),
      sides.contains(width), sides.contains(height)
    else { return nil }
    self.init(width: width, height: height)
  }

  package var area: UInt64 { UInt64(width) * UInt64(height) }

  /// Whether an image of the other size fits into one of this size.
  package func holds(_ other: PixelSize) -> Bool { width >= other.width && height >= other.height }

  package var description: String { "\(width)x\(height)" }
}
