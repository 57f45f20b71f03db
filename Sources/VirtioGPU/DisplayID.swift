internal import Scanout

/// An extension block of an EDID, for the modes that do not fit the EDID's own timings: VESA DisplayID 1.3.
enum DisplayID {
  /// The most timings in the block, besides the data blocks that the standard requires of a display.
  static let maxTimings = 3

  /// The room in a block's section, in bytes: 128 without the tag, the section's header, and both checksums.
  private static let payloadSize = 121

  /// The display's facts that the block repeats.
  struct Display {
    let product: UInt16
    let serial: UInt32
    let widthMillimetres, heightMillimetres: UInt32
    /// The preferred mode.
    let preferred: DisplayMode
  }

  /// Whether the block can express a timing.
  static func fits(_ mode: DisplayMode) -> Bool {
    mode.hdisplay > 0 && mode.hdisplay < mode.hsyncStart && mode.hsyncStart < mode.hsyncEnd
      && mode.hsyncEnd <= mode.htotal && mode.vdisplay > 0 && mode.vdisplay < mode.vsyncStart
      && mode.vsyncStart < mode.vsyncEnd && mode.vsyncEnd <= mode.vtotal
      && mode.hsyncStart - mode.hdisplay <= 0x8000 && mode.vsyncStart - mode.vdisplay <= 0x8000
      && !mode.interlaced && (1...1 << 24).contains(mode.clock / 10)
  }

  /// The extension block with these modes, which fit, at most `maxTimings`.
  static func block(_ display: Display, _ modes: [DisplayMode]) -> [UInt8] {
    precondition(modes.count <= maxTimings && modes.allSatisfy(fits), "the block has room for its timings")
    let preferred = display.preferred
    let (long, short) = (
      max(preferred.hdisplay, preferred.vdisplay), max(1, min(preferred.hdisplay, preferred.vdisplay))
    )
    let aspect = UInt8(clamping: UInt32(long) * 100 / UInt32(short) - 100)
    // 4.1: manufacturer, product, serial number, made in 2026, and no text.
    let product = Array("UDM".utf8) + words(display.product) + words(display.serial) + [0, 26, 0]
    // 4.2: tenths of millimetres, pixels, no features, gamma 2.2, aspect ratio, 8 bits a colour.
    let parameters =
      words(UInt16(display.widthMillimetres * 10)) + words(UInt16(display.heightMillimetres * 10))
      + words(preferred.hdisplay) + words(preferred.vdisplay) + [0, 120, aspect, 0x77]
    // 4.13: DisplayPort 1.2 with one link, RGB with 8 bits a colour.
    let interface: [UInt8] = [0xa1, 0x12, 0x02, 0, 0, 0, 0, 0, 0, 0]
    let body =
      dataBlock(0x00, product) + dataBlock(0x01, parameters) + dataBlock(0x0f, interface)
      + dataBlock(0x03, modes.flatMap { timing($0, isPreferred: $0 == preferred) })
    // 2.3: version 1.3, a display, no further section; it fills the block, and the sum of it all is 0.
    let filler = [UInt8](repeating: 0, count: payloadSize - body.count)
    var section: [UInt8] = [0x13, UInt8(payloadSize), 0x03, 0] + body + filler
    section.append(0 &- section.reduce(0, &+))
    return [0x70] + section
  }

  private static func dataBlock(_ tag: UInt8, _ payload: [UInt8]) -> [UInt8] {
    [tag, 0, UInt8(payload.count)] + payload
  }

  /// 4.4.1: a detailed timing of type I. Its numbers count from 1; the aspect ratio is undefined.
  private static func timing(_ mode: DisplayMode, isPreferred: Bool) -> [UInt8] {
    let clock = Array(words(mode.clock / 10 - 1).prefix(3))
    let horizontal =
      words(mode.hdisplay - 1) + words(mode.htotal - mode.hdisplay - 1)
      + words(mode.hsyncStart - mode.hdisplay - 1 | (mode.hsyncPositive ? 0x8000 : 0))
      + words(mode.hsyncEnd - mode.hsyncStart - 1)
    let vertical =
      words(mode.vdisplay - 1) + words(mode.vtotal - mode.vdisplay - 1)
      + words(mode.vsyncStart - mode.vdisplay - 1 | (mode.vsyncPositive ? 0x8000 : 0))
      + words(mode.vsyncEnd - mode.vsyncStart - 1)
    let flags: UInt8 = isPreferred ? 0x88 : 0x08
    return clock + [flags] + horizontal + vertical
  }

  private static func words(_ number: some FixedWidthInteger) -> [UInt8] {
    stride(from: 0, to: number.bitWidth, by: 8).map { UInt8(truncatingIfNeeded: number >> $0) }
  }
}
