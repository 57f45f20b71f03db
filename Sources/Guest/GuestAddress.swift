/// A guest-physical address.
public struct GuestAddress: Hashable, Comparable, Sendable, CustomStringConvertible {
  public let rawValue: UInt64
  public init(_ rawValue: UInt64) { self.rawValue = rawValue }

  public static func < (a: GuestAddress, b: GuestAddress) -> Bool { a.rawValue < b.rawValue }

  /// The address `count` bytes further on, or nil past the end of the address space.
  public func advanced(by count: UInt64) -> GuestAddress? {
    let (sum, overflow) = rawValue.addingReportingOverflow(count)
    return overflow ? nil : GuestAddress(sum)
  }

  public var description: String { "0x" + String(rawValue, radix: 16) }
}

/// `length` bytes of the guest's physical memory, as the guest states them: nothing is checked yet.
public struct GuestRange: Hashable, Sendable, CustomStringConvertible {
  public var address: GuestAddress
  public var length: UInt64

  public init(address: GuestAddress, length: UInt64) {
    self.address = address
    self.length = length
  }

  public var description: String { "\(address)+\(String(length, radix: 16))" }
}
