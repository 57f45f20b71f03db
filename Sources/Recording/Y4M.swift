package import Scanout

/// Video without compression by `yuv4mpeg(5)`: a line of text, and then pictures of three planes.
///
/// Colours are BT.709 with the limited range: luma from 16 to 235, both differences of colour from 16 to 240. Each pixel has all
/// three (4:4:4).
package enum Y4M {
  /// The first line.
  /// - Parameter rate: pictures in a second.
  package static func header(_ size: PixelSize, rate: Int) -> [UInt8] {
    Array(
      "YUV4MPEG2 W\(size.width) H\(size.height) F\(rate):1 Ip A1:1 C444 XCOLORRANGE=LIMITED XUDMABRIDGE=BT709\n"
        .utf8)
  }

  private static let shift: Int32 = 20
  private static func fixed(_ number: Double) -> Int32 { Int32((number * Double(1 << shift)).rounded()) }
  // ITU-R BT.709-6, 3: the luma of red and blue, and the quantization to 8 bits.
  private static let (red, blue) = (0.2126, 0.0722)
  private static let green = 1 - red - blue
  private static let (lumaScale, chromaScale) = (219.0 / 255, 224.0 / 255)

  private struct Row {
    let r, g, b, offset: Int32

    init(_ r: Double, _ g: Double, _ b: Double, offset: Int32) {
      (self.r, self.g, self.b) = (Y4M.fixed(r), Y4M.fixed(g), Y4M.fixed(b))
      self.offset = offset << Y4M.shift + 1 << (Y4M.shift - 1)
    }

    @inline(__always) func callAsFunction(_ r: Int32, _ g: Int32, _ b: Int32) -> UInt8 {
      UInt8(truncatingIfNeeded: (self.r * r + self.g * g + self.b * b + offset) >> Y4M.shift)
    }
  }

  private static let luma = Row(red * lumaScale, green * lumaScale, blue * lumaScale, offset: 16)
  private static let blueDifference: Row = {
    let scale = chromaScale / (2 * (1 - blue))
    return Row(-red * scale, -green * scale, (1 - blue) * scale, offset: 128)
  }()
  private static let redDifference: Row = {
    let scale = chromaScale / (2 * (1 - red))
    return Row((1 - red) * scale, -green * scale, -blue * scale, offset: 128)
  }()

  /// A picture, with the line before it.
  package static func frame(_ picture: RecordedPicture) -> [UInt8] {
    let line = Array("FRAME\n".utf8)
    let count = picture.pixels.count
    var bytes = line + [UInt8](repeating: 0, count: count * 3)
    let (luma, blueDifference, redDifference) = (luma, blueDifference, redDifference)
    for (index, pixel) in picture.pixels.enumerated() {
      let r = Int32(truncatingIfNeeded: pixel & 0xff)
      let g = Int32(truncatingIfNeeded: pixel >> 8 & 0xff)
      let b = Int32(truncatingIfNeeded: pixel >> 16 & 0xff)
      let place = line.count + index
      bytes[place] = luma(r, g, b)
      bytes[place + count] = blueDifference(r, g, b)
      bytes[place + 2 * count] = redDifference(r, g, b)
    }
    return bytes
  }
}
