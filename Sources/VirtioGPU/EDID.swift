package import Scanout

/// Describes a display to the guest: VESA E-EDID 1.4. A CTA-861 extension has the modes that do not fit into one block,
/// a DisplayID extension those that a detailed timing cannot express.
package enum EDID {
  private static let blockSize = 128
  private static let timingsInBase = 3
  private static let timingsInExtension = 6

  private static let product: UInt16 = 1

  /// The description of a display with these modes, the preferred one first, in one block to three.
  ///
  /// Modes over 4095 pixels a side or over 655 MHz are in the DisplayID block. Readers that do not know it prefer the
  /// first of the other modes. If there are no others, the base block has no timing.
  /// - Parameter serial: tells the displays of one guest apart.
  package static func make(_ output: SinkOutput, serial: UInt32) -> [UInt8] {
    let (width, height) = size(output)
    func fitsBase(_ mode: DisplayMode) -> Bool { detailedTiming(mode, width, height) != nil }
    let large = output.modes.filter { !fitsBase($0) && DisplayID.fits($0) }
    let preferred = output.modes.first { fitsBase($0) || DisplayID.fits($0) }
    var timings = output.modes.compactMap { detailedTiming($0, width, height) }
    // CTA-861, 4.1: a display with an extension block shows 640x480. The EDID must not promise a mode that cannot be
    // shown, so a display without 640x480 has only the timings of the base block.
    let isExtensible = output.modes.contains { is60(640, 480, $0) }
    timings = Array(timings.prefix(timingsInBase + (isExtensible ? timingsInExtension : 0)))
    let extra = timings.dropFirst(timingsInBase)

    var block = [UInt8](repeating: 0, count: blockSize)
    block.replaceSubrange(0..<8, with: [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0])
    // 3.4: manufacturer "UDM" in five-bit letters, product, serial number, made in 2026.
    let maker = letters("UDM")
    block.replaceSubrange(8..<10, with: [UInt8(maker >> 8), UInt8(maker & 0xff)])
    block.replaceSubrange(10..<12, with: [UInt8(product & 0xff), UInt8(product >> 8)])
    for byte in 0..<4 { block[12 + byte] = UInt8(truncatingIfNeeded: serial >> (8 * byte)) }
    block[16] = 0
    block[17] = UInt8(2026 - 1990)
    block[18] = 1
    block[19] = 4
    // 3.6: digital, 8 bits a colour, DisplayPort; size in cm; gamma 2.2; RGB, sRGB is the default, the first
    // timing is native if it is the preferred one.
    block[20] = 0xa5
    block[21] = UInt8(width / 10)
    block[22] = UInt8(height / 10)
    block[23] = 120
    block[24] = preferred.map(fitsBase) == false ? 0x04 : 0x06
    // 3.7: the chromaticities of sRGB.
    block.replaceSubrange(25..<35, with: [0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54])
    block[35] = established(output.modes)
    if output.modes.contains(where: { is60(1024, 768, $0) }) { block[36] = 0x08 }
    let standard = standardTimings(output.modes)
    block.replaceSubrange(38..<54, with: standard)
    for slot in 0..<timingsInBase {
      let start = 54 + 18 * slot
      block.replaceSubrange(
        start..<start + 18, with: slot < timings.count ? timings[slot] : dummyDescriptor)
    }
    block.replaceSubrange(108..<126, with: nameDescriptor(output.name))
    var extensions = extra.isEmpty ? [] : [ctaBlock(Array(extra))]
    if let preferred, !large.isEmpty {
      // The block names the preferred mode, so it has that mode even if the base block has it too.
      let modes = [preferred].filter(DisplayID.fits) + large.filter { $0 != preferred }
      let display = DisplayID.Display(
        product: product, serial: serial, widthMillimetres: width, heightMillimetres: height,
        preferred: preferred)
      extensions.append(DisplayID.block(display, Array(modes.prefix(DisplayID.maxTimings))))
    }
    block[126] = UInt8(extensions.count)
    return ([block] + extensions).flatMap(sealed)
  }

  /// CTA-861, 7.5: revision 3, underscanned; a video capability data block (7.5.6: the range of RGB values
  /// is selectable, everything is underscanned), then the detailed timings.
  private static func ctaBlock(_ timings: [[UInt8]]) -> [UInt8] {
    let capabilities: [UInt8] = [0xe2, 0x00, 0x4a]
    return [2, 3, UInt8(4 + capabilities.count), 0x80] + capabilities + timings.flatMap(\.self)
  }

  /// The whole block, whose sum is 0.
  private static func sealed(_ bytes: [UInt8]) -> [UInt8] {
    precondition(bytes.count <= blockSize, "a block has 128 bytes")
    var block = bytes + [UInt8](repeating: 0, count: blockSize - bytes.count)
    block[127] = 0 &- block[..<127].reduce(0, &+)
    return block
  }

  private static func letters(_ name: StaticString) -> UInt16 {
    name.description.utf8.reduce(0) { $0 << 5 | UInt16($1 - 0x40) }
  }

  /// The size in millimetres. If the sink does not know it, the preferred mode at 96 dots per inch. Zero, which means that
  /// the size varies, if it does not fit into one byte of centimetres.
  private static func size(_ output: SinkOutput) -> (UInt32, UInt32) {
    var (width, height) = (output.widthMillimetres, output.heightMillimetres)
    if width == 0 || height == 0, let mode = output.modes.first {
      (width, height) = (UInt32(mode.hdisplay) * 254 / 960, UInt32(mode.vdisplay) * 254 / 960)
    }
    let isExpressible = (10..<2560).contains(width) && (10..<2560).contains(height)
    return isExpressible ? (width, height) : (0, 0)
  }

  private static func is60(_ width: UInt16, _ height: UInt16, _ mode: DisplayMode) -> Bool {
    mode.hdisplay == width && mode.vdisplay == height && (59_000...61_000).contains(mode.refresh)
  }

  /// 3.8: 640x480 and 800x600 at 60 Hz.
  private static func established(_ modes: [DisplayMode]) -> UInt8 {
    (modes.contains { is60(640, 480, $0) } ? 0x20 : 0) | (modes.contains { is60(800, 600, $0) } ? 0x01 : 0)
  }

  /// 3.9: up to eight modes at 60 Hz as width, aspect ratio and rate.
  private static func standardTimings(_ modes: [DisplayMode]) -> [UInt8] {
    var bytes: [UInt8] = []
    for mode in modes where bytes.count < 16 {
      let (width, height) = (Int(mode.hdisplay), Int(mode.vdisplay))
      guard width % 8 == 0, (256...2288).contains(width), is60(mode.hdisplay, mode.vdisplay, mode) else {
        continue
      }
      let aspect: UInt8
      switch true {
      case width * 10 == height * 16: aspect = 0
      case width * 3 == height * 4: aspect = 1
      case width * 4 == height * 5: aspect = 2
      case width * 9 == height * 16: aspect = 3
      default: continue
      }
      bytes += [UInt8(width / 8 - 31), aspect << 6]
    }
    while bytes.count < 16 { bytes.append(1) }
    return bytes
  }

  /// 3.10.2: a detailed timing with the size of its picture in millimetres, or nil for a mode that does not
  /// fit its fields.
  private static func detailedTiming(_ mode: DisplayMode, _ width: UInt32, _ height: UInt32) -> [UInt8]? {
    guard mode.hdisplay <= mode.hsyncStart, mode.hsyncStart <= mode.hsyncEnd, mode.hsyncEnd <= mode.htotal,
      mode.vdisplay <= mode.vsyncStart, mode.vsyncStart <= mode.vsyncEnd, mode.vsyncEnd <= mode.vtotal,
      !mode.interlaced
    else { return nil }
    let clock = mode.clock / 10
    let (hactive, hblank) = (mode.hdisplay, mode.htotal - mode.hdisplay)
    let (hfront, hsync) = (mode.hsyncStart - mode.hdisplay, mode.hsyncEnd - mode.hsyncStart)
    let (vactive, vblank) = (mode.vdisplay, mode.vtotal - mode.vdisplay)
    let (vfront, vsync) = (mode.vsyncStart - mode.vdisplay, mode.vsyncEnd - mode.vsyncStart)
    guard clock > 0, clock <= 0xffff, hactive <= 0xfff, hblank <= 0xfff, hfront <= 0x3ff, hsync <= 0x3ff,
      vactive <= 0xfff, vblank <= 0xfff, vfront <= 0x3f, vsync <= 0x3f
    else { return nil }
    func low(_ value: UInt16) -> UInt8 { UInt8(truncatingIfNeeded: value) }
    return [
      UInt8(clock & 0xff), UInt8(clock >> 8),
      low(hactive), low(hblank), low((hactive >> 8) << 4 | hblank >> 8),
      low(vactive), low(vblank), low((vactive >> 8) << 4 | vblank >> 8),
      low(hfront), low(hsync), low((vfront & 0xf) << 4 | vsync & 0xf),
      low((hfront >> 8) << 6 | (hsync >> 8) << 4 | (vfront >> 4) << 2 | vsync >> 4),
      UInt8(width & 0xff), UInt8(height & 0xff), UInt8((width >> 8) << 4 | height >> 8), 0, 0,
      0x18 | (mode.vsyncPositive ? 4 : 0) | (mode.hsyncPositive ? 2 : 0),
    ]
  }

  /// 3.10.3: no descriptor here.
  private static let dummyDescriptor: [UInt8] = [0, 0, 0, 0x10, 0] + [UInt8](repeating: 0, count: 13)

  /// 3.10.3.4: the display's name, at most 13 characters of ASCII.
  private static func nameDescriptor(_ name: String) -> [UInt8] {
    var text = name.utf8.filter { (0x20..<0x7f).contains($0) }.prefix(13).map { $0 }
    while text.last == 0x20 { text.removeLast() }
    if text.isEmpty { text = Array("udmabridge".utf8) }
    if text.count < 13 { text.append(0x0a) }
    while text.count < 13 { text.append(0x20) }
    return [0, 0, 0, 0xfc, 0] + text
  }
}
