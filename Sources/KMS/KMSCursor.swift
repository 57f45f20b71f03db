internal import Linux
internal import Scanout
internal import SystemPackage

/// The cursor of one output: the wanted state, and the state that the card was last told. `AtomicCursor` and
/// `LegacyCursor` tell the card.
///
/// A new image is written into the one of two buffers that is not on the screen, when a commit is made. An output
/// makes a commit only after the last one is done.
final class KMSCursor {
  /// Two buffers of the card's cursor size, for pixels of ARGB8888.
  private(set) var buffers: [DumbBuffer] = []
  private(set) var image: CursorImage?
  private var position = CursorPosition(x: 0, y: 0)
  /// Whether the image has not been written into a buffer yet.
  private(set) var isNew = false
  /// The index in `buffers` of the buffer that the card was last told of.
  private(set) var current = 0
  /// Whether the card was told to show a cursor.
  private(set) var isOn = false
  /// Whether the cursor has changed since the card was last told of it.
  private(set) var isDirty = false
  /// Whether the card has refused no cursor so far.
  private(set) var isUsable = true

  /// Nil if the card has no memory for the buffers.
  init?(of card: KMSCard) {
    for _ in 0..<2 {
      guard let buffer = try? DumbBuffer(card.cursorSize, of: card.file) else { return nil }
      buffers.append(buffer)
    }
  }

  // MARK: The wanted state

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

  /// The output was switched off, or another DRM master may have changed it. The card must be told everything anew.
  func wentDark() {
    isOn = false
    isDirty = image != nil
  }

  /// The card refuses the cursor, and is told of no other one.
  func giveUp() { (isUsable, isDirty, image) = (false, false, nil) }

  // MARK: Telling the card

  /// The card has accepted the wanted state.
  func wasTold() {
    if isNew { current = 1 - current }
    (isOn, isNew, isDirty) = (image != nil, false, false)
  }

  /// The pixel of the image that points.
  var hotspot: (x: UInt32, y: UInt32) {
    let last = CursorImage.side - 1
    return (min(image?.hotX ?? 0, last), min(image?.hotY ?? 0, last))
  }

  /// The place of the image's upper left pixel, in the mode's pixels. Extreme numbers are clamped to places that are
  /// outside the screen and within the range of cards.
  /// - Parameter setting: the setting of the picture below. `position` counts that picture's pixels.
  func place(in setting: Setting) -> (x: Int32, y: Int32) {
    func clamped(_ place: Int32, _ offset: UInt32) -> Int32 {
      Int32(min(max(Int64(place) + Int64(offset), -Int64(CursorImage.side)), 1 << 14))
    }
    return (clamped(position.x, setting.x), clamped(position.y, setting.y))
  }

  /// Writes the image into the free buffer, unless a buffer has it already.
  /// - Returns: the index in `buffers` of the buffer that has the image.
  func writeIfNew() -> Int {
    guard isNew, let image else { return current }
    let (free, row) = (1 - current, Int(CursorImage.side) * 4)
    let buffer = buffers[free]
    for y in 0..<Int(CursorImage.side) {
      let bytes = unsafe image.pixels.span.bytes.extracting(y * row..<(y + 1) * row)
      buffer.mapping.store(bytes, at: y * Int(buffer.stride))
    }
    return free
  }

  /// Frees the buffers of a cursor that was given up.
  func freeBuffers() { buffers.removeAll() }
}
