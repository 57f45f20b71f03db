/// A rectangle in pixels.
package struct Rectangle: Hashable, Sendable, CustomStringConvertible {
  package var x, y, width, height: UInt32

  package init(x: UInt32, y: UInt32, width: UInt32, height: UInt32) {
    (self.x, self.y, self.width, self.height) = (x, y, width, height)
  }

  package var isEmpty: Bool { width == 0 || height == 0 }

  /// Whether the rectangle lies wholly inside an image of this size. Never overflows.
  package func fits(width imageWidth: UInt32, height imageHeight: UInt32) -> Bool {
    width <= imageWidth && x <= imageWidth - width && height <= imageHeight && y <= imageHeight - height
  }

  /// The part of the rectangle inside an image of this size. Never overflows.
  package func clipped(width imageWidth: UInt32, height imageHeight: UInt32) -> Rectangle {
    let (left, top) = (min(x, imageWidth), min(y, imageHeight))
    return Rectangle(
      x: left, y: top, width: min(width, imageWidth - left), height: min(height, imageHeight - top))
  }

  /// The smallest rectangle around both. Each of the two fits an image.
  package func union(_ other: Rectangle) -> Rectangle {
    if isEmpty { return other }
    if other.isEmpty { return self }
    let (left, top) = (min(x, other.x), min(y, other.y))
    return Rectangle(
      x: left, y: top, width: max(x + width, other.x + other.width) - left,
      height: max(y + height, other.y + other.height) - top)
  }

  /// The common part of both; empty if there is none. Each of the two fits an image.
  package func intersection(_ other: Rectangle) -> Rectangle {
    let (left, top) = (max(x, other.x), max(y, other.y))
    let (right, bottom) = (min(x + width, other.x + other.width), min(y + height, other.y + other.height))
    if right <= left || bottom <= top { return Rectangle(x: left, y: top, width: 0, height: 0) }
    return Rectangle(x: left, y: top, width: right - left, height: bottom - top)
  }

  package var description: String { "\(width)x\(height)+\(x)+\(y)" }
}
