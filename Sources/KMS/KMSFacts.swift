internal import CDRM
package import Scanout

/// A mode of a connector, or one that was made for it.
package struct KMSMode: Sendable, CustomStringConvertible {
  package let mode: DisplayMode
  package let isPreferred: Bool
  /// Its lines are shown twice, or it is stereoscopic: no mode for a plain picture.
  let isUnusual: Bool
  /// As the kernel gave it, to be handed back unchanged.
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

  /// A mode that no screen has named, made of a timing.
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

/// A connector: where a screen is plugged in.
package struct KMSConnector: Sendable {
  package let id: UInt32
  /// As the kernel's logs and `xrandr` write it, such as `HDMI-A-1`.
  package let name: String
  package let isConnected: Bool
  /// In the kernel's order.
  package let modes: [KMSMode]
  /// Of the visible area; 0 when unknown.
  package let widthMillimetres, heightMillimetres: UInt32
  /// A bit for each CRTC that can drive it, by the CRTC's index.
  let possibleCRTCs: UInt32
  /// The id of the CRTC that drives it now, or 0.
  let currentCRTC: UInt32

  var withoutScreen: KMSConnector {
    KMSConnector(
      id: id, name: name, isConnected: false, modes: [], widthMillimetres: 0, heightMillimetres: 0,
      possibleCRTCs: possibleCRTCs, currentCRTC: currentCRTC)
  }

  /// Progressive modes, the preferred one first.
  var usableModes: [KMSMode] {
    modes.filter { $0.isUsable && $0.isPreferred } + modes.filter { $0.isUsable && !$0.isPreferred }
  }
}

/// A plane: what a CRTC takes pixels from.
package struct KMSPlane: Sendable {
  package enum Kind: UInt64, Sendable { case overlay, primary, cursor }
  package let id: UInt32
  package let kind: Kind
  package let formats: [FourCC]
  /// The modifiers of each format, where the driver states them (`IN_FORMATS`).
  package let modifiers: [FourCC: [UInt64]]?
  /// A bit for each CRTC that it can feed, by the CRTC's index.
  let possibleCRTCs: UInt32
  /// The id of the CRTC that it feeds now, or 0.
  let currentCRTC: UInt32
  let properties: PlaneProperties?

  /// The driver is told what part of a frame changed (`FB_DAMAGE_CLIPS`).
  package var takesDamage: Bool { properties?.damage != nil }
}

/// The ids of a plane's properties, which atomic commits name.
struct PlaneProperties: Sendable {
  let framebuffer, crtc: UInt32
  let sourceX, sourceY, sourceWidth, sourceHeight: UInt32
  let crtcX, crtcY, crtcWidth, crtcHeight: UInt32
  let damage: UInt32?
  /// Which pixel of a cursor points; only cards whose cursor is drawn by somebody else want to know.
  let hotspot: (x: UInt32, y: UInt32)?

  init?(_ all: [String: DRMProperty]) {
    guard let framebuffer = all["FB_ID"]?.id, let crtc = all["CRTC_ID"]?.id,
      let sourceX = all["SRC_X"]?.id, let sourceY = all["SRC_Y"]?.id,
      let sourceWidth = all["SRC_W"]?.id, let sourceHeight = all["SRC_H"]?.id,
      let crtcX = all["CRTC_X"]?.id, let crtcY = all["CRTC_Y"]?.id,
      let crtcWidth = all["CRTC_W"]?.id, let crtcHeight = all["CRTC_H"]?.id
    else { return nil }
    (self.framebuffer, self.crtc) = (framebuffer, crtc)
    (self.sourceX, self.sourceY, self.sourceWidth, self.sourceHeight) = (
      sourceX, sourceY, sourceWidth, sourceHeight
    )
    (self.crtcX, self.crtcY, self.crtcWidth, self.crtcHeight) = (crtcX, crtcY, crtcWidth, crtcHeight)
    damage = all["FB_DAMAGE_CLIPS"]?.id
    if let x = all["HOTSPOT_X"]?.id, let y = all["HOTSPOT_Y"]?.id { hotspot = (x, y) } else { hotspot = nil }
  }
}
