internal import Guest
internal import Linux

/// A copy of one descriptor (virtio 1.3, 2.7.5). The C original is `struct vring_desc`.
struct Descriptor {
  struct Flags: OptionSet {
    let rawValue: UInt16
    static let next = Flags(rawValue: 1)
    static let write = Flags(rawValue: 2)
    static let indirect = Flags(rawValue: 4)
  }

  let address: GuestAddress
  let length: UInt32
  let flags: Flags
  let next: UInt16

  /// Reads each field once.
  init(_ mapping: Mapping, at offset: Int) {
    self.init(
      address: mapping.load(UInt64.self, at: offset), rest: mapping.load(UInt64.self, at: offset + 8))
  }

  init(_ bytes: RawSpan, at offset: Int) {
    self.init(
      address: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: offset, as: UInt64.self),
      rest: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: offset + 8, as: UInt64.self))
  }

  private init(address: UInt64, rest: UInt64) {
    self.address = GuestAddress(address)
    length = UInt32(truncatingIfNeeded: rest)
    flags = Flags(rawValue: UInt16(truncatingIfNeeded: rest >> 32))
    next = UInt16(truncatingIfNeeded: rest >> 48)
  }
}

extension DescriptorChain {
  /// Adds what a descriptor names, after checking the order (virtio 1.3, 2.7.4.2) and the sum.
  mutating func add(_ descriptor: Descriptor, _ total: inout UInt64) throws(VirtQueueError) {
    let isWritable = descriptor.flags.contains(.write)
    if !isWritable && !writable.isEmpty { throw .readableAfterWritable(head: head) }
    total += UInt64(descriptor.length)
    if total > UInt64(UInt32.max) { throw .chainTooLarge(head: head, bytes: total) }
    if descriptor.length == 0 { return }
    let range = GuestRange(address: descriptor.address, length: UInt64(descriptor.length))
    if isWritable { writable.append(range) } else { readable.append(range) }
  }
}
