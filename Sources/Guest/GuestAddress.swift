/// A guest-physical address.
package struct GuestAddress: Hashable, Comparable, Sendable, CustomStringConvertible {
  package let rawValue: UInt64
  package init(_ rawValue: UInt64) { self.rawValue = rawValue }

  package static func < (a: GuestAddress, b: GuestAddress) -> Bool { a.rawValue < b.rawValue }

  /// The address `count` bytes later, or nil past the end of the address space.
  package func advanced(by count: UInt64) -> GuestAddress? {
    let (sum, overflow) = rawValue.addingReportingOverflow(count)
    return overflow ? nil : GuestAddress(sum)
  }

  package var description: String { "0x" + String(rawValue, radix: 16) }
}

/// `length` bytes of the guest's physical memory, as the guest named them, not checked yet.
package struct GuestRange: Hashable, Sendable, CustomStringConvertible {
  package var address: GuestAddress
  package var length: UInt64

  package init(address: GuestAddress, length: UInt64) {
    self.address = address
    self.length = length
  }

  package var description: String { "\(address)+\(String(length, radix: 16))" }
}
