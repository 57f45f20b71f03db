internal import Linux
internal import Scanout
internal import SystemPackage

/// The cursor of one output: what it is to be, and what the card was last told of it. `AtomicCursor` and
/// `LegacyCursor` tell the card.
///
/// An image is written into that one of two buffers which is not on the screen. It is written when a commit is
/// made, and an output makes a commit only when the one before is done.
final class KMSCursor {
  /// Of the size that the card wants, for pixels of ARGB8888.
  private(set) var buffers: [DumbBuffer] = []
  private(set) var image: CursorImage?
  private var position = CursorPosition(x: 0, y: 0)
  /// The image has not been written into a buffer yet.
  private(set) var isNew = false
  /// The place in `buffers` of the one that the card was last told of.
  private(set) var current = 0
  /// The card was told to show a cursor.
  private(set) var isOn = false
  /// The cursor has changed since the card was last told of it.
  private(set) var isDirty = false
  /// The card has accepted everything that it was told so far.
  private(set) var isUsable = true

  /// Nil if the card has no memory for it.
  init?(of card: KMSCard) {
    for _ in 0..<2 {
      guard let buffer = try? DumbBuffer(card.cursorSize, of: card.file) else { return nil }
      buffers.append(buffer)
    }
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

  /// The output was switched off, or somebody else may have changed it: the card must be told everything anew.
  func wentDark() {
    isOn = false
    isDirty = image != nil
  }

  /// The card refuses the cursor: it is told of none any more.
  func giveUp() { (isUsable, isDirty, image) = (false, false, nil) }

  // MARK: What the card is told

  /// The card has accepted the cursor as it is to be.
  func wasTold() {
    if isNew { current = 1 - current }
    (isOn, isNew, isDirty) = (image != nil, false, false)
  }

  /// The pixel of the image that points.
  var hotspot: (x: UInt32, y: UInt32) {
    let last = CursorImage.side - 1
    return (min(image?.hotX ?? 0, last), min(image?.hotY ?? 0, last))
  }

  /// Where the image's upper left pixel is, in the mode's pixels. Wild numbers stay outside the screen, and within
  /// what cards calculate with.
  /// - Parameter setting: of the picture below, whose pixels `position` counts.
  func place(in setting: Setting) -> (x: Int32, y: Int32) {
    func clamped(_ place: Int32, _ offset: UInt32) -> Int32 {
      Int32(min(max(Int64(place) + Int64(offset), -Int64(CursorImage.side)), 1 << 14))
    }
    return (clamped(position.x, setting.x), clamped(position.y, setting.y))
  }

  /// Writes the image into the free buffer, if it is in none yet.
  /// - Returns: the place in `buffers` of the one that has the image.
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
