import Foundation
import Scanout
import SystemPackage
import TestSupport
import Testing

@testable import VirtioGPU

/// Modes that a detailed timing cannot say, in a DisplayID block.
@Suite struct DisplayIDTests {
  /// The sizes that a helper may be asked for, with those that it offers besides.
  static let sizes: [(UInt32, UInt32)] = [
    (640, 480), (800, 600), (1024, 768), (1280, 800), (1366, 768), (1920, 1080), (1920, 1200), (2560, 1440),
    (3440, 1440), (3840, 2160), (4096, 2160), (5120, 1440), (5120, 2160), (5120, 2880), (2880, 5120),
    (7680, 4320),
  ]

  private func edid(_ width: UInt32, _ height: UInt32) -> [UInt8] {
    let sizes = [(width, height), (1920, 1080), (1280, 720), (1024, 768)]
    return EDID.make(SinkOutput(name: "QEMU", modes: sizes.map(mode)), serial: 1)
  }

  @Test("edid-decode accepts the EDID of each size, and prefers the first mode", arguments: sizes)
  func isValidAndPreferred(
    _ width: UInt32, _ height: UInt32
  ) throws {
    let (output, isContent) = try EDIDDecode.run("--check --preferred-timings", edid(width, height))
    #expect(isContent && output.contains("EDID conformity: PASS"), "\(output)")
    #expect(!output.contains("Failures:"), "\(output)")
    // A reader of all blocks says last what it prefers.
    let preferred = output.components(separatedBy: "Preferred Video Timing").last ?? ""
    #expect(preferred.contains(" \(width)x\(height) "), "\(preferred)")
  }

  /// A type I timing as DisplayID 1.3, 4.4.1 lays it out, and whether it is the preferred one.
  private func timing(_ d: ArraySlice<UInt8>) -> (mode: DisplayMode, isPreferred: Bool) {
    let at = d.startIndex
    func word(_ place: Int) -> UInt16 { UInt16(d[at + place]) | UInt16(d[at + place + 1]) << 8 }
    let clock = UInt32(word(0)) | UInt32(d[at + 2]) << 16
    let (hdisplay, vdisplay) = (word(4) + 1, word(12) + 1)
    let (hstart, vstart) = (hdisplay + word(8) & 0x7fff + 1, vdisplay + word(16) & 0x7fff + 1)
    let mode = DisplayMode(
      clock: (clock + 1) * 10,
      horizontal: (hdisplay, hstart, hstart + word(10) + 1, hdisplay + word(6) + 1),
      vertical: (vdisplay, vstart, vstart + word(18) + 1, vdisplay + word(14) + 1),
      hsyncPositive: word(8) & 0x8000 != 0, vsyncPositive: word(16) & 0x8000 != 0)
    return (mode, d[at + 3] & 0x80 != 0)
  }

  /// The timings of the last block, which must be a DisplayID one.
  private func timings(_ edid: [UInt8]) throws -> [(mode: DisplayMode, isPreferred: Bool)] {
    let block = edid.suffix(128)
    let section = Array(block.dropFirst())
    try #require(block.first == 0x70 && section[0] == 0x13)
    #expect(section.prefix(5 + Int(section[1])).reduce(0, &+) == 0, "the section's own sum")
    var rest = section[4..<4 + Int(section[1])]
    while let tag = rest.first {
      let payload = rest.dropFirst(3).prefix(Int(rest[rest.startIndex + 2]))
      if tag == 0x03 {
        return stride(from: payload.startIndex, to: payload.endIndex, by: 20).map {
          timing(payload[$0..<$0 + 20])
        }
      }
      rest = rest[payload.endIndex...]
    }
    return []
  }

  private func made(_ modes: [DisplayMode]) throws -> [(mode: DisplayMode, isPreferred: Bool)] {
    try timings(EDID.make(SinkOutput(name: "x", modes: modes), serial: 1))
  }

  @Test("the DisplayID block holds timings unchanged, as many as there is room for")
  func timingsArriveUnchanged() throws {
    let wildest = DisplayMode(
      clock: 167_772_160, horizontal: (16384, 16384 + 32768, 16384 + 32768 + 1, 65535),
      vertical: (16384, 16385, 16386, 65535), hsyncPositive: false, vsyncPositive: true)
    for large in [mode(5120, 2880), mode(2880, 5120), mode(16384, 16384), fast, wildest] {
      let alone = try made([large])
      #expect(alone.map(\.mode) == [large] && alone.map(\.isPreferred) == [true])
      let behind = try made([mode(800, 600), large])
      #expect(behind.map(\.mode) == [mode(800, 600), large] && behind.map(\.isPreferred) == [true, false])
    }
    let wide = (0..<5 as Range<UInt32>).map { mode(5120 + 8 * $0, 2880) }
    #expect(try made(wide).map(\.mode) == Array(wide.prefix(3)), "as many as there is room for")
  }

  /// Modes that have a place in neither are left out, and nothing traps.
  @Test("a mode that fits neither block is left out, and adds no block") func timingsThatDoNotFit() {
    func with(_ change: (inout DisplayMode) -> Void) -> DisplayMode {
      var mode = mode(5120, 2880)
      change(&mode)
      return mode
    }
    let modes = [
      with { $0.clock = 167_772_170 }, with { $0.clock = 9 }, with { $0.interlaced = true },
      with { $0.hsyncStart = 5120 }, with { $0.hsyncEnd = $0.hsyncStart }, with { $0.vtotal = 2881 },
      with { $0.hsyncEnd = 5281 }, with { $0.vsyncStart = 2880 },
      with { ($0.hsyncStart, $0.hsyncEnd, $0.htotal) = (5120 + 32769, 40000, 40010) },
    ]
    for unfit in modes {
      let edid = EDID.make(SinkOutput(name: "x", modes: [unfit, mode(800, 600)]), serial: 1)
      #expect(edid.count == 128 && edid[24] & 2 != 0, "\(unfit)")
    }
  }

  /// The first timing of the base block is no native one where the DisplayID block has that.
  @Test("the base block's first timing is not native if the DisplayID block has the native one")
  func whichIsNative() {
    #expect(edid(5120, 2880)[24] & 2 == 0)
    #expect(edid(1920, 1200)[24] & 2 != 0)
  }
}

/// libdisplay-info, which came with the programs that `qemu/setup --displays` fetches: weston needs it.
private enum DisplayInfo {
  static let folder = testCache.appending("displays/usr/lib/x86_64-linux-gnu")
  static let isFetched = FileManager.default.fileExists(
    atPath: testCache.appending("displays/usr/.done-1").string)

  /// Prints each timing as its clock in kHz and then for each direction the active pixels, front porch, sync and
  /// blanking; of an EDID first what the library finds wrong.
  private static let script = """
    import ctypes, glob, sys
    from ctypes import POINTER, Structure, c_bool, c_char_p, c_double, c_int, c_void_p

    found = glob.glob(sys.argv[1] + "/libdisplay-info.so.[0-9]")
    if not found: sys.exit("there is no libdisplay-info in " + sys.argv[1])
    library = ctypes.CDLL(found[0])

    class Detailed(Structure):
        _fields_ = [(name, c_int) for name in "hz h v hblank vblank hfront vfront hsync vsync".split()]
    class TypeI(Structure):
        _fields_ = [("mhz", c_double), ("preferred", c_bool), ("stereo", c_int), ("interlaced", c_bool), ("aspect", c_int)] + [
            (name, c_int) for name in "h v hblank vblank hfront vfront hsync vsync".split()]
    class Options(Structure):
        _fields_ = [("version", c_int), ("h", c_int), ("v", c_int), ("hz", c_double), ("video", c_bool), ("vblank", c_double),
                    ("hblank", c_int), ("early", c_bool), ("interlaced", c_bool), ("margins", c_bool)]
    class CVT(Structure):
        _fields_ = [(name, c_double) for name in "mhz h v hfront hsync hback vfront vsync vback rate".split()]

    def function(name, result=c_void_p, arguments=(c_void_p,)):
        made = getattr(library, "di_" + name)
        made.restype, made.argtypes = result, arguments
        return made

    def items(pointers):
        index = 0
        while pointers and pointers[index]:
            yield pointers[index]
            index += 1

    def show(kilohertz, t, *more):
        print(round(kilohertz), t.h, t.hfront, t.hsync, t.hblank, t.v, t.vfront, t.vsync, t.vblank, *more)

    if sys.argv[2] == "cvt":
        options, t = Options(version=1, h=int(sys.argv[3]), v=int(sys.argv[4]), hz=60), CVT()
        library.di_cvt_compute(ctypes.byref(t), ctypes.byref(options))
        numbers = t.h, t.hfront, t.hsync, t.hfront + t.hsync + t.hback, t.v, t.vfront, t.vsync, t.vfront + t.vsync + t.vback
        print(round(t.mhz * 1000), *map(int, numbers))
    else:
        data = bytes.fromhex(sys.argv[3])
        info = function("info_parse_edid", arguments=(c_char_p, ctypes.c_size_t))(data, len(data))
        if not info: sys.exit("this is no EDID")
        print((function("info_get_failure_msg", c_char_p)(info) or b"").decode())
        edid = function("info_get_edid")(info)
        detailed = POINTER(POINTER(Detailed))
        for t in items(function("edid_get_detailed_timing_defs", detailed)(edid)): show(t[0].hz / 1000, t[0])
        for extension in items(function("edid_get_extensions", POINTER(c_void_p))(edid)):
            cta = function("edid_ext_get_cta")(extension)
            if cta:
                for t in items(function("edid_cta_get_detailed_timing_defs", detailed)(cta)): show(t[0].hz / 1000, t[0])
            displayid = function("edid_ext_get_displayid")(extension)
            if displayid:
                for block in items(function("displayid_get_data_blocks", POINTER(c_void_p))(displayid)):
                    timings = function("displayid_data_block_get_type_i_timings", POINTER(POINTER(TypeI)))(block)
                    for t in items(timings): show(t[0].mhz * 1000, t[0], *["preferred"] * t[0].preferred)
    """

  static func run(_ arguments: [String]) throws -> String {
    let (child, output) = try startReading(
      "/usr/bin/python3", ["-c", script, folder.string] + arguments, withErrors: true)
    let text = try output.readToEnd()
    try #require(child.wait() == 0, "\(text)")
    return text
  }

  static func line(_ mode: DisplayMode, _ more: String = "") -> String {
    let numbers = [
      mode.clock, UInt32(mode.hdisplay), UInt32(mode.hsyncStart - mode.hdisplay),
      UInt32(mode.hsyncEnd - mode.hsyncStart),
      UInt32(mode.htotal - mode.hdisplay), UInt32(mode.vdisplay), UInt32(mode.vsyncStart - mode.vdisplay),
      UInt32(mode.vsyncEnd - mode.vsyncStart), UInt32(mode.vtotal - mode.vdisplay),
    ]
    return numbers.map(String.init).joined(separator: " ") + more
  }
}

/// Another library reads the same in them.
@Suite(.enabled(if: DisplayInfo.isFetched, "qemu/setup --displays")) struct DisplayInfoTests {
  /// But those with a timing in the CTA-861 block whose clock ends in a byte of zero: the library takes that for the end.
  static let displays =
    EDIDTests.displays.filter { display in
      display.blocks == 1 || !display.output.modes.dropFirst(3).contains { $0.clock / 10 % 256 == 0 }
    } + [
      EDIDTests.Display("8 modes", common.filter { $0.1 != 720 }.map(mode), blocks: 2),
      EDIDTests.Display(
        "a wide mode, and 8 modes",
        [mode(7680, 4320)] + common.filter { $0.1 != 720 }.map(mode),
        blocks: 3),
    ]

  @Test("libdisplay-info reads each timing of the EDID, and finds nothing wrong", arguments: displays)
  func edid(
    _ display: EDIDTests.Display
  ) throws {
    let edid = EDID.make(display.output, serial: 7)
    let hex = edid.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    let said = try DisplayInfo.run(["edid", hex]).split(separator: "\n", omittingEmptySubsequences: false)
    #expect(said.first == "", "what it finds wrong")
    let modes = display.output.modes
    let small = modes.filter { $0.hdisplay <= 4095 && $0.clock < 655_360 }
    let large = modes.filter { !small.contains($0) }
    let base = small.prefix(edid[min(128, edid.count - 1)] == 2 && edid.count > 128 ? 9 : 3).map {
      DisplayInfo.line($0)
    }
    let extended =
      large.isEmpty
      ? [] : ([modes[0]] + large.filter { $0 != modes[0] }).prefix(3)
    let expected =
      base + extended.map { DisplayInfo.line($0, $0 == modes[0] ? " preferred" : "") }
    #expect(said.dropFirst().dropLast().map(String.init) == expected)
  }

  @Test("timings with reduced blanking are those of libdisplay-info", arguments: ReducedBlankingTests.sizes)
  func reducedBlanking(_ width: UInt32, _ height: UInt32) throws {
    #expect(
      try DisplayInfo.run(["cvt", "\(width)", "\(height)"]) == DisplayInfo.line(mode(width, height)) + "\n")
  }
}
