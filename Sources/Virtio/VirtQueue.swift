package import Guest
internal import Linux

/// The device's side of a split virtqueue (virtio 1.3, 2.7).
///
/// The driver may change the rings and the memory at any time, so every field is read once, and the value is checked.
/// Nothing that the driver writes makes a call loop without bound, or touch memory outside the table. Once its buffers
/// have grown, a queue allocates nothing per chain.
package final class VirtQueue {
  /// virtio 1.3, 2.7: the largest queue.
  package static let maxSize: UInt16 = 32768

  /// The number of descriptors, a power of two.
  package let size: UInt16
  /// The memory of chains and indirect tables. It may be replaced while the queue runs; see `move`.
  package var memory: GuestMemory
  /// The next available index, which `GET_VRING_BASE` reports.
  package private(set) var position: UInt16
  /// Whether the driver wrote impossible values into the ring; `next` then gives out nothing more.
  package private(set) var isBroken = false

  private var rings: RingWindows
  private let eventIndex, indirect: Bool
  /// The used index; the ring holds a copy of it.
  private var usedIndex: UInt16
  /// The used index at the last `shouldNotify`.
  private var notifiedIndex: UInt16
  private var kicksSuspended = false
  /// The indirect table of the current chain; reused for its capacity.
  private var table: [UInt8] = []

  /// - Parameters:
  ///   - eventIndex: whether `VIRTIO_F_EVENT_IDX` was negotiated.
  ///   - indirect: whether `VIRTIO_F_INDIRECT_DESC` was negotiated.
  ///   - start: the next available index. The used index starts equal to it, so every chain before it must have been
  ///     completed.
  /// - Throws: `size`, `ringTooShort` or `ringMisaligned`.
  package init(
    size: UInt16, rings: RingWindows, memory: GuestMemory, eventIndex: Bool, indirect: Bool = true,
    start: UInt16
  ) throws(VirtQueueError) {
    guard size.nonzeroBitCount == 1, size <= Self.maxSize else { throw .size(size) }
    try rings.check(size: size, eventIndex: eventIndex)
    self.size = size
    self.rings = rings
    self.memory = memory
    (self.eventIndex, self.indirect) = (eventIndex, indirect)
    position = start
    usedIndex = start
    notifiedIndex = start
    // A value that an earlier run left in the ring may keep the driver from kicking.
    _ = resumeKicks()
  }

  /// Moves to the same rings at another place of the host's memory, after the memory table changed.
  /// - Throws: `ringTooShort` or `ringMisaligned`; the queue is then unchanged.
  package func move(to rings: RingWindows, memory: GuestMemory) throws(VirtQueueError) {
    try rings.check(size: size, eventIndex: eventIndex)
    self.rings = rings
    self.memory = memory
  }

  /// The bytes that a part of a queue of `size` takes (virtio 1.3, 2.7). The two rings end with event fields only if the
  /// event index was negotiated.
  package static func bytes(of part: RingPart, size: UInt16, eventIndex: Bool) -> Int {
    let tail = eventIndex ? 2 : 0
    return switch part {
    case .descriptors: 16 * Int(size)
    case .available: 4 + 2 * Int(size) + tail
    case .used: 4 + 8 * Int(size) + tail
    }
  }

  // MARK: Taking chains

  /// Takes the next chain that the driver made available.
  ///
  /// If there is none and kicks are not suspended, this asks the driver to kick for the next one before it returns.
  /// - Returns: false when nothing is available, or the ring is broken.
  /// - Throws: once, an error that `breaksRing`, after which this returns false. Or an error of one chain, which counts as
  ///   taken: `chain.head` names it, and it may be completed.
  package func next(into chain: inout DescriptorChain) throws(VirtQueueError) -> Bool {
    chain.readable.removeAll(keepingCapacity: true)
    chain.writable.removeAll(keepingCapacity: true)
    if isBroken { return false }
    if availableIndex == position {
      if kicksSuspended || !eventIndex || !resumeKicks() { return false }
    }
    do throws(VirtQueueError) {
      chain.head = try takeHead()
    } catch {
      isBroken = true
      throw error
    }
    try walk(&chain)
    return true
  }

  /// virtio 1.3, 2.7.13: the acquire pairs with the driver's release of the index.
  private var availableIndex: UInt16 { rings.available.mapping.loadAcquire(at: rings.available.start + 2) }

  private func takeHead() throws(VirtQueueError) -> UInt16 {
    let ahead = availableIndex &- position
    if ahead > size { throw .indexAhead(by: ahead, size: size) }
    let slot = Int(position & (size - 1))
    let head = rings.available.mapping.load(UInt16.self, at: rings.available.start + 4 + 2 * slot)
    if head >= size { throw .headOutOfRange(head, size: size) }
    position &+= 1
    return head
  }

  /// Follows the chain from its head: direct descriptors, of which the last may be a table of indirect ones
  /// (virtio 1.3, 2.7.5.3). Each of the two parts is bounded by the length of its table.
  private func walk(_ chain: inout DescriptorChain) throws(VirtQueueError) {
    let head = chain.head
    var total: UInt64 = 0
    var index = head
    for _ in 0..<size {
      let descriptor = Descriptor(rings.descriptors.mapping, at: rings.descriptors.start + 16 * Int(index))
      if descriptor.flags.contains(.indirect) {
        if !indirect { throw .indirectNotNegotiated(head: head) }
        // 2.7.5.3.2: the device ignores WRITE on a descriptor that refers to a table.
        if descriptor.flags.contains(.next) { throw .indirectWithNext(head: head) }
        return try walkIndirect(descriptor, &chain, &total)
      }
      try chain.add(descriptor, &total)
      guard descriptor.flags.contains(.next) else { return }
      index = descriptor.next
      if index >= size { throw .nextOutOfRange(head: head, next: index, limit: Int(size)) }
    }
    throw .chainTooLong(head: head, limit: Int(size))
  }

  private func walkIndirect(
    _ outer: Descriptor, _ chain: inout DescriptorChain, _ total: inout UInt64
  ) throws(VirtQueueError) {
    let head = chain.head
    if outer.length == 0 || outer.length % 16 != 0 { throw .indirectLength(head: head, length: outer.length) }
    let count = Int(outer.length / 16)
    if count > Int(Self.maxSize) {
      throw .indirectTooLong(head: head, entries: count, limit: Int(Self.maxSize))
    }
    table.removeAll(keepingCapacity: true)
    do throws(GuestMemoryError) {
      try memory.append(GuestRange(address: outer.address, length: UInt64(outer.length)), to: &table)
    } catch {
      throw .indirectUnreachable(head: head, error)
    }
    var index = 0
    for _ in 0..<count {
      let descriptor = unsafe Descriptor(table.span.bytes, at: 16 * index)
      if descriptor.flags.contains(.indirect) { throw .indirectNested(head: head) }
      try chain.add(descriptor, &total)
      guard descriptor.flags.contains(.next) else { return }
      index = Int(descriptor.next)
      if index >= count { throw .nextOutOfRange(head: head, next: descriptor.next, limit: count) }
    }
    throw .chainTooLong(head: head, limit: count)
  }

  // MARK: Giving chains back

  /// Gives the chain at `head` back to the driver, in any order. Call `shouldNotify` after one or several.
  /// - Parameter written: the number of bytes written to the chain's writable part, from its start.
  package func complete(head: UInt16, written: UInt32) {
    let slot = Int(usedIndex & (size - 1))
    // struct virtq_used_elem: le32 id, le32 len (virtio 1.3, 2.7.8).
    rings.used.mapping.store(UInt64(head) | UInt64(written) << 32, at: rings.used.start + 4 + 8 * slot)
    usedIndex &+= 1
    rings.used.mapping.storeRelease(usedIndex, at: rings.used.start + 2)
  }

  /// Whether the driver wants a call for the chains completed since the last call of this function (virtio 1.3, 2.7.7.2).
  package func shouldNotify() -> Bool {
    if usedIndex == notifiedIndex { return false }
    // The used index must be visible before the driver's wish is read; the driver writes its wish before it reads the index.
    fullMemoryFence()
    let old = notifiedIndex
    notifiedIndex = usedIndex
    guard eventIndex else {
      return rings.available.mapping.loadAcquire(at: rings.available.start) & Self.noInterrupt == 0
    }
    let event = rings.available.mapping.loadAcquire(at: rings.available.start + 4 + 2 * Int(size))
    // The event lies within old..<usedIndex, modulo 2^16.
    return usedIndex &- event &- 1 < usedIndex &- old
  }

  /// Whether the last slot of the used ring was used since the driver zeroed it. A ring at index 0 has then wrapped, and
  /// was not set up anew.
  package var lastUsedSlotFilled: Bool {
    rings.used.mapping.load(UInt64.self, at: rings.used.start + 4 + 8 * (Int(size) - 1)) != 0
  }

  // MARK: Kicks

  private static let noInterrupt: UInt16 = 1  // VIRTQ_AVAIL_F_NO_INTERRUPT
  private static let noNotify: UInt16 = 1  // VIRTQ_USED_F_NO_NOTIFY

  /// Asks the driver not to kick until `resumeKicks`; it may still kick. With the event index nothing needs to be written,
  /// because the last event that was asked for stays in the past.
  package func suspendKicks() {
    kicksSuspended = true
    if !eventIndex { rings.used.mapping.storeRelease(Self.noNotify, at: rings.used.start) }
  }

  /// Asks the driver to kick for the next chain (virtio 1.3, 2.7.10).
  /// - Returns: true if chains arrived before the driver could see that. The driver will not kick for these.
  package func resumeKicks() -> Bool {
    kicksSuspended = false
    if eventIndex {
      rings.used.mapping.storeRelease(position, at: rings.used.start + 4 + 8 * Int(size))
    } else {
      rings.used.mapping.storeRelease(0, at: rings.used.start)
    }
    // The wish must be visible before the index is read; the driver writes the index before it reads the wish.
    fullMemoryFence()
    return !isBroken && availableIndex != position
  }
}
