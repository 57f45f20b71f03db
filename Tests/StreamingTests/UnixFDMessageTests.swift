import Scanout
import Testing

@testable import Streaming

/// What is said on the socket, byte by byte. GStreamer has no description of it but its source: the numbers here were seen in
/// what its own unixfdsink sends.
@Suite struct UnixFDMessageTests {
  /// Digits of bytes, between blanks.
  private func bytes(_ digits: String) -> [UInt8] {
    digits.split(whereSeparator: \.isWhitespace).flatMap { word in
      stride(from: 0, to: word.count, by: 2).map { place in
        let start = word.index(word.startIndex, offsetBy: place)
        return UInt8(word[start..<word.index(start, offsetBy: 2)], radix: 16)!
      }
    }
  }

  @Test("caps and the end have the bytes that GStreamer's own sink sends")
  func words() {
    #expect(UnixFDMessage.caps("a/b").bytes == bytes("02000000 04000000 612f62 00"))
    #expect(UnixFDMessage.end.bytes == bytes("03000000 00000000"))
  }

  @Test("a picture in a file has the bytes of GStreamer's own sink, without words about rows")
  func plain() {
    let buffer = UnixFDBuffer(
      id: 0x0102_0304_0506_0708, time: 0x1112_1314_1516_1718, number: 0x21, isAfterGap: false, memory: .file,
      offset: 0x3000, size: 0x4_0000)
    #expect(
      UnixFDMessage.buffer(buffer).bytes
        == bytes(
          """
          00000000 48000000
          0807060504030201 1817161514131211 ffffffffffffffff ffffffffffffffff 2100000000000000 2200000000000000
          00000000 00 01 0000
          0000040000000000 0030000000000000
          """))
  }

  @Test("a picture in a dma-buf has a gap's flag and its rows, as GStreamer's own sink sends them")
  func described() {
    let buffer = UnixFDBuffer(
      id: 1, time: 2, number: 3, isAfterGap: true, memory: .dmabuf, offset: 4, size: 5,
      rows: VideoRows(format: 8, width: 100, height: 30, stride: 448))
    #expect(
      UnixFDMessage.buffer(buffer).bytes
        == bytes(
          """
          00000000 92000000
          0100000000000000 0200000000000000 ffffffffffffffff ffffffffffffffff 0300000000000000 0400000000000000
          40000000 01 01 0100
          0500000000000000 0400000000000000
          4a000000 0c000000 47737456 6964656f 4d657461 00 00
          00000000 08000000 64000000 1e000000 01000000 0000000000000000 c0010000
          00000000 00000000 00000000 00000000 00000000
          """))
  }

  @Test("a client's answers are read one by one, and none that is not complete")
  func answers() throws {
    let both = bytes("01000000 08000000 0700000000000000 01000000 08000000 ffffffffffffffff")
    for count in 0...both.count {
      var left = both[..<count]
      var found: [UnixFDAnswer] = []
      while let answer = try UnixFDAnswer.next(in: &left) { found.append(answer) }
      let wanted: [UnixFDAnswer] = [.release(7), .release(.max)]
      #expect(found == Array(wanted.prefix(count / 16)), "\(count) bytes")
      #expect(left.count == count % 16, "\(count) bytes")
    }
  }

  @Test(
    "bytes that are no answer are refused as soon as that is known",
    arguments: [
      ("00000000", .command(0)), ("02000000", .command(2)), ("03000000 00000000", .command(3)),
      ("04000000", .command(4)), ("01010000", .command(257)), ("ffffffff", .command(.max)),
      ("01000000 07000000", .size(7)), ("01000000 09000000", .size(9)), ("01000000 00000000", .size(0)),
      ("01000000 ffffffff", .size(.max)),
      ("01000000 08000000 0700000000000000 05000000", .command(5)),
    ] as [(String, UnixFDError)])
  func mistakes(_ digits: String, _ error: UnixFDError) {
    var left = bytes(digits)[...]
    #expect(throws: error) { while try UnixFDAnswer.next(in: &left) != nil {} }
  }

  @Test(
    "caps have the format's name, and the stride and size that GStreamer computes",
    arguments: [
      ("XR24", .memory, 3, "video/x-raw, format=(string)BGRx,", 12),
      ("AR24", .memory, 3, "video/x-raw, format=(string)BGRx,", 12),
      ("XB24", .memory, 3, "video/x-raw, format=(string)RGBx,", 12),
      ("RX24", .memory, 3, "video/x-raw, format=(string)xBGR,", 12),
      ("BA24", .memory, 3, "video/x-raw, format=(string)xRGB,", 12),
      ("RG16", .memory, 3, "video/x-raw, format=(string)RGB16,", 8),
      (
        "AB24", .dmabuf, 3, "video/x-raw(memory:DMABuf), format=(string)DMA_DRM, drm-format=(string)XB24,", 12
      ),
    ] as [(String, CapsKind, UInt32, String, Int)])
  func caps(_ format: String, _ kind: CapsKind, _ width: UInt32, _ start: String, _ stride: Int) throws {
    let code = format.utf8.reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
    let caps = try #require(VideoCaps(kind, width: width, height: 5, format: FourCC(rawValue: code)))
    #expect(caps.text == "\(start) width=(int)3, height=(int)5, framerate=(fraction)0/1")
    #expect(caps.stride == stride && caps.size == stride * 5)
  }

  @Test("a format that GStreamer does not have has no caps")
  func unknownFormat() {
    #expect(VideoCaps(.memory, width: 3, height: 5, format: FourCC("R8  ")) == nil)
  }
}
