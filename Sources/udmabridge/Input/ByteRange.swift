import Guest
import Linux
import Programs

/// A range as it is written, of a file or of a guest's memory: nothing is checked yet.
struct ByteRange: Hashable, CustomStringConvertible {
  let start, length: UInt64

  /// Of a guest's memory.
  var ofGuest: GuestRange { GuestRange(address: GuestAddress(start), length: length) }

  var description: String { "\(hex(start)):\(hex(length))" }
}

extension [ByteRange] {
  /// Of all of them together, in bytes.
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
      "the ranges have more than \(UInt64.max) bytes together, from \(self) (\(index + 1) of \(count)) on; name fewer "
        + "at a time")
  }
}
