internal import CDRM
internal import Scanout
internal import SystemPackage

/// Mode setting by the legacy calls, for drivers without atomic commits. The calls cannot be tested without effect,
/// and all but a page flip may wait for the card.
final class LegacyModeSetting: ModeSetting {
  private let file: DRMFile
  private let crtc, connector: UInt32
  private let legacyCursor: LegacyCursor?

  init(_ pipe: KMSPipe, of card: KMSCard) {
    (file, crtc, connector) = (card.file, pipe.crtc, pipe.connector.id)
    legacyCursor = LegacyCursor(pipe, of: card)
  }

  var cursor: KMSCursor? { legacyCursor?.cursor }
  var canTest: Bool { false }

  func test(_ content: PipeContent, withCursor: Bool) throws(Errno) {}

  func show(
    _ next: PipeContent, after current: PipeContent?, damage: Rectangle, tag: UInt64
  ) throws(Errno) -> Completion {
    let completion = try showPicture(next, after: current, damage: damage, tag: tag)
    if let legacyCursor, legacyCursor.cursor.isDirty { legacyCursor.show(in: next.setting) }
    return completion
  }

  private func showPicture(
    _ next: PipeContent, after current: PipeContent?, damage: Rectangle, tag: UInt64
  ) throws(Errno) -> Completion {
    if let current, current.setting == next.setting, current.source == next.source {
      if current.framebuffer == next.framebuffer {
        let part = damage.intersection(next.source)
        try markDirty(next.framebuffer, part.isEmpty ? next.source : part)
        return .now
      }
      do throws(Errno) {
        try flip(to: next.framebuffer, tag: tag)
        return .event
      } catch .resourceBusy { throw .resourceBusy } catch {
        // Some drivers cannot flip between some framebuffers, but can set the mode anew.
      }
    }
    try setMode(next)
    return .now
  }

  /// Tells the driver the changed part of the framebuffer. A driver without this call always shows the memory as it
  /// is.
  /// - The corresponding ioctl is `DRM_IOCTL_MODE_DIRTYFB`.
  private func markDirty(_ framebuffer: UInt32, _ part: Rectangle) throws(Errno) {
    var clip = drm_clip_rect(
      x1: UInt16(clamping: part.x), y1: UInt16(clamping: part.y), x2: UInt16(clamping: part.x + part.width),
      y2: UInt16(clamping: part.y + part.height))
    do throws(Errno) { try file.call { unsafe drmModeDirtyFB($0, framebuffer, &clip, 1) } } catch .noFunction
    {}
  }

  /// Shows another framebuffer from the next vertical blank on, and does not wait.
  /// - The corresponding ioctl is `DRM_IOCTL_MODE_PAGE_FLIP`.
  private func flip(to framebuffer: UInt32, tag: UInt64) throws(Errno) {
    let data = unsafe UnsafeMutableRawPointer(bitPattern: UInt(truncatingIfNeeded: tag))
    try file.call {
      unsafe drmModePageFlip($0, crtc, framebuffer, UInt32(DRM_MODE_PAGE_FLIP_EVENT), data)
    }
  }

  /// The corresponding ioctl is `DRM_IOCTL_MODE_SETCRTC`.
  private func setMode(_ content: PipeContent) throws(Errno) {
    var (info, connector) = (content.setting.mode.raw, connector)
    let (framebuffer, source) = (content.framebuffer, content.source)
    try file.call { unsafe drmModeSetCrtc($0, crtc, framebuffer, source.x, source.y, &connector, 1, &info) }
  }

  func showCursor(in setting: Setting, tag: UInt64) throws(Errno) -> Completion {
    legacyCursor?.show(in: setting)
    return .now
  }

  func turnOff(tag: UInt64) throws(Errno) -> Completion {
    try file.call { drmModeSetCrtc($0, crtc, 0, 0, 0, nil, 0, nil) }
    return .now
  }

  func restore(_ saved: SavedCRTC) {
    legacyCursor?.close()
    saved.restore(file)
  }
}
