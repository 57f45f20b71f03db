public import SystemPackage

/// Why no udmabuf was made. The kernel answers most of these with `EINVAL`, so they are told apart before the call.
/// `item` counts from 0 in the list that was passed.
public enum UdmabufError: Error, Equatable {
  /// The list is empty.
  case emptyList
  /// An item of no bytes.
  case emptyItem(item: Int)
  /// An item that does not begin at a page.
  case offsetMisaligned(item: Int, offset: UInt64)
  /// An item that is not of whole pages.
  case lengthMisaligned(item: Int, length: UInt64)
  /// More items than the module parameter `list_limit`.
  case tooManyItems(count: Int, limit: UInt64)
  /// More bytes than the module parameter `size_limit_mb`; both in bytes.
  case tooManyBytes(bytes: UInt64, limit: UInt64)
  /// The item's file is not a memfd (it has no seals).
  case notMemfd(item: Int)
  /// `F_SEAL_SHRINK` is missing.
  case sealMissing(item: Int, seals: Seals)
  /// `F_SEAL_WRITE` or `F_SEAL_FUTURE_WRITE` is set.
  case sealForbidden(item: Int, seals: Seals)
  /// An item that ends past the end of its file.
  case pastEnd(item: Int, end: UInt64, size: UInt64)
  /// Offset and length of an item, or all lengths, exceed 64 bits.
  case overflow(item: Int)
  /// The kernel refused a correct list: `ENOMEM`, `EMFILE`, or a missing huge page.
  case kernel(Errno)
}

extension UdmabufError: CustomStringConvertible {
  /// The item, its value, the limit, and what to do.
  public var description: String {
    let parameters = UdmabufLimits.directory
    return switch self {
    case .emptyList:
      "the list of ranges is empty; a dma-buf needs at least one page"
    case .emptyItem(let item):
      "item \(item) has length 0; a range is at least one page of \(systemPageSize) bytes"
    case .offsetMisaligned(let item, let offset):
      "item \(item) starts at \(hex(offset)), which is no multiple of the page size \(systemPageSize)"
    case .lengthMisaligned(let item, let length):
      "item \(item) is \(length) bytes long, which is no multiple of the page size \(systemPageSize)"
    case .tooManyItems(let count, let limit):
      "\(count) items are more than the kernel's list_limit \(limit); as root: "
        + "echo \(count.roundedUpToPowerOfTwo) > \(parameters)/list_limit"
    case .tooManyBytes(let bytes, let limit):
      "\(bytes) bytes are more than the kernel's size_limit_mb \(limit >> 20); as root: "
        + "echo \((bytes >> 20) + 1) > \(parameters)/size_limit_mb"
    case .notMemfd(let item):
      "item \(item) is not a range of a memfd; back the memory with a memfd "
        + "(QEMU: -object memory-backend-memfd,share=on)"
    case .sealMissing(let item, let seals):
      "item \(item) is of a memfd without F_SEAL_SHRINK (its seals: \(seals)); "
        + "seal it before use (QEMU: memory-backend-memfd with seal=on, the default)"
    case .sealForbidden(let item, let seals):
      "item \(item) is of a memfd with the seals \(seals); udmabuf refuses F_SEAL_WRITE and "
        + "F_SEAL_FUTURE_WRITE"
    case .pastEnd(let item, let end, let size):
      "item \(item) ends at \(hex(end)), past the end \(hex(size)) of its memfd"
    case .overflow(let item):
      "item \(item): offset and length, or the sum of all lengths, exceed 64 bits"
    case .kernel(let errno):
      "the kernel refused the udmabuf: \(errno)"
    }
  }
}

extension Int {
  fileprivate var roundedUpToPowerOfTwo: Int {
    self <= 1 ? 1 : 1 << (Int.bitWidth - (self - 1).leadingZeroBitCount)
  }
}
