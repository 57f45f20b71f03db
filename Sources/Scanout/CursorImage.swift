/// The picture of a cursor: rows of `ARGB8888` close together, colours multiplied by alpha.
public struct CursorImage: Equatable, Sendable {
  /// What virtio-gpu has, and what every cursor plane takes.
  public static let side: UInt32 = 64

  /// `side` x `side` pixels of four bytes: blue, green, red, alpha.
  public let pixels: [UInt8]
  /// Which pixel points.
  public let hotX, hotY: UInt32

  public init(pixels: [UInt8], hotX: UInt32, hotY: UInt32) {
    precondition(pixels.count == Int(Self.side * Self.side) * 4, "a cursor has 64x64 pixels")
    (self.pixels, self.hotX, self.hotY) = (pixels, hotX, hotY)
  }
}

/// Where a scanout's cursor is: its upper left pixel, which may lie outside the picture.
public struct CursorPosition: Equatable, Sendable {
  public var x, y: Int32
  public init(x: Int32, y: Int32) { (self.x, self.y) = (x, y) }
}
