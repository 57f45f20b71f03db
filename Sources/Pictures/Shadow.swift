package import Buffers
package import Linux
package import Scanout

/// A copy of a part of a resource, for one scanout.
package final class Shadow {
  package let frame: Frame
  package let cause: ShadowCause
  /// The place of the copied part in its canvas.
  package let area: Rectangle
  /// Its memory in bytes.
  package var size: UInt64 { UInt64(target.length) }
  /// Its pixels.
  package var memory: Mapping { target }
  /// Whether nothing was copied yet, or changes were missed while another resource was shown.
  package var isStale = true
  /// When the users of a dropped copy are cut off; nil before it is dropped.
  package var deadline: Instant?
  /// The part that the guest transferred since the last copy.
  package var transferred = Rectangle(x: 0, y: 0, width: 0, height: 0)

  /// The part of the image that is copied.
  let visible: Rectangle
  /// The image's stride, and the offset of its first pixel, in bytes.
  private let stride, start: Int
  private let shuffle: PixelShuffle?
  let target: Mapping
  private var drawn: PlacedCursor?

  /// - Parameter view: the scanout's view. If the canvas is smaller, the view is cut off at the lower right.
  package init(_ canvas: Canvas, of view: View, frameID: UInt64, cause: ShadowCause) {
    frame = Frame(id: frameID, memory: .shadow(canvas.memory), layout: canvas.layout)
    (self.cause, area, target) = (cause, canvas.area, canvas.memory.mapping)
    visible = Rectangle(
      x: view.source.x, y: view.source.y, width: canvas.area.width, height: canvas.area.height)
    (stride, start) = (Int(view.layout.stride), Int(view.layout.offset))
    guard let shuffle = view.layout.format.shuffle(to: canvas.layout.format) else {
      preconditionFailure("a canvas has 32 bits for each pixel")
    }
    self.shuffle = shuffle.isIdentity ? nil : shuffle
  }

  /// Copies the changes, and draws the cursor over them.
  ///
  /// - Parameters:
  ///   - damage: in the image's pixels.
  ///   - bytes: the image; nil, without any change, if the guest has taken it back.
  /// - Returns: the changed part, in the canvas's pixels, and the number of bytes copied.
  package func update(
    _ damage: Rectangle, from bytes: ByteSource?, cursor: PlacedCursor?
  ) -> (changed: Rectangle, copied: UInt64) {
    guard let bytes else { return (Rectangle(x: 0, y: 0, width: 0, height: 0), 0) }
    var update = begin(damage)
    proceed(&update, from: bytes, until: .never)
    let changed = finish(&update, from: bytes, cursor: cursor)
    return (changed, update.copied)
  }

  /// The rest of an update that has begun.
  package struct Update {
    /// The changed part, in the image's pixels.
    fileprivate var changed: Rectangle
    /// The pixels whose rows are still to be copied, from the top on; those of `next` follow.
    fileprivate var left: Rectangle
    fileprivate var next: Rectangle
    /// In bytes, so far.
    package fileprivate(set) var copied: UInt64 = 0

    /// The next rows, as many as a band has.
    fileprivate mutating func takeBand() -> Rectangle {
      if left.isEmpty { swap(&left, &next) }
      let rows = CopyBand.rows(of: Int(left.width) * 4, atMost: Int(left.height))
      var band = left
      band.height = UInt32(rows)
      left.y += band.height
      left.height -= band.height
      return band
    }

    fileprivate var isCopied: Bool { left.isEmpty && next.isEmpty }
  }

  /// Begins the work of `update`. If it is not finished, the copy is stale, and `isStale` must be set.
  package func begin(_ damage: Rectangle) -> Update {
    let changed = (isStale ? visible : damage).intersection(visible)
    var rest = transferred.intersection(visible)
    if rest.intersection(changed) == rest { rest.height = 0 }
    isStale = false
    transferred = Rectangle(x: 0, y: 0, width: 0, height: 0)
    return Update(changed: changed.union(rest), left: changed, next: rest)
  }

  /// Copies at least one band, and goes on until `end`.
  /// - Returns: true if only `finish` is left.
  @discardableResult
  package func proceed(_ update: inout Update, from bytes: ByteSource, until end: Instant) -> Bool {
    var sinceLook = 0
    while !update.isCopied {
      let band = update.takeBand()
      update.copied += copy(band, bytes)
      sinceLook += Int(band.width) * Int(band.height) * 4
      guard sinceLook >= CopyBand.bytes else { continue }
      sinceLook = 0
      if !update.isCopied, Instant.now >= end { return false }
    }
    return true
  }

  /// Draws the cursor, after everything is copied.
  /// - Returns: the changed part, in the canvas's pixels.
  package func finish(_ update: inout Update, from bytes: ByteSource, cursor: PlacedCursor?) -> Rectangle {
    let (old, new) = (drawn.map(place), cursor.map(place))
    if cursor != drawn || !(old?.intersection(update.changed).isEmpty ?? true) {
      for area in [old, new].compactMap(\.self) where !area.isEmpty {
        update.copied += copy(area, bytes)
        update.changed = update.changed.union(area)
      }
      if let cursor, let new { blend(cursor, new) }
      drawn = cursor
    }
    return onCanvas(update.changed)
  }

  private func onCanvas(_ part: Rectangle) -> Rectangle {
    if part.isEmpty { return part }
    return Rectangle(
      x: part.x - visible.x + area.x, y: part.y - visible.y + area.y, width: part.width, height: part.height)
  }

  private func copy(_ part: Rectangle, _ bytes: ByteSource) -> UInt64 {
    if part.isEmpty { return 0 }
    let (place, rowBytes) = (onCanvas(part), Int(part.width) * 4)
    return bytes.copyRows(
      Int(part.height), of: rowBytes, from: start + Int(part.y) * stride + Int(part.x) * 4, stride: stride,
      to: target, at: offset(place.x, place.y), targetStride: Int(frame.layout.stride), shuffle)
  }

  func offset(_ x: UInt32, _ y: UInt32) -> Int {
    Int(frame.layout.offset) + Int(y) * Int(frame.layout.stride) + Int(x) * 4
  }
}
