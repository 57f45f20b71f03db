package import Guest
internal import Linux
package import Virtio

/// The driver's side of a split virtqueue in the RAM of a pretended guest: it writes descriptor tables and
/// rings as a guest's driver does.
///
/// For an ordinary request use `send` and `receive`. For an unusual one use `add`, and for a broken one
/// `setDescriptor`, `makeAvailable` and `setAvailableIndex`.
package final class DriverQueue {
  /// Descriptor flags (virtio 1.3, 2.7.5).
  package static let next: UInt16 = 1
  package static let write: UInt16 = 2
  package static let indirect: UInt16 = 4

  package let ram: GuestRAM
  package let size: UInt16
  package let eventIndex: Bool
  /// Guest addresses.
  package let descriptors: UInt64
  package let available: UInt64
  package let used: UInt64

  /// Free-running, as in the rings.
  package private(set) var availableIndex: UInt16
  package private(set) var seenUsed: UInt16
  private var kickedAt: UInt16
  private var free: [UInt16]
  private var inFlight: [UInt16: Sent] = [:]

  /// How many descriptors a direct chain may still take; an indirect one takes one.
  package var freeDescriptors: Int { free.count }

  /// What one chain took.
  private struct Sent {
    var descriptors: [UInt16] = []
    var table: (address: UInt64, length: Int)?
    var buffers: [GuestRange] = []
    var writable: [GuestRange] = []
  }

  /// Sets up empty rings. A `start` other than 0 gives rings that have run before.
  package init(_ ram: GuestRAM, size: UInt16 = 64, eventIndex: Bool = true, start: UInt16 = 0) {
    self.ram = ram
    self.size = size
    self.eventIndex = eventIndex
    descriptors = ram.allocate(16 * Int(size))
    available = ram.allocate(6 + 2 * Int(size))
    used = ram.allocate(6 + 8 * Int(size))
    availableIndex = start
    seenUsed = start
    kickedAt = start
    free = Array((0..<size).reversed())
    ram.write(start, at: available + 2)
    ram.write(start, at: used + 2)
    usedEvent = start
  }

  // MARK: The device's view

  package var rings: RingWindows {
    RingWindows(
      descriptors: window(descriptors, 16 * Int(size)), available: window(available, 6 + 2 * Int(size)),
      used: window(used, 6 + 8 * Int(size)))
  }

  private func window(_ address: UInt64, _ length: Int) -> GuestWindow {
    try! ram.memory.window(userAddress: GuestRAM.userBase + address, length: length)
  }

  // MARK: Requests

  /// Copies `request` into guest memory and makes a chain of it, with room for an answer.
  /// - Parameters:
  ///   - pieces: over how many descriptors the request is spread.
  ///   - capacity: the room for the answer, in bytes, over `answerPieces` descriptors.
  ///   - indirect: whether the chain is an indirect table, as the stock drivers make it.
  /// - Returns: the head, under which the answer comes.
  @discardableResult
  package func send(
    _ request: [UInt8], pieces: Int = 1, answer capacity: Int, answerPieces: Int = 1, indirect: Bool = true
  ) -> UInt16 {
    let readable = cut(request.count, pieces).map { length in
      GuestRange(address: GuestAddress(ram.allocate(length)), length: UInt64(length))
    }
    var offset = 0
    for range in readable {
      ram.write(Array(request[offset..<offset + Int(range.length)]), at: range.address.rawValue)
      offset += Int(range.length)
    }
    let writable = cut(capacity, answerPieces).map { length in
      GuestRange(address: GuestAddress(ram.allocate(length)), length: UInt64(length))
    }
    let head = add(readable: readable, writable: writable, indirect: indirect)
    inFlight[head]!.buffers = readable + writable
    return head
  }

  /// The next answer that the device gave, or nil; the driver then waits to be called for the next one.
  /// `bytes` has as many as the device says it wrote, at most what there is room for.
  package func receive() -> (head: UInt16, written: UInt32, bytes: [UInt8])? {
    guard let (head, written) = nextUsed() else {
      usedEvent = seenUsed
      return nil
    }
    guard let sent = inFlight[head] else { preconditionFailure("the device completed chain \(head) unasked") }
    var bytes: [UInt8] = []
    for range in sent.writable where bytes.count < Int(written) {
      let count = min(Int(range.length), Int(written) - bytes.count)
      bytes += ram.read(count, at: range.address.rawValue)
    }
    reclaim(head)
    return (head, written, bytes)
  }

  private func cut(_ length: Int, _ pieces: Int) -> [Int] {
    (0..<pieces).map { length * ($0 + 1) / pieces - length * $0 / pieces }.filter { $0 > 0 }
  }

  // MARK: Chains

  /// Makes a chain of buffers that are somewhere in guest memory already, and publishes it.
  @discardableResult
  package func add(readable: [GuestRange], writable: [GuestRange], indirect: Bool = false) -> UInt16 {
    var sent = Sent(writable: writable)
    let ranges = readable + writable
    func flags(_ index: Int) -> UInt16 {
      (index >= readable.count ? Self.write : 0) | (index + 1 < ranges.count ? Self.next : 0)
    }
    if indirect {
      let table = ram.allocate(16 * ranges.count)
      for (index, range) in ranges.enumerated() {
        Self.writeDescriptor(
          ram, at: table + 16 * UInt64(index), address: range.address.rawValue, length: UInt32(range.length),
          flags: flags(index), next: UInt16(truncatingIfNeeded: index + 1))
      }
      let head = takeDescriptor()
      sent.descriptors = [head]
      sent.table = (table, 16 * ranges.count)
      setDescriptor(head, address: table, length: UInt32(16 * ranges.count), flags: Self.indirect)
    } else {
      sent.descriptors = ranges.map { _ in takeDescriptor() }
      for (index, range) in ranges.enumerated() {
        setDescriptor(
          sent.descriptors[index], address: range.address.rawValue, length: UInt32(range.length),
          flags: flags(index), next: index + 1 < ranges.count ? sent.descriptors[index + 1] : 0)
      }
    }
    let head = sent.descriptors[0]
    inFlight[head] = sent
    makeAvailable(head)
    return head
  }

  private func takeDescriptor() -> UInt16 {
    guard let index = free.popLast() else { preconditionFailure("the queue is full") }
    return index
  }

  /// The next entry of the used ring, or nil. Its descriptors stay taken until `reclaim`.
  package func nextUsed() -> (head: UInt16, written: UInt32)? {
    let (mapping, offset) = ram.place(used + 2, 2)
    if mapping.loadAcquire(at: offset) == seenUsed { return nil }
    let entry = used + 4 + 8 * UInt64(seenUsed & (size - 1))
    seenUsed &+= 1
    return (UInt16(ram.number(UInt32.self, at: entry)), ram.number(UInt32.self, at: entry + 4))
  }

  /// Frees what the chain at `head` took.
  package func reclaim(_ head: UInt16) {
    guard let sent = inFlight.removeValue(forKey: head) else { return }
    free += sent.descriptors.reversed()
    if let (address, length) = sent.table { ram.free(address, length) }
    for buffer in sent.buffers { ram.free(buffer.address.rawValue, Int(buffer.length)) }
  }

  // MARK: Raw access, for what no driver does

  package func setDescriptor(
    _ index: UInt16, address: UInt64, length: UInt32, flags: UInt16, next: UInt16 = 0
  ) {
    Self.writeDescriptor(
      ram, at: descriptors + 16 * UInt64(index), address: address, length: length, flags: flags, next: next)
  }

  /// One entry of a descriptor table or of an indirect table anywhere in guest memory.
  package static func writeDescriptor(
    _ ram: GuestRAM, at place: UInt64, address: UInt64, length: UInt32, flags: UInt16, next: UInt16
  ) {
    ram.write(address, at: place)
    ram.write(length, at: place + 8)
    ram.write(flags, at: place + 12)
    ram.write(next, at: place + 14)
  }

  /// Puts a head into the available ring, whatever it is, and publishes it.
  package func makeAvailable(_ head: UInt16) {
    ram.write(head, at: available + 4 + 2 * UInt64(availableIndex & (size - 1)))
    setAvailableIndex(availableIndex &+ 1)
  }

  package func setAvailableIndex(_ index: UInt16) {
    availableIndex = index
    let (mapping, offset) = ram.place(available + 2, 2)
    mapping.storeRelease(index, at: offset)
  }

  // MARK: Notification

  /// Whether the device wants a kick for what was added since the last call of this (virtio 1.3, 2.7.13.4.1).
  package func wantsKick() -> Bool {
    fullMemoryFence()
    let old = kickedAt
    kickedAt = availableIndex
    if old == availableIndex { return false }
    if !eventIndex { return ram.number(UInt16.self, at: used) & 1 == 0 }
    let event = ram.number(UInt16.self, at: used + 4 + 8 * UInt64(size))
    return availableIndex &- event &- 1 < availableIndex &- old
  }

  /// With the event index: the driver is to be called when this used index is passed.
  package var usedEvent: UInt16 {
    get { ram.number(at: available + 4 + 2 * UInt64(size)) }
    set { ram.write(newValue, at: available + 4 + 2 * UInt64(size)) }
  }

  /// Without the event index: the driver does not want to be called (`VIRTQ_AVAIL_F_NO_INTERRUPT`).
  package var suppressesCalls: Bool {
    get { ram.number(UInt16.self, at: available) & 1 != 0 }
    set { ram.write(UInt16(newValue ? 1 : 0), at: available) }
  }
}
