import Buffers
import Fixtures
import Glibc
import KMS
import Linux
import Scanout
import SystemPackage
import TestSupport
import Testing

@testable import VirtioGPU

/// Real queues and guest memory, the test host's own card, and a look at its screen from outside.
@Suite(.testHost, .serialized) struct CardTests {
  private func rig(_ backing: BackingChoice = .auto, _ cursor: CursorChoice = .auto) throws -> Rig {
    try Rig(
      .real, ram: GuestRAM.likeQEMU(high: 32 << 20), card: KMSCard(KMSTarget(.path("/dev/dri/card0"))),
      backing: backing, cursor: cursor)
  }

  /// Colours that no other order of their bytes gives: rows of eight bars.
  private static let bars: [(red: UInt8, green: UInt8, blue: UInt8)] = [
    (0xff, 0x20, 0x20), (0x20, 0xe0, 0x20), (0x30, 0x30, 0xff), (0xff, 0xd0, 0x10), (0x10, 0xd0, 0xf0),
    (0xe0, 0x40, 0xe0), (0x80, 0x50, 0x20), (0xf0, 0xf0, 0xe0),
  ]

  private func bar(_ x: Int, _ y: Int, _ width: Int) -> (red: UInt8, green: UInt8, blue: UInt8) {
    let (red, green, blue) = Self.bars[x * 8 / width]
    // A shade for each row, so that one out of place shows.
    return (red &- UInt8(y % 16), green &- UInt8(y % 16), blue &- UInt8(y % 16))
  }

  /// Draws the bars as the format orders them, and shows them in the screen's preferred mode.
  private func show(_ rig: Rig, _ format: ShadowTests.Colours) throws -> (width: Int, height: Int) {
    let mode = try #require(rig.card?.outputs.first?.modes.first)
    let (width, height) = (Int(mode.hdisplay), Int(mode.vdisplay))
    let start = rig.ram.allocate(width * height * 4)
    // The shades repeat after sixteen rows.
    let rows = (0..<16).map { y in
      var row = [UInt8](repeating: 0x77, count: width * 4)
      for x in 0..<width {
        let colour = bar(x, y, width)
        row[x * 4 + format.red] = colour.red
        row[x * 4 + format.green] = colour.green
        row[x * 4 + format.blue] = colour.blue
      }
      return row
    }
    for y in 0..<height { rig.ram.write(rows[y % 16], at: start + UInt64(y * width * 4)) }
    let whole = Rectangle(0, 0, UInt32(width), UInt32(height))
    try rig.ok(
      Request.create(1, format: format.format, whole.width, whole.height),
      Request.attach(1, [(start, UInt32(width * height * 4))]), Request.transfer(1, whole),
      Request.setScanout(0, 1, whole), Request.flush(1, whole))
    try rig.turn { rig.statistics.framesShown + rig.statistics.framesFailed > 0 }
    #expect(rig.statistics.framesFailed == 0)
    return (width, height)
  }

  private func expectBars(_ width: Int, _ height: Int, _ location: SourceLocation = #_sourceLocation) throws {
    var wrong = "nothing was compared"
    try? waitUntil("the bars are on the screen") {
      let screen = try Screenshot.take()
      guard (screen.width, screen.height) == (width, height) else {
        wrong = "\(screen.width)x\(screen.height)"
        return false
      }
      wrong = ""
      for y in 0..<height where wrong.isEmpty {
        for x in stride(from: 3, to: width, by: 7) where wrong.isEmpty {
          let place = (y * width + x) * 3
          let (seen, wanted) = (Array(screen.rgb[place..<place + 3]), bar(x, y, width))
          if seen != [wanted.red, wanted.green, wanted.blue] { wrong = "\(x),\(y): \(seen), not \(wanted)" }
        }
      }
      return wrong.isEmpty
    }
    #expect(wrong == "", sourceLocation: location)
  }

  /// What the card's plane says of a format, by the order of its bytes; alpha means nothing there.
  private func shows(_ rig: Rig, _ format: ShadowTests.Colours) throws -> Bool {
    let plane = try #require(rig.card?.card.planes.first { $0.kind == .primary })
    let name =
      switch (format.red, format.blue) {
      case (2, 0): "XR24"
      case (1, 3): "BX24"
      case (0, 2): "XB24"
      default: "RX24"
      }
    return plane.formats.contains { $0.description == name }
  }

  /// All that a guest can ask for is in the right colours on a card that has few formats of its own.
  @Test(
    "every format of the guest has the right colours on a card with few formats",
    arguments: ShadowTests.colours.map { ($0, BackingChoice.auto) }
      + [(ShadowTests.colours[1], .shadow), (ShadowTests.colours[6], .shadow)])
  func formats(_ format: ShadowTests.Colours, _ backing: BackingChoice) throws {
    let rig = try rig(backing)
    let (width, height) = try show(rig, format)
    try expectBars(width, height)
    let all = rig.statistics
    if backing == .shadow {
      #expect(all.shadows == ["chosen": 1] && all.buffersLent == 0)
    } else if try shows(rig, format) {
      #expect(all.buffersLent == 1 && all.bytesCopied == 0 && all.shadows.isEmpty)
    } else {
      #expect(all.shadows == ["formatRefused": 1] && all.buffersLent == 0)
      #expect(rig.log.lines.contains { $0.text.contains("(formatRefused)") && $0.text.contains("XR24") })
    }
    if let directory = unsafe getenv("UDMABRIDGE_PICTURES"), backing == .auto {
      let file = unsafe "\(String(cString: directory))/format-\(format.testDescription).ppm"
      _ = try run(repository.appending("qemu/screenshot"), [file])
    }
    rig.device.reset()
    try rig.turn { rig.statistics.shadowBytes == 0 }
  }

  /// The card shows frames from their first pixel on only: another part is copied.
  @Test("the card shows a copy of a part of a resource, with the right pixels")
  func aPartOfAResource() throws {
    let rig = try rig()
    let mode = try #require(rig.card?.outputs.first?.modes.first)
    let (width, height) = (UInt32(mode.hdisplay), UInt32(mode.vdisplay))
    let (wide, high) = (width + 16, height + 8)
    let pages = (wide * high * 4 + UInt32(systemPageSize) - 1) / UInt32(systemPageSize)
    let start = rig.ram.allocate(Int(pages) * Int(systemPageSize))
    for y in 0..<high {
      // The pixels that are compared below, and around the part a colour that must not be seen.
      var row = [UInt8](repeating: 0xee, count: Int(wide) * 4)
      for x in stride(from: 16 + (y &- 8) % 31, to: wide, by: 31) where y >= 8 {
        row.replaceSubrange(Int(x) * 4..<Int(x) * 4 + 4, with: pixel(x - 16, y - 8).bytes)
      }
      rig.ram.write(row, at: start + UInt64(y * wide * 4))
    }
    let part = Rectangle(16, 8, width, height)
    try rig.ok(
      Request.create(1, wide, high), Request.attach(1, [(start, pages * UInt32(systemPageSize))]),
      Request.setScanout(0, 1, part), Request.flush(1, part))
    try rig.turn { rig.statistics.framesShown > 0 }
    #expect(rig.statistics.shadows == ["partRefused": 1])
    var wrong = -1
    try? waitUntil("the part is on the screen") {
      let rgb = try Screenshot.take().rgb
      wrong = 0
      for y in stride(from: UInt32(0), to: height, by: 7) {
        for x in stride(from: y % 31, to: width, by: 31) {
          let (value, place) = (pixel(x, y), Int(y * width + x) * 3)
          let wanted = [UInt8(value >> 16), UInt8(value >> 8 & 0xff), UInt8(value & 0xff)]
          if Array(rgb[place..<place + 3]) != wanted { wrong += 1 }
        }
      }
      return wrong == 0
    }
    #expect(wrong == 0)
  }

  /// Taken back while it is shown: the pages go at once after the flip, and the picture stays.
  @Test("shown pages that are taken back go after the flip, and the picture stays")
  func detachWhileShown() throws {
    let rig = try rig()
    let (width, height) = try show(rig, ShadowTests.colours[1])
    #expect(rig.statistics.buffersLent == 1)
    rig.post(Request.detach(1))
    var answer: Answer?
    try rig.turn {
      answer = answer ?? rig.answer()
      return answer != nil
    }
    #expect(answer?.type == ResponseType.ok && rig.statistics.liveDMABufs == 0)
    #expect(rig.statistics.releasedLate == 0 && rig.statistics.shadows == ["detached": 1])
    try expectBars(width, height)
  }
}
