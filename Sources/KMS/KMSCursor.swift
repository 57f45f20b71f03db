internal import CDRM
internal import Linux
internal import Scanout
internal import SystemPackage

/// The cursor of one output: what it is to be, and what the card was last told of it.
///
/// An image is written into the one of two buffers that is not on the screen. It is written when a commit is
/// made, and an output makes one only when the one before is done.
final class KMSCursor {
  private struct Slot {
    let buffer: DumbBuffer
    /// 0 with the older calls, which take the buffer itself.
    let framebuffer: UInt32
  }

  private let card: KMSCard
  private let crtc: UInt32
  /// Nil with the older calls.
  private let plane: KMSPlane?
  private var slots: [Slot] = []
  private var image: CursorImage?
  private var position = CursorPosition(x: 0, y: 0)
  /// The image has not been written into a slot yet.
  private var isNew = false
  /// The slot of the last commit.
  private var current = 0
  /// The card was told to show it.
  private var isOn = false
  /// The card has not been told yet what it is to be.
  private(set) var isDirty = false
  /// The card has accepted all that it was told so far.
  private(set) var isUsable = true

  /// Nil where the card has none, or none that takes 64x64 pixels of ARGB8888.
  init?(_ pipe: KMSPipe, of card: KMSCard) {
    (self.card, crtc) = (card, pipe.crtc)
    let size = card.cursorSize
    guard size.holds(PixelSize(width: CursorImage.side, height: CursorImage.side)) else { return nil }
    if card.isAtomic {
      guard let plane = pipe.cursor, plane.properties != nil, plane.formats.contains(.argb8888) else {
        return nil
      }
      self.plane = plane
    } else {
      plane = nil
      // There is no other way to ask; what is shown now is nobody's any more.
      guard (try? card.file.call { drmModeSetCursor($0, pipe.crtc, 0, 0, 0) }) != nil else { return nil }
    }
    for _ in 0..<2 {
      guard let slot = try? makeSlot(size) else { return nil }
      slots.append(slot)
    }
  }

  deinit { removeFramebuffers() }

  private func makeSlot(_ size: PixelSize) throws(Errno) -> Slot {
    let buffer = try DumbBuffer(size, of: card.file)
    guard plane != nil else { return Slot(buffer: buffer, framebuffer: 0) }
    let layout = FrameLayout(
      width: size.width, height: size.height, format: .argb8888, stride: buffer.stride)
    let framebuffer = try card.addFramebuffer(buffer.handle, layout, layout.format, modifier: nil)
    return Slot(buffer: buffer, framebuffer: framebuffer)
  }

  // MARK: What it is to be

  func set(_ image: CursorImage?, at position: CursorPosition) {
    if image != self.image {
      self.image = image
      isNew = image != nil
      isDirty = true
    }
    move(to: position)
  }

  func move(to position: CursorPosition) {
    if position == self.position { return }
    self.position = position
    if image != nil { isDirty = true }
  }

  /// The output was switched off, or somebody else may have changed it: what is to be shown is to be told anew.
  func wentDark() {
    isOn = false
    isDirty = image != nil
  }

  /// The card does not take it: nothing more is told.
  func giveUp() { (isUsable, isDirty, image) = (false, false, nil) }

  // MARK: What the card is told

  /// Adds what the cursor is to be to a commit of the output.
  func fill(_ request: AtomicRequest, _ setting: Setting) {
    guard let plane, let properties = plane.properties else { return }
    guard let image else { return fillOff(request) }
    let place = place(setting)
    let framebuffer = slots[writeIfNew()].framebuffer
    add(request, plane.id, properties, framebuffer, x: place.x, y: place.y)
    if let hotspot = properties.hotspot {
      request.add(plane.id, hotspot.x, UInt64(min(image.hotX, CursorImage.side - 1)))
      request.add(plane.id, hotspot.y, UInt64(min(image.hotY, CursorImage.side - 1)))
    }
  }

  /// Adds an empty cursor to a commit that shows nothing, for the card to say whether it would take it.
  func fillTrial(_ request: AtomicRequest) {
    guard let plane, let properties = plane.properties else { return }
    add(request, plane.id, properties, slots[current].framebuffer, x: 0, y: 0)
  }

  func fillOff(_ request: AtomicRequest) {
    guard let plane, let properties = plane.properties else { return }
    request.add(plane.id, properties.framebuffer, 0)
    request.add(plane.id, properties.crtc, 0)
  }

  private func add(
    _ request: AtomicRequest, _ id: UInt32, _ plane: PlaneProperties, _ framebuffer: UInt32, x: Int32,
    y: Int32
  ) {
    let size = card.cursorSize
    request.add(id, plane.framebuffer, UInt64(framebuffer))
    request.add(id, plane.crtc, UInt64(crtc))
    request.add(id, plane.sourceX, 0)
    request.add(id, plane.sourceY, 0)
    request.add(id, plane.sourceWidth, UInt64(size.width) << 16)
    request.add(id, plane.sourceHeight, UInt64(size.height) << 16)
    request.add(id, plane.crtcX, UInt64(bitPattern: Int64(x)))
    request.add(id, plane.crtcY, UInt64(bitPattern: Int64(y)))
    request.add(id, plane.crtcWidth, UInt64(size.width))
    request.add(id, plane.crtcHeight, UInt64(size.height))
  }

  /// The card has accepted what it was told.
  func wasTold() {
    if isNew { current = 1 - current }
    (isOn, isNew, isDirty) = (image != nil, false, false)
  }

  /// Tells the card with the older calls.
  func tell(_ setting: Setting) throws(Errno) {
    guard let image else {
      if isOn { try card.file.call { drmModeSetCursor($0, crtc, 0, 0, 0) } }
      return wasTold()
    }
    if isNew || !isOn {
      let handle = slots[writeIfNew()].buffer.handle
      let (size, side) = (card.cursorSize, CursorImage.side - 1)
      let (hotX, hotY) = (Int32(min(image.hotX, side)), Int32(min(image.hotY, side)))
      try card.file.call { drmModeSetCursor2($0, crtc, handle, size.width, size.height, hotX, hotY) }
    }
    let place = place(setting)
    try card.file.call { drmModeMoveCursor($0, crtc, place.x, place.y) }
    wasTold()
  }

  /// In the mode's pixels. Wild numbers stay outside the screen, and within what cards calculate with.
  private func place(_ setting: Setting) -> (x: Int32, y: Int32) {
    func clamped(_ place: Int32, _ offset: UInt32) -> Int32 {
      Int32(min(max(Int64(place) + Int64(offset), -Int64(CursorImage.side)), 1 << 14))
    }
    return (clamped(position.x, setting.x), clamped(position.y, setting.y))
  }

  /// - Returns: the slot that has the image.
  private func writeIfNew() -> Int {
    guard isNew, let image else { return current }
    let (free, row) = (1 - current, Int(CursorImage.side) * 4)
    let buffer = slots[free].buffer
    for y in 0..<Int(CursorImage.side) {
      let bytes = unsafe image.pixels.span.bytes.extracting(y * row..<(y + 1) * row)
      buffer.mapping.store(bytes, at: y * Int(buffer.stride))
    }
    return free
  }

  /// Shows none any more, for good. Waits for the card.
  func close() {
    giveUp()
    if plane == nil { _ = try? card.file.call { drmModeSetCursor($0, crtc, 0, 0, 0) } }
    removeFramebuffers()
  }

  /// A plane that shows one is switched off by that.
  private func removeFramebuffers() {
    for slot in slots where slot.framebuffer != 0 { card.removeFramebuffer(slot.framebuffer) }
    slots.removeAll()
  }
}
