/// A flip that the card completed (`struct drm_event_vblank` of type `DRM_EVENT_FLIP_COMPLETE`).
struct FlipEvent: Equatable {
  /// The tag of the commit or page flip (`user_data`).
  let tag: UInt64
  /// The number of the CRTC's vertical blank (`sequence`).
  let vblank: UInt32

  private static let flipComplete: UInt32 = 2
  private static let headerSize = 8
  private static let size = 32

  /// Parses the bytes of one `read` of a card's descriptor, and skips events of other kinds.
  ///
  /// - Returns: false if an event is shorter than its header or longer than the bytes that were read. The kernel
  ///   sends no such event. The events before it have been handled.
  static func parse(_ bytes: RawSpan, _ handle: (FlipEvent) -> Void) -> Bool {
    var rest = bytes
    while rest.byteCount > 0 {
      guard rest.byteCount >= headerSize else { return false }
      let (type, length) = (rest.number(at: 0), Int(rest.number(at: 4)))
      guard length >= headerSize, length <= rest.byteCount else { return false }
      if type == flipComplete {
        guard length >= size else { return false }
        let tag = UInt64(rest.number(at: 8)) | UInt64(rest.number(at: 12)) << 32
        handle(FlipEvent(tag: littleEndianOrder(tag), vblank: rest.number(at: 24)))
      }
      rest = rest.extracting(droppingFirst: length)
    }
    return true
  }

  /// `user_data` is one number of 64 bits in the machine's order, read here as two of 32.
  private static func littleEndianOrder(_ tag: UInt64) -> UInt64 {
    #if _endian(big)
      tag << 32 | tag >> 32
    #else
      tag
    #endif
  }
}

extension RawSpan {
  fileprivate func number(at offset: Int) -> UInt32 {
    precondition(offset + 4 <= byteCount, "outside the event")
    return unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: UInt32.self)
  }
}
