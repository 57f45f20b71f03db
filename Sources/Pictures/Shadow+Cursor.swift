internal import Linux
internal import Scanout

// The cursor, drawn into a copy if the screen has no plane for it.
extension Shadow {
  /// The part of the image that a cursor covers.
  func place(_ cursor: PlacedCursor) -> Rectangle {
    func clip(_ start: Int32, _ from: UInt32, _ length: UInt32) -> (UInt32, UInt32) {
      let first = Int64(from) + Int64(start)
      let low = max(first, Int64(from))
      let high = min(first + Int64(CursorImage.side), Int64(from) + Int64(length))
      return high > low ? (UInt32(low), UInt32(high - low)) : (0, 0)
    }
    let (x, width) = clip(cursor.position.x, visible.x, visible.width)
    let (y, height) = clip(cursor.position.y, visible.y, visible.height)
    return width == 0 || height == 0
      ? Rectangle(x: 0, y: 0, width: 0, height: 0) : Rectangle(x: x, y: y, width: width, height: height)
  }

  /// Source over destination. The source's colours are multiplied by its alpha already.
  func blend(_ cursor: PlacedCursor, _ part: Rectangle) {
    guard let shuffle = FourCC.argb8888.shuffle(to: frame.layout.format) else { return }
    for y in part.y..<part.y + part.height {
      for x in part.x..<part.x + part.width {
        let column = Int(Int64(x) - Int64(visible.x) - Int64(cursor.position.x))
        let row = Int(Int64(y) - Int64(visible.y) - Int64(cursor.position.y))
        let start = (row * Int(CursorImage.side) + column) * 4
        let bytes = cursor.image.pixels[start..<start + 4]
        let pixel = bytes.reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        let through = 255 - (pixel >> 24)
        if through == 255 && pixel == 0 { continue }
        let place = offset(x - visible.x + area.x, y - visible.y + area.y)
        let (below, above) = (target.load(UInt32.self, at: place), shuffle(pixel))
        var mixed: UInt32 = 0
        for shift: UInt32 in [0, 8, 16, 24] {
          let seen = ((below >> shift & 0xff) * through + 127) / 255
          mixed |= min(255, seen + (above >> shift & 0xff)) << shift
        }
        target.store(mixed, at: place)
      }
    }
  }
}
