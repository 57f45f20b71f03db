package import Guest

/// One request of the driver: what it wrote for the device, and where the device may write its answer.
///
/// Nothing is resolved yet: the ranges are what the guest states. `VirtQueue.next(into:)` fills the same
/// value again and again, so that the arrays keep their capacity; who needs them longer copies them.
package struct DescriptorChain {
  /// Names the chain in `VirtQueue.complete`.
  package internal(set) var head: UInt16 = 0
  /// What the device reads, in order. None is empty.
  package var readable: [GuestRange] = []
  /// What the device may write, in order. None is empty.
  package var writable: [GuestRange] = []

  package init() {}

  /// In bytes; at most 2^32 - 1 together with `writableLength`.
  package var readableLength: UInt64 { readable.totalLength }
  package var writableLength: UInt64 { writable.totalLength }
}

extension [GuestRange] {
  /// It saturates: a list that was not popped from a queue may name anything.
  var totalLength: UInt64 {
    var total: UInt64 = 0
    for range in self {
      let (sum, overflow) = total.addingReportingOverflow(range.length)
      if overflow { return .max }
      total = sum
    }
    return total
  }
}
