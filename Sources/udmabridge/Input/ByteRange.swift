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
      if overflow {
        throw Trouble(
          "the ranges have more than \(UInt64.max) bytes together, from \(range) (\(index + 1) of \(count)) on; name fewer "
            + "at a time")
      }
      size = sum
    }
    return size
  }
}
