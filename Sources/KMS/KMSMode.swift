internal import CDRM
package import Scanout

/// A mode of a connector, or a mode that was made for it.
package struct KMSMode: Sendable, CustomStringConvertible {
  package let mode: DisplayMode
  /// Whether the screen prefers this mode.
  package let isPreferred: Bool
  /// Whether the mode cannot show a plain picture, because it doubles lines or is stereoscopic.
  let isUnusual: Bool
  /// The kernel's own description, to be handed back unchanged.
  let raw: drmModeModeInfo

  init(_ raw: drmModeModeInfo) {
    self.raw = raw
    func has(_ flag: Int32) -> Bool { raw.flags & UInt32(flag) != 0 }
    mode = DisplayMode(
      clock: raw.clock, horizontal: (raw.hdisplay, raw.hsync_start, raw.hsync_end, raw.htotal),
      vertical: (raw.vdisplay, raw.vsync_start, raw.vsync_end, raw.vtotal),
      hsyncPositive: has(DRM_MODE_FLAG_PHSYNC), vsyncPositive: has(DRM_MODE_FLAG_PVSYNC),
      interlaced: has(DRM_MODE_FLAG_INTERLACE))
    isPreferred = raw.type & UInt32(DRM_MODE_TYPE_PREFERRED) != 0
    isUnusual = has(DRM_MODE_FLAG_DBLSCAN) || raw.flags & UInt32(DRM_MODE_FLAG_3D_MASK) != 0
  }

  /// Makes a mode of a timing that no screen has listed.
  init(generated mode: DisplayMode) {
    var raw = drmModeModeInfo()
    raw.clock = mode.clock
    (raw.hdisplay, raw.hsync_start, raw.hsync_end, raw.htotal) = (
      mode.hdisplay, mode.hsyncStart, mode.hsyncEnd, mode.htotal
    )
    (raw.vdisplay, raw.vsync_start, raw.vsync_end, raw.vtotal) = (
      mode.vdisplay, mode.vsyncStart, mode.vsyncEnd, mode.vtotal
    )
    raw.vrefresh = (mode.refresh + 500) / 1000
    raw.type = UInt32(DRM_MODE_TYPE_USERDEF)
    raw.flags =
      UInt32(mode.hsyncPositive ? DRM_MODE_FLAG_PHSYNC : DRM_MODE_FLAG_NHSYNC)
      | UInt32(mode.vsyncPositive ? DRM_MODE_FLAG_PVSYNC : DRM_MODE_FLAG_NVSYNC)
    self.init(raw)
  }

  var size: PixelSize { PixelSize(width: UInt32(mode.hdisplay), height: UInt32(mode.vdisplay)) }
  var isUsable: Bool { !mode.interlaced && !isUnusual }

  package var description: String { mode.description }
}
