/// A number as people write sizes and addresses: `4096`, `0x1000`, `64M`.
package struct Quantity: CustomStringConvertible {
  package let value: UInt64

  package init(_ value: UInt64) { self.value = value }

  /// Reads decimal digits, with K, M, G or T (in either case) for powers of 1024, or hexadecimal digits after `0x`.
  package static func parse(_ text: ArraySlice<UInt8>) -> UInt64? {
    var rest = text
    if rest.count > 2, rest[rest.startIndex] == UInt8(ascii: "0"),
      rest[rest.startIndex + 1] | 0x20 == UInt8(ascii: "x")
    {
      rest = rest.dropFirst(2)
      if rest.count > 16 { return nil }
      var value: UInt64 = 0
      for byte in rest {
        guard let digit = digit(byte) else { return nil }
        value = value << 4 | digit
      }
      return value
    }
    var shift: UInt64 = 0
    if let last = rest.last, let unit = unit(last) {
      shift = unit
      rest = rest.dropLast()
    }
    if rest.isEmpty || rest.count > 20 { return nil }
    var value: UInt64 = 0
    for byte in rest {
      guard let digit = digit(byte), digit < 10 else { return nil }
      let (tens, overflow) = value.multipliedReportingOverflow(by: 10)
      let (sum, carry) = tens.addingReportingOverflow(digit)
      if overflow || carry { return nil }
      value = sum
    }
    return value > .max >> shift ? nil : value << shift
  }

  private static func digit(_ byte: UInt8) -> UInt64? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt64(byte - UInt8(ascii: "0"))
    case UInt8(ascii: "a")...UInt8(ascii: "f"), UInt8(ascii: "A")...UInt8(ascii: "F"):
      UInt64((byte | 0x20) - UInt8(ascii: "a")) + 10
    default: nil
    }
  }

  private static func unit(_ byte: UInt8) -> UInt64? {
    switch byte | 0x20 {
    case UInt8(ascii: "k"): 10
    case UInt8(ascii: "m"): 20
    case UInt8(ascii: "g"): 30
    case UInt8(ascii: "t"): 40
    default: nil
    }
  }

  /// The number in the largest unit that leaves no fraction.
  package var description: String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")]
    where value > 0 && value & (1 << shift - 1) == 0 {
      return "\(value >> shift)\(unit)"
    }
    return "\(value)"
  }
}
