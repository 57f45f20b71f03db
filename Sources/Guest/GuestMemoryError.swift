package import SystemPackage

/// What is wrong with a memory table, or with an address that the guest named.
package enum GuestMemoryError: Error, Equatable {
  case emptyRegion(GuestAddress)
  case regionOverflow(GuestAddress, length: UInt64)
  case regionPastFile(GuestAddress, end: UInt64, size: UInt64)
  case regionsOverlap(GuestAddress, GuestAddress)
  case tooManyRegions(limit: Int)
  case noSuchRegion(GuestAddress)
  case unmappable(GuestAddress, Errno)
  /// `item` counts from 0 in the list that was passed.
  case emptyRange(item: Int)
  case overflow(item: Int, GuestRange)
  /// No region has the address.
  case hole(item: Int, GuestAddress)

  /// The same error of a longer list, where `count` entries stand before those that were passed.
  package func behind(_ count: Int) -> GuestMemoryError {
    switch self {
    case .emptyRange(let item): .emptyRange(item: item + count)
    case .overflow(let item, let range): .overflow(item: item + count, range)
    case .hole(let item, let address): .hole(item: item + count, address)
    default: self
    }
  }
}

extension GuestMemoryError: CustomStringConvertible {
  package var description: String {
    switch self {
    case .emptyRegion(let address): "the memory region at \(address) is empty"
    case .regionOverflow(let address, let length):
      "the memory region at \(address) with \(length) bytes exceeds 64 bits"
    case .regionPastFile(let address, let end, let size):
      "the memory region at \(address) ends at offset \(end) of a file of \(size) bytes"
    case .regionsOverlap(let a, let b): "the memory regions at \(a) and \(b) overlap"
    case .tooManyRegions(let limit): "the memory table has more than \(limit) regions, which is the limit"
    case .noSuchRegion(let address): "there is no memory region at \(address) to remove"
    case .unmappable(let address, let errno): "the memory region at \(address) cannot be mapped: \(errno)"
    case .emptyRange(let item): "entry \(item) is empty"
    case .overflow(let item, let range): "entry \(item) (\(range)) exceeds the address space"
    case .hole(let item, let address): "entry \(item) reaches \(address), where the guest has no memory"
    }
  }
}
