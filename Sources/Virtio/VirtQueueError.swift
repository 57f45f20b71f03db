package import Guest

/// One of the three parts of a split virtqueue.
package enum RingPart: String, Sendable {
  case descriptors = "descriptor table"
  case available = "available ring"
  case used = "used ring"
}

/// What is wrong with a virtqueue, with one chain in it, or with an access to the memory that a chain names.
package enum VirtQueueError: Error, Equatable {
  // The setup of the queue.
  case size(UInt16)
  case ringTooShort(RingPart, length: Int, needed: Int)
  case ringMisaligned(RingPart, alignment: Int)
  // The ring, whose content can no longer be trusted.
  case indexAhead(by: UInt16, size: UInt16)
  case headOutOfRange(UInt16, size: UInt16)
  // One chain.
  case nextOutOfRange(head: UInt16, next: UInt16, limit: Int)
  case chainTooLong(head: UInt16, limit: Int)
  case chainTooLarge(head: UInt16, bytes: UInt64)
  case readableAfterWritable(head: UInt16)
  case indirectNotNegotiated(head: UInt16)
  case indirectNested(head: UInt16)
  case indirectWithNext(head: UInt16)
  case indirectLength(head: UInt16, length: UInt32)
  case indirectTooLong(head: UInt16, entries: Int, limit: Int)
  case indirectUnreachable(head: UInt16, GuestMemoryError)
  // Access to a chain's memory.
  case memory(GuestMemoryError)
  case readPastEnd(count: Int, left: UInt64)
  case writePastEnd(count: Int, left: UInt64)

  /// Whether the ring itself is broken: the queue gives out nothing more until it is set up anew. Otherwise only one chain
  /// is bad; it was taken, and may be completed with length 0.
  package var breaksRing: Bool {
    switch self {
    case .size, .ringTooShort, .ringMisaligned, .indexAhead, .headOutOfRange: true
    default: false
    }
  }
}

extension VirtQueueError: CustomStringConvertible {
  package var description: String {
    switch self {
    case .size(let size): "the queue size \(size) is not a power of two from 1 to \(VirtQueue.maxSize)"
    case .ringTooShort(let part, let length, let needed):
      "the \(part.rawValue) has \(length) bytes of guest memory, but needs \(needed)"
    case .ringMisaligned(let part, let alignment):
      "the address of the \(part.rawValue) is not a multiple of \(alignment)"
    case .indexAhead(let count, let size):
      "the available index is \(count) chains ahead, in a queue of \(size)"
    case .headOutOfRange(let head, let size):
      "the available ring names descriptor \(head) in a queue of \(size)"
    case .nextOutOfRange(let head, let next, let limit):
      "the chain at descriptor \(head) continues at descriptor \(next), in a table of \(limit)"
    case .chainTooLong(let head, let limit):
      "the chain at descriptor \(head) has more than \(limit) descriptors, or a loop"
    case .chainTooLarge(let head, let bytes):
      "the chain at descriptor \(head) has at least \(bytes) bytes, the limit is \(UInt32.max)"
    case .readableAfterWritable(let head):
      "the chain at descriptor \(head) has a device-readable descriptor behind a device-writable one"
    case .indirectNotNegotiated(let head):
      "the chain at descriptor \(head) has an indirect table, but VIRTIO_F_INDIRECT_DESC was not negotiated"
    case .indirectNested(let head):
      "the chain at descriptor \(head) has an indirect descriptor in an indirect table"
    case .indirectWithNext(let head):
      "the chain at descriptor \(head) has a descriptor that is both INDIRECT and NEXT"
    case .indirectLength(let head, let length):
      "the chain at descriptor \(head) has an indirect table of \(length) bytes, which is not a positive multiple of 16"
    case .indirectTooLong(let head, let entries, let limit):
      "the chain at descriptor \(head) has an indirect table of \(entries) descriptors, the limit is \(limit)"
    case .indirectUnreachable(let head, let error):
      "the indirect table of the chain at descriptor \(head) cannot be read: \(error)"
    case .memory(let error): "the memory of a chain cannot be reached: \(error)"
    case .readPastEnd(let count, let left):
      "\(count) bytes were to be read from a chain that has only \(left) left"
    case .writePastEnd(let count, let left):
      "\(count) bytes were to be written to a chain that has room for only \(left)"
    }
  }
}
