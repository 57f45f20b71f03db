import Scanout
import Testing

@testable import Consumers

/// Rows that the card behind QEMU's display does not take in.
@Suite struct StrideTests {
  /// Widths of common modes, and what their rows are multiples of.
  static let widths: [(UInt32, UInt32)] = [
    (1366, 8), (1440, 128), (1680, 64), (3440, 64), (1920, 512), (1280, 1024), (2560, 2048), (800, 128),
    (1024, 4096),
  ]

  @Test(
    "a picture whose stride has the alignment is accepted, another one is refused, and a copy fits",
    arguments: widths, [1, 64, 256, 4096] as [UInt32])
  func isLentOrCopied(_ width: (UInt32, UInt32), _ bytes: UInt32) throws {
    var alignment = try #require(StrideAlignment(bytes: bytes))
    alignment.origin = "the hint"
    let rig = try QEMURig(strideAlignment: alignment)
    let layout = FrameLayout(width: width.0, height: 8, format: .xrgb8888, stride: width.0 * 4)
    let frame = try rig.lent(layout, prepares: false)
    if width.1 >= bytes {
      try rig.sink.prepare(frame, source: layout.bounds, on: ScanoutID(0))
    } else {
      let error = #expect(throws: SinkError.self) {
        try rig.sink.prepare(frame, source: layout.bounds, on: ScanoutID(0))
      }
      #expect(error?.refusal == .stride && error?.refusal.isMendedByCopying == true)
      for words in [
        "\(bytes) bytes", "\(width.0 * 4)", "(the hint)", "multiple of \(bytes / 4) pixels",
      ] {
        #expect(error?.description.contains(words) == true, "\(error?.description ?? "")")
      }
    }
    // A copy fits always.
    let canvas = try rig.sink.allocate(
      width: width.0, height: 8, format: .xrgb8888, on: ScanoutID(0))
    #expect(canvas.layout.stride % max(256, bytes) == 0 && canvas.layout.stride >= width.0 * 4)
    #expect(canvas.layout.stride < width.0 * 4 + max(256, bytes))
  }

  @Test(
    "a number that is no power of two, or more than a page, is no alignment",
    arguments: [0, 3, 65, 8192, .max] as [UInt32]) func isNoAlignment(_ bytes: UInt32)
  {
    #expect(StrideAlignment(bytes: bytes) == nil)
  }

  @Test(
    "each known driver has its alignment, an unknown one has none",
    arguments: [
      ("amdgpu", 256), ("radeon", 256), ("nvidia-drm", 256), ("nouveau", 256), ("i915", 64), ("xe", 64),
      ("vgem", nil),
      ("", nil),
    ] as [(String, UInt32?)])
  func ofDrivers(_ driver: String, _ bytes: UInt32?) {
    let alignment = StrideAlignment.ofDriver(driver)
    #expect(alignment?.bytes == bytes)
    #expect(
      alignment.map { StrideAlignment.strictest.bytes % $0.bytes == 0 } != false, "the strictest suits all")
  }
}
