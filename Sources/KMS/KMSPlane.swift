package import Scanout

/// A plane: a CRTC takes pixels from the framebuffer of each of its planes.
package struct KMSPlane: Sendable {
  package enum Kind: UInt64, Sendable { case overlay, primary, cursor }
  /// The id of the plane on its card.
  package let id: UInt32
  package let kind: Kind
  /// The formats of framebuffers that the plane takes, in the kernel's order.
  package let formats: [FourCC]
  /// The modifiers of each format, if the driver states them (`IN_FORMATS`).
  package let modifiers: [FourCC: [UInt64]]?
  /// A bit for each CRTC that the plane can feed, by the CRTC's index.
  let possibleCRTCs: UInt32
  /// The id of the CRTC that the plane feeds now, or 0.
  let currentCRTC: UInt32
  /// Nil if the kernel offers only the legacy calls.
  let properties: PlaneProperties?

  /// Whether the driver takes the changed part of a frame (`FB_DAMAGE_CLIPS`).
  package var takesDamage: Bool { properties?.damage != nil }
}

/// The ids of a plane's properties, which atomic commits name.
struct PlaneProperties: Sendable {
  let framebuffer, crtc: UInt32
  let sourceX, sourceY, sourceWidth, sourceHeight: UInt32
  let crtcX, crtcY, crtcWidth, crtcHeight: UInt32
  /// `FB_DAMAGE_CLIPS`, if the driver has it.
  let damage: UInt32?
  /// The cursor's pixel that points (`HOTSPOT_X`, `HOTSPOT_Y`). Only virtual GPUs have these properties, because the
  /// display outside draws their cursor.
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
