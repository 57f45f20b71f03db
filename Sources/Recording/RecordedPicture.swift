internal import Linux
package import Scanout
internal import Udmabuf

/// A scanout's picture at one time.
package struct RecordedPicture: Equatable, Sendable {
  /// The most pixels that are recorded: a gigabyte.
  static let mostPixels: UInt64 = 1 << 28

  package let size: PixelSize
  /// Rows without gaps. Each pixel is a number; its bytes are red (the lowest), green, blue and alpha. A scanout's pixels have
  /// alpha 255.
  package private(set) var pixels: [UInt32]

  /// - Parameter pixels: as many as the size has.
  package init(_ size: PixelSize, _ pixels: [UInt32]) {
    precondition(UInt64(pixels.count) == size.area, "a picture has as many pixels as its size says")
    (self.size, self.pixels) = (size, pixels)
  }

  /// A picture of one colour.
  package init(_ size: PixelSize, filledWith pixel: UInt32) {
    self.init(size, [UInt32](repeating: pixel, count: Int(size.area)))
  }

  package var width: Int { Int(size.width) }
  package var height: Int { Int(size.height) }
  package var bounds: Rectangle { Rectangle(x: 0, y: 0, width: size.width, height: size.height) }

  /// Four for each pixel.
  package var bytes: [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(pixels.count * 4)
    for pixel in pixels {
      for shift: UInt32 in [0, 8, 16, 24] { bytes.append(UInt8(truncatingIfNeeded: pixel >> shift)) }
    }
    return bytes
  }

  /// The pixels of a rectangle that lies in it.
  package func part(_ rectangle: Rectangle) -> ArraySlice<UInt32> {
    if rectangle == bounds { return pixels[...] }
    var part: [UInt32] = []
    part.reserveCapacity(Int(rectangle.width) * Int(rectangle.height))
    for y in rectangle.y..<rectangle.y + rectangle.height {
      let start = Int(y) * width + Int(rectangle.x)
      part += pixels[start..<start + Int(rectangle.width)]
    }
    return part[...]
  }

  /// Copies a part of a frame.
  /// - Parameters:
  ///   - part: lies in `source`.
  ///   - source: the part of the frame's image that this picture shows.
  mutating func copy(_ part: Rectangle, of source: Rectangle, from frame: FrameMapping) {
    for y in part.y..<part.y + part.height {
      let offset = Int(frame.layout.offset) + Int(y) * Int(frame.layout.stride) + Int(part.x) * 4
      let place = Int(y - source.y) * width + Int(part.x - source.x)
      frame.mapping.copy(pixels: Int(part.width), frame.shuffle, from: offset, to: &pixels, at: place)
    }
  }

  /// Draws a cursor at its place: source over destination. Its colours are premultiplied by alpha.
  mutating func draw(_ cursor: CursorImage, x: Int, y: Int) {
    let side = Int(CursorImage.side)
    for row in 0..<side {
      for column in 0..<side {
        let (x, y) = (x &+ column, y &+ row)
        guard (0..<width).contains(x), (0..<height).contains(y) else { continue }
        let from = (row * side + column) * 4
        let through = 255 - UInt32(cursor.pixels[from + 3])
        let below = pixels[y * width + x]
        var mixed = below & 0xff00_0000
        for channel in 0..<3 {
          let shift = UInt32(channel * 8)
          let seen = ((below >> shift & 0xff) * through + 127) / 255
          mixed |= min(255, seen + UInt32(cursor.pixels[from + 2 - channel])) << shift
        }
        pixels[y * width + x] = mixed
      }
    }
  }

  /// The picture in another size: centred on black in a larger one, cut to its middle for a smaller one.
  package func placed(in other: PixelSize) -> RecordedPicture {
    if other == size { return self }
    var placed = RecordedPicture(other, filledWith: 0xff00_0000)
    let (across, down) = (min(width, placed.width), min(height, placed.height))
    let (fromX, fromY) = ((width - across) / 2, (height - down) / 2)
    let (toX, toY) = ((placed.width - across) / 2, (placed.height - down) / 2)
    for row in 0..<down {
      let (from, to) = ((fromY + row) * width + fromX, (toY + row) * placed.width + toX)
      placed.pixels.replaceSubrange(to..<to + across, with: pixels[from..<from + across])
    }
    return placed
  }
}
