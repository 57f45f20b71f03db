internal import Buffers
internal import Linux
internal import Pictures
internal import Scanout

/// The ways to show the guest's cursor.
package enum CursorChoice: String, Sendable, CaseIterable {
  /// On the screen's cursor plane; without a plane, drawn into a copy of the picture.
  case auto
  /// On a plane, or not at all: pictures are never copied for a cursor.
  case plane
  /// Not shown.
  case off
}

// The cursor (virtio 1.3, 5.7.6.10): UPDATE_CURSOR takes its image over, 64x64 pixels. The screen draws it if it can.
extension Scanouts {
  /// Whether a cursor on this scanout is drawn into the picture.
  func drawsCursor(_ scanout: GuestScanout) -> Bool {
    cursorChoice == .auto && scanout.cursor != nil && !scanout.output.hasCursor
  }

  /// Copies the image out of the guest's memory, and converts its format to bytes blue, green, red, alpha.
  func cursorImage(_ resource: Resource, _ hotX: UInt32, _ hotY: UInt32) throws(Mistake) -> CursorImage {
    let side = CursorImage.side
    // A blob does not describe its pixels, so a cursor in one has Linux's format for all cursors.
    let layout =
      resource.image ?? FrameLayout(width: side, height: side, format: .argb8888, stride: side * 4)
    guard layout.width == side, layout.height == side, layout.end ?? 0 <= resource.size else {
      throw Mistake(
        .invalidParameter, .cursorSize,
        "UPDATE_CURSOR with resource \(resource.id), \(resource.form); a cursor must have \(side)x\(side) pixels"
      )
    }
    // Linux makes all dumb buffers as B8G8R8X8, also those for cursors. Alpha is in the byte that this format leaves
    // unused.
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

  /// Drops copies that existed only for the cursor.
  private func dropBlended(_ scanout: GuestScanout) {
    for resource in resources.values {
      drop(
        resource.forgetPictures(on: scanout.id) {
          if case .shadow(let shadow) = $0 { shadow.cause.name == .noCursorPlane } else { false }
        })
    }
  }

  /// On QEMU's own card, a move without a resource hides the cursor. Some drivers, such as older ones of Redox, never name
  /// a resource, but want the cursor to be seen.
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

  /// A new driver has no cursor until it sets one.
  func hideCursor(_ scanout: GuestScanout) {
    scanout.hiddenCursor = nil
    guard scanout.cursor.take() != nil, scanout.output.hasCursor else { return }
    sink?.setCursor(nil, at: CursorPosition(x: 0, y: 0), on: scanout.id)
  }

  /// The cursor's place in a canvas. A picture in the middle of its canvas moves its cursor too.
  private func onScreen(_ scanout: GuestScanout, _ position: CursorPosition) -> CursorPosition {
    guard case .shadow(let shadow) = scanout.binding?.picture else { return position }
    return CursorPosition(
      x: position.x.addingReportingOverflow(Int32(clamping: shadow.area.x)).partialValue,
      y: position.y.addingReportingOverflow(Int32(clamping: shadow.area.y)).partialValue)
  }

  /// Draws the cursor at its present place, if the scanout shows a picture.
  private func redraw(_ scanout: GuestScanout) {
    guard cursorChoice == .auto, scanout.last != nil else { return }
    rebind(scanout)
    guard let binding = scanout.binding, let picture = binding.picture else { return }
    switch picture {
    case .lent(let frame):
      // The guest's own pages have no cursor in them, so they only need to come back on the screen.
      if frame !== scanout.last { present(scanout, damage: binding.view.source, ownInitiative: true) }
    case .shadow:
      present(scanout, damage: Rectangle(x: 0, y: 0, width: 0, height: 0), ownInitiative: true)
    }
  }
}
