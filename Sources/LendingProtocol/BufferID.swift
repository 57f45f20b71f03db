/// The name of a lent buffer: 128 random bits that the helper makes, and never uses again. As text, 32 hexadecimal digits.
package struct BufferID: Hashable, Sendable {
  private let high, low: UInt64

  /// A new id from the kernel's random numbers.
  package static func random() -> BufferID {
    var generator = SystemRandomNumberGenerator()
    return BufferID(high: generator.next(), low: generator.next())
  }

  package init(high: UInt64, low: UInt64) { (self.high, self.low) = (high, low) }

  /// Nil for anything but 32 lower-case digits.
  package init?(_ text: String) {
    let digits = Array(text.utf8)
    guard digits.count == 32 else { return nil }
    var halves: (UInt64, UInt64) = (0, 0)
    for digit in digits {
      let value: UInt64
      switch digit {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): value = UInt64(digit - UInt8(ascii: "0"))
      case UInt8(ascii: "a")...UInt8(ascii: "f"): value = UInt64(digit - UInt8(ascii: "a") + 10)
      default: return nil
      }
      halves = (halves.0 << 4 | halves.1 >> 60, halves.1 << 4 | value)
    }
    (high, low) = halves
  }
}

extension BufferID: CustomStringConvertible {
  package var description: String {
    [high, low].map { half in
      let digits = String(half, radix: 16)
      return String(repeating: "0", count: 16 - digits.utf8.count) + digits
    }.joined()
  }
}
