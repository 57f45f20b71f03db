import Guest
import Linux
import Programs

/// A range of a file or of a guest's memory as it was written, not checked yet.
struct ByteRange: Hashable, CustomStringConvertible {
  let start, length: UInt64

  /// The same as a range of a guest's memory.
  var ofGuest: GuestRange { GuestRange(address: GuestAddress(start), length: length) }

  var description: String { "\(hex(start)):\(hex(length))" }
}

extension [ByteRange] {
  /// The sum of their lengths, in bytes.
  func size() throws -> UInt64 {
    var size: UInt64 = 0
    for (index, range) in enumerated() {
      let (sum, overflow) = size.addingReportingOverflow(range.length)
      if overflow { throw range.tooManyBytes(index, of: count) }
      size = sum
    }
    return size
  }
}

extension ByteRange {
  /// The sum of a list exceeds 64 bits at this range, which is its entry `index`.
  func tooManyBytes(_ index: Int, of count: Int) -> Trouble {
    Trouble(
      "the ranges up to \(self) (\(index + 1) of \(count)) have more than \(UInt64.max) bytes together; name fewer "
        + "at a time")
  }
}
