/// The picture of a cursor: rows of `ARGB8888` without gaps, colours multiplied by alpha.
package struct CursorImage: Equatable, Sendable {
  /// virtio-gpu's size, which every cursor plane takes.
  package static let side: UInt32 = 64

  /// `side` x `side` pixels of four bytes: blue, green, red, alpha.
  package let pixels: [UInt8]
  /// The pixel that points.
  package let hotX, hotY: UInt32

  package init(pixels: [UInt8], hotX: UInt32, hotY: UInt32) {
    precondition(pixels.count == Int(Self.side * Self.side) * 4, "a cursor has 64x64 pixels")
    (self.pixels, self.hotX, self.hotY) = (pixels, hotX, hotY)
  }
}

/// The place of a scanout's cursor: its upper left pixel, which may lie outside the picture.
package struct CursorPosition: Equatable, Sendable {
  package var x, y: Int32
  package init(x: Int32, y: Int32) { (self.x, self.y) = (x, y) }
}
