import Scanout
import Testing

@testable import Recording

/// Pictures: parts of them, others around them, and what they are compared with.
@Suite struct RecordedPictureTests {
  /// Each pixel tells its place: its column in red, its row in green.
  private func picture(_ width: UInt32, _ height: UInt32) -> RecordedPicture {
    RecordedPicture(
      PixelSize(width: width, height: height),
      (0..<height).flatMap { y in (0..<width).map { x in 0xff00_0000 | y << 8 | x } })
  }

  private static let black: UInt32 = 0xff00_0000

  @Test(
    "a picture in a video of another size is in the middle, or its middle is there",
    arguments: [
      // Of the video; then where its first and its last pixel of the picture are, and which these are.
      ((8, 6), (2, 1), (5, 4), (0, 0), (3, 3)), ((4, 4), (0, 0), (3, 3), (0, 0), (3, 3)),
      ((2, 2), (0, 0), (1, 1), (1, 1), (2, 2)), ((8, 2), (2, 0), (5, 1), (0, 1), (3, 2)),
      ((5, 4), (0, 0), (3, 3), (0, 0), (3, 3)),
    ] as [((UInt32, UInt32), (Int, Int), (Int, Int), (UInt32, UInt32), (UInt32, UInt32))])
  func placing(
    _ size: (UInt32, UInt32), _ first: (Int, Int), _ last: (Int, Int), _ from: (UInt32, UInt32),
    _ to: (UInt32, UInt32)
  ) {
    let placed = picture(4, 4).placed(in: PixelSize(width: size.0, height: size.1))
    #expect(placed.size == PixelSize(width: size.0, height: size.1))
    for y in 0..<placed.height {
      for x in 0..<placed.width {
        let isInside = (first.0...last.0).contains(x) && (first.1...last.1).contains(y)
        let (column, row) = (from.0 + UInt32(max(0, x - first.0)), from.1 + UInt32(max(0, y - first.1)))
        let wanted = isInside ? Self.black | row << 8 | column : Self.black
        #expect(placed.pixels[y * placed.width + x] == wanted, "\(x), \(y)")
        if (x, y) == last { #expect((column, row) == to) }
      }
    }
  }

  private struct Case: CustomTestStringConvertible {
    let testDescription: String
    /// The place of a pixel of the guest's picture and by how much its green differs.
    var change: (x: Int, y: Int, by: UInt32)?
    var region: Rectangle?
    /// What the PNG shows.
    var isPart = false
    var size: (UInt32, UInt32) = (8, 6)
    var tolerance: UInt32 = 0
    /// A pixel of the PNG that is transparent.
    var hole: (x: Int, y: Int)?
    let result: PictureReference.Comparison
  }

  private static let region = Rectangle(x: 2, y: 1, width: 3, height: 2)

  private static let cases: [Case] = [
    Case(testDescription: "the same", result: .same),
    Case(
      testDescription: "one colour of one pixel", change: (7, 5, 9), result: .different(pixels: 1, most: 9)),
    Case(testDescription: "no more than the tolerance", change: (7, 5, 9), tolerance: 9, result: .same),
    Case(
      testDescription: "one more than the tolerance", change: (7, 5, 9), tolerance: 8,
      result: .different(pixels: 1, most: 9)),
    Case(testDescription: "under a hole", change: (7, 5, 9), hole: (7, 5), result: .same),
    Case(
      testDescription: "beside a hole", change: (7, 5, 9), hole: (6, 5),
      result: .different(pixels: 1, most: 9)),
    Case(testDescription: "outside the region", change: (5, 1, 9), region: region, result: .same),
    Case(
      testDescription: "in the region's last pixel", change: (4, 2, 9), region: region,
      result: .different(pixels: 1, most: 9)),
    Case(testDescription: "the region alone", change: (5, 1, 9), region: region, isPart: true, result: .same),
    Case(
      testDescription: "the region alone, other", change: (2, 1, 9), region: region, isPart: true,
      result: .different(pixels: 1, most: 9)),
    Case(
      testDescription: "another size", size: (9, 6), result: .otherSize(PixelSize(width: 9, height: 6))),
    Case(testDescription: "a larger picture with the region", region: region, size: (9, 7), result: .same),
    Case(
      testDescription: "a picture without the region", region: region, size: (4, 6),
      result: .otherSize(PixelSize(width: 4, height: 6))),
  ]

  @Test("a picture is compared within the region, the tolerance and the opaque pixels", arguments: cases)
  private func comparing(_ item: Case) throws {
    var shown = picture(item.size.0, item.size.1).pixels
    if let (x, y, difference) = item.change { shown[y * Int(item.size.0) + x] += difference << 8 }
    let whole = picture(8, 6)
    var wanted =
      item.isPart
      ? RecordedPicture(
        PixelSize(width: Self.region.width, height: Self.region.height), Array(whole.part(Self.region)))
      : whole
    if let (x, y) = item.hole {
      var pixels = wanted.pixels
      pixels[y * wanted.width + x] = 0x0012_3456
      wanted = RecordedPicture(wanted.size, pixels)
    }
    let reference = try #require(
      PictureReference(wanted, region: item.region, tolerance: item.tolerance))
    #expect(
      reference.compare(RecordedPicture(PixelSize(width: item.size.0, height: item.size.1), shown))
        == item.result)
  }

  @Test("a picture that neither has the region nor is of its size is no reference")
  func noReference() {
    let region = Rectangle(x: 6, y: 0, width: 3, height: 2)
    #expect(PictureReference(picture(8, 6), region: region, tolerance: 0) == nil)
    #expect(PictureReference(picture(9, 6), region: region, tolerance: 0) != nil)
    #expect(PictureReference(picture(3, 2), region: region, tolerance: 0) != nil)
  }
}
