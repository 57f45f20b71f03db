internal import CDRM
internal import Scanout
internal import SystemPackage

/// A cursor that the legacy calls show. These calls take its buffers without framebuffers.
final class LegacyCursor {
  let cursor: KMSCursor
  private let card: KMSCard
  private let crtc: UInt32

  /// Nil if the card has no cursor of 64x64 pixels.
  init?(_ pipe: KMSPipe, of card: KMSCard) {
    (self.card, crtc) = (card, pipe.crtc)
    // Only a call tells whether the card has a cursor. The call may hide one, which belongs to nobody any more.
    guard card.takesCursorImages,
      (try? card.file.call { drmModeSetCursor($0, pipe.crtc, 0, 0, 0) }) != nil,
      let cursor = KMSCursor(of: card)
    else { return nil }
    self.cursor = cursor
  }

  /// Shows the wanted cursor. If the card refuses it, the cursor is given up.
  /// - Parameter setting: the setting of the picture below.
  func show(in setting: Setting) {
    do throws(Errno) { try tell(setting) } catch {
      if error.isRefusal { cursor.giveUp() }
    }
  }

  private func tell(_ setting: Setting) throws(Errno) {
    guard cursor.image != nil else {
      if cursor.isOn { try hide() }
      return cursor.wasTold()
    }
    if cursor.isNew || !cursor.isOn {
      let handle = cursor.buffers[cursor.writeIfNew()].handle
      let (size, hotspot) = (card.cursorSize, cursor.hotspot)
      try card.file.call {
        drmModeSetCursor2($0, crtc, handle, size.width, size.height, Int32(hotspot.x), Int32(hotspot.y))
      }
    }
    let place = cursor.place(in: setting)
    try card.file.call { drmModeMoveCursor($0, crtc, place.x, place.y) }
    cursor.wasTold()
  }

  /// Removes the cursor for good.
  func close() {
    cursor.giveUp()
    try? hide()
    cursor.freeBuffers()
  }

  private func hide() throws(Errno) { try card.file.call { drmModeSetCursor($0, crtc, 0, 0, 0) } }
}
