internal import Scanout
internal import SystemPackage

/// A cursor on a cursor plane, set by the commits of its output.
final class AtomicCursor {
  let cursor: KMSCursor
  private let card: KMSCard
  private let crtc: UInt32
  private let plane: AtomicPlane
  /// One framebuffer for each buffer of the cursor.
  private var framebuffers: [UInt32] = []

  /// Nil if the CRTC has no cursor plane that takes 64x64 pixels of ARGB8888.
  init?(_ pipe: KMSPipe, of card: KMSCard) {
    guard card.takesCursorImages, let cursorPlane = pipe.cursor, cursorPlane.formats.contains(.argb8888),
      let plane = AtomicPlane(cursorPlane), let cursor = KMSCursor(of: card)
    else { return nil }
    (self.cursor, self.card, crtc, self.plane) = (cursor, card, pipe.crtc, plane)
    for buffer in cursor.buffers {
      let layout = FrameLayout(
        width: card.cursorSize.width, height: card.cursorSize.height, format: .argb8888, stride: buffer.stride
      )
      let framebuffer = try? card.addFramebuffer(buffer.handle, layout, layout.format, modifier: nil)
      guard let framebuffer else { return nil }
      framebuffers.append(framebuffer)
    }
  }

  deinit { removeFramebuffers() }

  /// Adds the wanted cursor.
  /// - Parameter setting: the setting of the picture below.
  func add(to request: AtomicRequest, in setting: Setting) {
    guard cursor.image != nil else { return addOff(to: request) }
    let (place, hotspot) = (cursor.place(in: setting), cursor.hotspot)
    add(framebuffers[cursor.writeIfNew()], x: place.x, y: place.y, to: request)
    if let properties = plane.properties.hotspot {
      request.set(properties.x, of: plane.id, to: UInt64(hotspot.x))
      request.set(properties.y, of: plane.id, to: UInt64(hotspot.y))
    }
  }

  /// Adds a cursor to a commit that is only tested.
  func addTrial(to request: AtomicRequest) { add(framebuffers[cursor.current], x: 0, y: 0, to: request) }

  func addOff(to request: AtomicRequest) { plane.addOff(to: request) }

  private func add(_ framebuffer: UInt32, x: Int32, y: Int32, to request: AtomicRequest) {
    let (width, height) = (card.cursorSize.width, card.cursorSize.height)
    plane.add(
      framebuffer: framebuffer, source: Rectangle(x: 0, y: 0, width: width, height: height), x: Int64(x),
      y: Int64(y), on: crtc, to: request)
  }

  /// Removes the cursor for good. Waits for the card.
  func close() {
    cursor.giveUp()
    removeFramebuffers()
    cursor.freeBuffers()
  }

  /// The kernel switches off a plane whose framebuffer is removed.
  private func removeFramebuffers() {
    for framebuffer in framebuffers { card.removeFramebuffer(framebuffer) }
    framebuffers.removeAll()
  }
}
