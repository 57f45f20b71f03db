/// A display's timing, in the terms of DRM's `drm_mode_modeinfo`.
package struct DisplayMode: Hashable, Sendable, CustomStringConvertible {
  /// Pixel clock in kHz.
  package var clock: UInt32
  package var hdisplay, hsyncStart, hsyncEnd, htotal: UInt16
  package var vdisplay, vsyncStart, vsyncEnd, vtotal: UInt16
  package var hsyncPositive, vsyncPositive: Bool
  package var interlaced: Bool

  package init(
    clock: UInt32, horizontal: (display: UInt16, syncStart: UInt16, syncEnd: UInt16, total: UInt16),
    vertical: (display: UInt16, syncStart: UInt16, syncEnd: UInt16, total: UInt16),
    hsyncPositive: Bool, vsyncPositive: Bool, interlaced: Bool = false
  ) {
    self.clock = clock
    (hdisplay, hsyncStart, hsyncEnd, htotal) = horizontal
    (vdisplay, vsyncStart, vsyncEnd, vtotal) = vertical
    (self.hsyncPositive, self.vsyncPositive, self.interlaced) = (hsyncPositive, vsyncPositive, interlaced)
  }

  /// Refresh rate in thousandths of a hertz.
  package var refresh: UInt32 {
    let pixels = UInt64(htotal) * UInt64(vtotal)
    return pixels == 0 ? 0 : UInt32(clamping: UInt64(clock) * 1_000_000 / pixels)
  }

  package var description: String { "\(hdisplay)x\(vdisplay)@\((refresh + 500) / 1000)" }

  /// A 60 Hz timing for any size from 64x64 to 16384x16384 pixels, or nil: VESA's Coordinated Video
  /// Timings with reduced blanking, version 1.
  package static func reducedBlanking(width: UInt32, height: UInt32) -> DisplayMode? {
    guard (64...16384).contains(width), (64...16384).contains(height) else { return nil }
    // CVT 1.1, 5.4: 160 pixels of horizontal blanking (48 front porch, 32 sync), at least 460 us of
    // vertical blanking (front porch 3, back porch at least 6), and a clock in steps of 250 kHz.
    let frame = 1_000_000_000_000 / 60  // picoseconds; the refresh rate is exactly 60 Hz
    let line = (frame - 460_000_000) / Int(height)
    let sync = verticalSync(width: width, height: height)
    let blanking = max(460_000_000 / line + 1, 3 + sync + 6)
    let (total, htotal) = (Int(height) + blanking, Int(width) + 160)
    let clock = htotal * total * 60 / 1000 / 250 * 250
    return DisplayMode(
      clock: UInt32(clock),
      horizontal: (UInt16(width), UInt16(width + 48), UInt16(width + 80), UInt16(htotal)),
      vertical: (UInt16(height), UInt16(height + 3), UInt16(Int(height) + 3 + sync), UInt16(total)),
      hsyncPositive: true, vsyncPositive: false)
  }

  /// CVT 1.1, table 3-2: the width of the vertical sync encodes the aspect ratio.
  private static func verticalSync(width: UInt32, height: UInt32) -> Int {
    switch true {
    case width * 3 == height * 4: 4
    case width * 9 == height * 16: 5
    case width * 10 == height * 16: 6
    case width * 4 == height * 5, width * 9 == height * 15: 7
    default: 10
    }
  }
}
