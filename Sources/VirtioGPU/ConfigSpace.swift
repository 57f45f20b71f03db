internal import Linux

/// The configuration space (virtio 1.3, 5.7.4: `struct virtio_gpu_config`): events_read, events_clear, num_scanouts,
/// num_capsets and blob_alignment, of four bytes each. Its events tell the guest that a screen was plugged in or out.
struct ConfigSpace {
  /// The offset of events_clear.
  private static let eventsClear: Range<UInt64> = 4..<8
  /// VIRTIO_GPU_EVENT_DISPLAY
  static let displayEvent: UInt32 = 1 << 0
  /// A blob's size must be a multiple of this number of bytes, because a dma-buf has whole pages.
  static let blobAlignment = UInt32(systemPageSize)

  /// The number of scanouts for the guest, if the front end does not set it.
  let scanoutCount: Int
  /// Events that the driver has not cleared yet (events_read).
  private(set) var eventsRead: UInt32 = 0

  init(scanoutCount: Int) { self.scanoutCount = scanoutCount }

  mutating func raise(_ event: UInt32) { eventsRead |= event }

  mutating func reset() { eventsRead = 0 }

  /// `size` bytes of it from `offset` on; zero beyond its end.
  func read(offset: UInt32, size: UInt32) -> [UInt8] {
    var fields = [UInt8](repeating: 0, count: 20)
    for byte in 0..<4 { fields[byte] = UInt8(truncatingIfNeeded: eventsRead >> (8 * byte)) }
    fields[8] = UInt8(scanoutCount)
    for byte in 0..<4 { fields[16 + byte] = UInt8(truncatingIfNeeded: Self.blobAlignment >> (8 * byte)) }
    return (0..<UInt64(size)).map { byte in
      let place = UInt64(offset) + byte
      return place < UInt64(fields.count) ? fields[Int(place)] : 0
    }
  }

  /// The driver may write only events_clear, whose set bits are cleared in events_read. The rest is ignored, because a front
  /// end may write the whole space on the driver's behalf.
  mutating func write(offset: UInt32, _ bytes: [UInt8]) {
    for (index, byte) in bytes.enumerated() {
      let place = UInt64(offset) + UInt64(index)
      guard Self.eventsClear.contains(place) else { continue }
      eventsRead &= ~(UInt32(byte) << (8 * UInt32(place - Self.eventsClear.lowerBound)))
    }
  }
}
