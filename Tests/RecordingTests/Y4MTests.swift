import Scanout
import Testing

@testable import Recording

/// A video's colours, by the definitions of ITU-R BT.709.
@Suite struct Y4MTests {
  private static let frameLine = "FRAME\n".utf8.count

  /// The three planes of a picture of one row, pixel by pixel.
  private func converted(_ colours: [(r: UInt32, g: UInt32, b: UInt32)]) -> [[UInt8]] {
    let pixels = colours.map { 0xff00_0000 | $0.b << 16 | $0.g << 8 | $0.r }
    let bytes = Y4M.frame(
      RecordedPicture(PixelSize(width: UInt32(pixels.count), height: 1), pixels))
    #expect(bytes.prefix(Self.frameLine) == Array("FRAME\n".utf8)[...])
    #expect(bytes.count == Self.frameLine + 3 * pixels.count)
    return pixels.indices.map { index in
      (0..<3).map { bytes[Self.frameLine + $0 * pixels.count + index] }
    }
  }

  @Test("the colours of the test signals have the numbers that BT.709 publishes for them")
  func published() {
    // White, yellow, cyan, green, magenta, red, blue, black: the bars of 100 % in 8 bits.
    let bars: [(r: UInt32, g: UInt32, b: UInt32)] = [
      (255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255),
      (0, 0, 0),
    ]
    #expect(
      converted(bars) == [
        [235, 128, 128], [219, 16, 138], [188, 154, 16], [173, 42, 26], [78, 214, 230], [63, 102, 240],
        [32, 240, 118], [16, 128, 128],
      ])
  }

  @Test("a grey has no colour, and each grey another luma, from 16 to 235")
  func greys() {
    let greys = converted((0..<256).map { ($0, $0, $0) })
    for (value, found) in greys.enumerated() {
      #expect(found[1...] == [128, 128])
      #expect(abs(Double(found[0]) - (16 + Double(value) * 219 / 255)) <= 0.501)
    }
  }

  @Test("a sample of all colours is the nearest to what BT.709 defines")
  func definition() {
    var colours: [(r: UInt32, g: UInt32, b: UInt32)] = []
    for r: UInt32 in stride(from: 0, through: 255, by: 15) {
      for g: UInt32 in stride(from: 0, through: 255, by: 15) {
        for b: UInt32 in stride(from: 0, through: 255, by: 15) { colours.append((r, g, b)) }
      }
    }
    for (colour, found) in zip(colours, converted(colours)) {
      // ITU-R BT.709-6, items 3.2 to 3.5: luma of signals from 0 to 1, differences divided so that they go from -0.5 to 0.5.
      let (r, g, b) = (Double(colour.r) / 255, Double(colour.g) / 255, Double(colour.b) / 255)
      let luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
      let wanted = [219 * luma + 16, 224 * ((b - luma) / 1.8556) + 128, 224 * ((r - luma) / 1.5748) + 128]
      for (value, exact) in zip(found, wanted) {
        #expect(abs(Double(value) - exact) <= 0.501, "\(colour): \(found), not \(wanted)")
      }
    }
  }

  @Test("the header says the size, the rate, and what the colours are")
  func header() {
    #expect(
      String(decoding: Y4M.header(PixelSize(width: 640, height: 480), rate: 25), as: UTF8.self)
        == "YUV4MPEG2 W640 H480 F25:1 Ip A1:1 C444 XCOLORRANGE=LIMITED XUDMABRIDGE=BT709\n")
  }
}
