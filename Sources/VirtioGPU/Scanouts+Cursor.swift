internal import Buffers
internal import Linux
internal import Pictures
internal import Scanout

/// Where the guest's cursor may be shown.
package enum CursorChoice: String, Sendable, CaseIterable {
  /// On the screen's own plane for it; where there is none, drawn into a copy of the picture.
  case auto
  /// On a plane, or not at all: pictures are never copied for the sake of a cursor.
  case plane
  /// Nowhere.
  case off
}

// The cursor (virtio 1.3, 5.7.6.10): its image is taken over with UPDATE_CURSOR, 64x64 pixels, and drawn by the
// screen where it can.
extension Scanouts {
  /// A cursor on this scanout is drawn into the picture.
  func drawsCursor(_ scanout: GuestScanout) -> Bool {
    cursorChoice == .auto && scanout.cursor != nil && !scanout.output.hasCursor
  }

  /// Copies the image out of the guest's memory: bytes as the format says, made blue, green, red, alpha.
  func cursorImage(_ resource: Resource, _ hotX: UInt32, _ hotY: UInt32) throws(Mistake) -> CursorImage {
    let side = CursorImage.side
    // A blob says nothing of its pixels: those of a cursor are as Linux has all its cursors.
    let layout =
      resource.image ?? FrameLayout(width: side, height: side, format: .argb8888, stride: side * 4)
    guard layout.width == side, layout.height == side, layout.end ?? 0 <= resource.size else {
      throw Mistake(
        .invalidParameter, .cursorSize,
        "resource \(resource.id) is \(resource.form); a cursor is \(side)x\(side)")
    }
    // Linux has all its dumb buffers as B8G8R8X8, those of cursors too: alpha is in the byte that the format
    // leaves unused.
    guard let bytes = resource.bytes, let shuffle = layout.format.withAlpha.shuffle(to: .argb8888) else {
      throw Mistake(
        .unspecified, .noBacking, "UPDATE_CURSOR with resource \(resource.id), which has no backing")
    }
    let pixels = bytes.bytes(upTo: Int(side * side) * 4)
    work.count(copied: UInt64(pixels.count))
    return CursorImage(pixels: shuffle(pixels), hotX: hotX, hotY: hotY)
  }

  func setCursor(_ scanout: GuestScanout, _ cursor: PlacedCursor?) {
    if cursorChoice == .off { return }
    let before = scanout.cursor
    scanout.cursor = cursor
    scanout.hiddenCursor = nil
    if scanout.output.hasCursor {
      let position = onScreen(scanout, cursor?.position ?? CursorPosition(x: 0, y: 0))
      sink?.setCursor(cursor?.image, at: position, on: scanout.id)
    } else if before != cursor {
      redraw(scanout)
      if cursor == nil { dropBlended(scanout) }
    }
  }

  /// Copies that were there for the cursor alone are not kept for the next one.
  private func dropBlended(_ scanout: GuestScanout) {
    for resource in resources.values {
      drop(
        resource.forgetPictures(on: scanout.id) {
          if case .shadow(let shadow) = $0 { shadow.cause.name == .noCursorPlane } else { false }
        })
    }
  }

  /// A move that names no resource hides the cursor on QEMU's own card. Some drivers never name one, such as older ones of
  /// Redox, and mean to see it.
  func moveCursor(_ scanout: GuestScanout, to position: CursorPosition, _ id: ResourceID) {
    if id.rawValue != 0 { movesByName = true }
    if movesByName, id.rawValue == 0 {
      guard let cursor = scanout.cursor else { return }
      setCursor(scanout, nil)
      scanout.hiddenCursor = cursor
      return
    }
    if var hidden = scanout.hiddenCursor {
      hidden.position = position
      return setCursor(scanout, hidden)
    }
    guard let cursor = scanout.cursor, cursor.position != position else { return }
    scanout.cursor?.position = position
    if scanout.output.hasCursor {
      sink?.moveCursor(to: onScreen(scanout, position), on: scanout.id)
    } else {
      redraw(scanout)
    }
  }

  /// A new driver shows no cursor until it says so.
  func hideCursor(_ scanout: GuestScanout) {
    scanout.hiddenCursor = nil
    guard scanout.cursor.take() != nil, scanout.output.hasCursor else { return }
    sink?.setCursor(nil, at: CursorPosition(x: 0, y: 0), on: scanout.id)
  }

  /// Where a picture is in the middle of its canvas, its cursor is there too.
  private func onScreen(_ scanout: GuestScanout, _ position: CursorPosition) -> CursorPosition {
    guard case .shadow(let shadow) = scanout.binding?.picture else { return position }
    return CursorPosition(
      x: position.x.addingReportingOverflow(Int32(clamping: shadow.area.x)).partialValue,
      y: position.y.addingReportingOverflow(Int32(clamping: shadow.area.y)).partialValue)
  }

  /// Draws the cursor where it is now, if the scanout shows something.
  private func redraw(_ scanout: GuestScanout) {
    guard cursorChoice == .auto, scanout.last != nil else { return }
    rebind(scanout)
    guard let binding = scanout.binding, let picture = binding.picture else { return }
    switch picture {
    case .lent(let frame):
      // The guest's own pages show no cursor: they need but to come back on the screen.
      if frame !== scanout.last { present(scanout, damage: binding.view.source, ownInitiative: true) }
    case .shadow:
      present(scanout, damage: Rectangle(x: 0, y: 0, width: 0, height: 0), ownInitiative: true)
    }
  }
}
