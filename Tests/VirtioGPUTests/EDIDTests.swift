import Fixtures
import Glibc
import Linux
import Scanout
import SystemPackage
import Testing

@testable import VirtioGPU

/// Debian's edid-decode (package `edid-decode`), which knows the standards.
enum EDIDDecode {
  /// What it prints when it is given these arguments and this description, and whether it is content.
  static func run(_ arguments: String, _ edid: [UInt8]) throws -> (output: String, isContent: Bool) {
    let name = "/tmp/edid-\(UInt64.random(in: 0...UInt64.max))"
    defer {
      removeFile(FilePath(name + ".bin"))
      removeFile(FilePath(name + ".txt"))
    }
    try FD.create(FilePath(name + ".bin")).write(unsafe edid.span.bytes)
    let status = unsafe system("edid-decode \(arguments) \(name).bin > \(name).txt 2>&1")
    try #require(status >> 8 & 0xff != 127, "edid-decode is missing; install Debian's package edid-decode")
    return (try readText(FilePath(name + ".txt")), status == 0)
  }
}

func mode(_ width: UInt32, _ height: UInt32) -> DisplayMode {
  DisplayMode.reducedBlanking(width: width, height: height)!
}

/// 3840x2160 at 120 Hz: its clock is more than a detailed timing can say.
let fast = {
  var mode = mode(3840, 2160)
  mode.clock *= 2
  return mode
}()

let common: [(UInt32, UInt32)] = [
  (1920, 1080), (1680, 1050), (1280, 1024), (1440, 900), (1280, 800), (1280, 720), (1024, 768), (800, 600),
  (640, 480),
]

/// The thirty sizes that a guest might be offered by a generous card.
private let many: [(UInt32, UInt32)] =
  common + (0..<21 as Range<UInt32>).map { (1928 + 8 * $0, 1100 + 4 * $0) }

@Suite struct EDIDTests {
  struct Display: CustomTestStringConvertible {
    let testDescription: String
    let output: SinkOutput
    let blocks: Int
    init(_ name: String, _ modes: [DisplayMode], blocks: Int, millimetres: (UInt32, UInt32) = (0, 0)) {
      testDescription = name
      self.blocks = blocks
      output = SinkOutput(
        name: name, modes: modes, widthMillimetres: millimetres.0, heightMillimetres: millimetres.1)
    }
  }

  static let displays: [Display] = [
    Display("1 mode", [mode(1024, 768)], blocks: 1),
    Display("1 small mode", [mode(640, 480)], blocks: 1),
    Display("1 mode of its own kind", [mode(1366, 768)], blocks: 1),
    Display("1 high mode", [mode(1080, 1920)], blocks: 1),
    Display("3 modes", common.prefix(3).map(mode), blocks: 1),
    // An extension block is for displays that show 640x480.
    Display("4 modes without 640x480", common.prefix(4).map(mode), blocks: 1),
    Display("4 modes", [mode(1280, 720)] + common.suffix(3).map(mode), blocks: 2),
    Display("9 modes", common.map(mode), blocks: 2), Display("30 modes", many.map(mode), blocks: 2),
    Display("3840x2160", [mode(3840, 2160), mode(1920, 1080)], blocks: 1),
    Display("the widest", [mode(4095, 2160)], blocks: 1),
    Display("a wide mode first", [mode(5120, 2880), mode(1920, 1080)], blocks: 2),
    Display("a wide mode behind", [mode(1920, 1080), mode(5120, 2880)], blocks: 2),
    Display("4 wide modes", [5120, 5128, 5136, 5144].map { mode($0, 2880) } + [mode(1920, 1080)], blocks: 2),
    Display("a wide mode, and 9 modes", [mode(7680, 4320)] + common.map(mode), blocks: 3),
    Display("a fast mode", [fast, mode(1920, 1080)], blocks: 2),
    Display("a panel", [mode(1920, 1080)], blocks: 1, millimetres: (344, 194)),
    Display("a wall", [mode(1920, 1080)], blocks: 1, millimetres: (6000, 3000)),
    Display("a name that is much too long: Ä", [mode(1920, 1080)], blocks: 1),
    Display("", [mode(1920, 1080)], blocks: 1),
  ]

  @Test("edid-decode finds that the EDID conforms to the standard", arguments: displays) func conforms(
    _ display: Display
  ) throws {
    let edid = EDID.make(display.output, serial: 7)
    #expect(edid.count == 128 * display.blocks)
    let (output, isContent) = try EDIDDecode.run("--check", edid)
    #expect(isContent && output.contains("EDID conformity: PASS"), "\(output)")
  }

  /// The sum of each block is 0, and the first block says how many follow.
  @Test("the sum of each block is 0, and the first block counts the others", arguments: displays)
  func checksums(_ display: Display) {
    let edid = EDID.make(display.output, serial: 7)
    for start in stride(from: 0, to: edid.count, by: 128) {
      #expect(edid[start..<start + 128].reduce(0, &+) == 0)
    }
    #expect(Int(edid[126]) == edid.count / 128 - 1)
  }

  /// A detailed timing as E-EDID 1.4, 3.10.2 lays it out.
  private func timing(_ edid: [UInt8], _ start: Int) -> DisplayMode {
    let d = edid[start..<start + 18].map { UInt16($0) }
    let (hactive, hblank) = (d[2] | (d[4] & 0xf0) << 4, d[3] | (d[4] & 0xf) << 8)
    let (vactive, vblank) = (d[5] | (d[7] & 0xf0) << 4, d[6] | (d[7] & 0xf) << 8)
    let (hfront, hsync) = (d[8] | (d[11] & 0xc0) << 2, d[9] | (d[11] & 0x30) << 4)
    let (vfront, vsync) = (d[10] >> 4 | (d[11] & 0xc) << 2, d[10] & 0xf | (d[11] & 3) << 4)
    return DisplayMode(
      clock: UInt32(d[0] | d[1] << 8) * 10,
      horizontal: (hactive, hactive + hfront, hactive + hfront + hsync, hactive + hblank),
      vertical: (vactive, vactive + vfront, vactive + vfront + vsync, vactive + vblank),
      hsyncPositive: d[17] & 2 != 0, vsyncPositive: d[17] & 4 != 0, interlaced: d[17] & 0x80 != 0)
  }

  @Test("the detailed timings are those of the first modes that fit", arguments: displays) func timings(
    _ display: Display
  ) {
    let edid = EDID.make(display.output, serial: 7)
    let fitting = display.output.modes.filter { $0.hdisplay <= 4095 && $0.clock < 655_360 }
    let hasMore = edid.count > 128 && edid[128] == 2
    for (index, mode) in fitting.prefix(hasMore ? 9 : 3).enumerated() {
      // CTA-861, 7.5: byte 2 of the extension says where its timings start.
      #expect(timing(edid, index < 3 ? 54 + 18 * index : 128 + Int(edid[130]) + 18 * (index - 3)) == mode)
    }
  }

  /// Any timing that fits the fields arrives unchanged, also with all bits in use.
  @Test("a timing that a detailed timing can hold is in it unchanged") func timingOfAnyKind() {
    let odd = [
      DisplayMode(
        clock: 655_350, horizontal: (4095, 4095 + 1023, 4095 + 1023 + 1023, 8190),
        vertical: (4095, 4095 + 63, 4095 + 63 + 63, 8190), hsyncPositive: false, vsyncPositive: false),
      DisplayMode(
        clock: 25_170, horizontal: (640, 656, 752, 800), vertical: (480, 490, 492, 525), hsyncPositive: false,
        vsyncPositive: false),
      DisplayMode(
        clock: 40_000, horizontal: (800, 840, 968, 1056), vertical: (600, 601, 605, 628), hsyncPositive: true,
        vsyncPositive: true),
    ]
    let edid = EDID.make(SinkOutput(name: "odd", modes: odd), serial: 1)
    for (index, mode) in odd.enumerated() { #expect(timing(edid, 54 + 18 * index) == mode) }
  }

  /// Modes that the fields cannot hold are not among them.
  @Test("a mode that no detailed timing can hold is left out") func timingThatDoesNotFit() {
    func with(_ change: (inout DisplayMode) -> Void) -> DisplayMode {
      var mode = mode(1920, 1080)
      change(&mode)
      return mode
    }
    let modes = [
      mode(4096, 2160), mode(1920, 4096), with { $0.clock = 655_360 }, with { $0.clock = 9 },
      with { $0.hsyncStart = 1900 }, with { $0.hsyncEnd = 1920 }, with { $0.vtotal = 1085 },
      with { $0.interlaced = true },
      with {
        $0.hsyncStart = 1920 + 1024
        $0.hsyncEnd = 2950
        $0.htotal = 3000
      },
      with {
        $0.vsyncStart = 1080 + 64
        $0.vsyncEnd = 1150
        $0.vtotal = 1160
      }, with { $0.htotal = 1920 + 4096 },
    ]
    for unfit in modes {
      let edid = EDID.make(SinkOutput(name: "x", modes: [unfit, mode(800, 600)]), serial: 1)
      #expect(timing(edid, 54) == mode(800, 600), "\(unfit)")
    }
  }

  /// A display without modes says nothing wrong about its timings.
  @Test("the EDID of a display without modes has a sum of 0 and no detailed timing") func withoutTimings()
    throws
  {
    let edid = EDID.make(SinkOutput(name: "none", modes: []), serial: 1)
    #expect(edid.count == 128 && edid.reduce(0, &+) == 0)
    #expect(edid[54] == 0 && edid[55] == 0, "no detailed timing has a clock of 0")
    let (output, _) = try EDIDDecode.run("--check", edid)
    #expect(!output.contains("DTD 1"), "\(output)")
  }

  @Test("edid-decode reads the display's facts and its preferred mode") func whatTheDecoderSays() throws {
    let output = SinkOutput(
      name: "Virtual-1", modes: common.map(mode), widthMillimetres: 508, heightMillimetres: 286)
    let (text, _) = try EDIDDecode.run(
      "--preferred-timings --native-resolution", EDID.make(output, serial: 3))
    for words in [
      "Manufacturer: UDM", "Serial Number: 3", "Maximum image size: 50 cm x 28 cm",
      "Display Product Name: 'Virtual-1'", "138.500000 MHz", "1920x1080", "Gamma: 2.20",
    ] { #expect(text.contains(words), "\(words) is not in \(text)") }
    let preferred = text.split(separator: "Preferred video timing").last ?? ""
    #expect(preferred.contains("1920x1080"))
  }

  @Test("equal displays with different serial numbers have different EDIDs") func displaysDiffer() {
    let output = SinkOutput(name: "x", modes: [mode(1024, 768)])
    let serials: [UInt32] = [1, 2, 256, 0xffff_ffff]
    #expect(Set(serials.map { EDID.make(output, serial: $0) }).count == 4)
    #expect(Array(EDID.make(output, serial: 0x0403_0201)[12..<16]) == [1, 2, 3, 4])
  }
}

@Suite struct ReducedBlankingTests {
  /// VESA's Coordinated Video Timings standard, reduced blanking, as in its DMT tables: clock in kHz,
  /// horizontal total, vertical total, lines of vertical sync.
  @Test(
    "the timings are those of VESA's tables",
    arguments: [
      (1280, 768, 68_250, 1440, 790, 7), (1280, 800, 71_000, 1440, 823, 6),
      (1400, 1050, 101_000, 1560, 1080, 4),
      (1440, 900, 88_750, 1600, 926, 6), (1680, 1050, 119_000, 1840, 1080, 6),
      (1920, 1080, 138_500, 2080, 1111, 5), (1920, 1200, 154_000, 2080, 1235, 6),
      (2560, 1600, 268_500, 2720, 1646, 6), (1024, 768, 56_000, 1184, 790, 4),
    ] as [(UInt16, UInt16, UInt32, UInt16, UInt16, UInt16)])
  func table(
    _ width: UInt16, _ height: UInt16, _ clock: UInt32, _ htotal: UInt16, _ vtotal: UInt16, _ sync: UInt16
  ) throws {
    let expected = DisplayMode(
      clock: clock, horizontal: (width, width + 48, width + 80, htotal),
      vertical: (height, height + 3, height + 3 + sync, vtotal), hsyncPositive: true, vsyncPositive: false)
    #expect(DisplayMode.reducedBlanking(width: UInt32(width), height: UInt32(height)) == expected)
  }

  /// The same as another program's implementation of the standard, but for widths that are no multiples of
  /// 8, of which it says nothing, and for less than about 440 lines: there version 1.2, which the program
  /// follows, has a back porch of 7 lines at least, and 1.1 one of 6.
  static let sizes: [(UInt32, UInt32)] =
    common + many.suffix(8) + [
      (1600, 1200), (2560, 1440), (3840, 2160), (1080, 1920), (720, 576), (1152, 864),
      (4096, 2160), (5120, 2880), (1720, 720), (768, 1366), (7680, 4320),
    ]

  @Test("timings with reduced blanking are those of edid-decode", arguments: sizes)
  func asAnotherProgram(_ width: UInt32, _ height: UInt32) throws {
    let made = try #require(DisplayMode.reducedBlanking(width: width, height: height))
    let (text, _) = try EDIDDecode.run("--cvt w=\(width),h=\(height),fps=60,rb=1", [])
    let words = text.split { $0.isWhitespace }.map(String.init)
    func number(_ name: String) throws -> UInt16 {
      let place = try #require(words.firstIndex(of: name), "\(text)")
      return try #require(UInt16(words[place + 1]))
    }
    let clock = try #require(words.firstIndex(of: "MHz"))
    let megahertz = try #require(Double(words[clock - 1]))
    #expect(made.clock == UInt32((megahertz * 1000).rounded()))
    #expect(made.hsyncStart - made.hdisplay == (try number("Hfront")))
    #expect(made.hsyncEnd - made.hsyncStart == (try number("Hsync")))
    #expect(made.htotal - made.hsyncEnd == (try number("Hback")))
    #expect(made.vsyncStart - made.vdisplay == (try number("Vfront")))
    #expect(made.vsyncEnd - made.vsyncStart == (try number("Vsync")))
    #expect(made.vtotal - made.vsyncEnd == (try number("Vback")))
    #expect(made.hdisplay == UInt16(width) && made.vdisplay == UInt16(height))
  }

  @Test(
    "a size outside the limits has no timing",
    arguments: [
      (0, 768), (1024, 0), (63, 768), (1024, 63), (16385, 768), (1024, 16385), (.max, .max),
      (65536 + 1024, 768),
    ] as [(UInt32, UInt32)])
  func sizesThatNoTimingHas(_ width: UInt32, _ height: UInt32) {
    #expect(DisplayMode.reducedBlanking(width: width, height: height) == nil)
  }

  /// The whole range: the sums fit, and the rate is never above 60 Hz nor far below it.
  @Test("sizes over the whole range have a timing at about 60 Hz") func everySize() throws {
    for width in stride(from: UInt32(64), through: 16384, by: 680) {
      for height in stride(from: UInt32(64), through: 16384, by: 510) {
        let mode = try #require(DisplayMode.reducedBlanking(width: width, height: height))
        let step = 250 * 1_000_000 / (UInt64(mode.htotal) * UInt64(mode.vtotal))
        #expect(mode.refresh <= 60_000 && UInt64(mode.refresh) + step + 1 >= 60_000, "\(width)x\(height)")
        #expect(mode.hsyncEnd <= mode.htotal && mode.vsyncEnd <= mode.vtotal)
      }
    }
  }
}
