package import Guest
internal import Linux
internal import Programs

/// A part of a guest's memory as a line of text: `ADDRESS:LENGTH MEMORY [OFFSET] [unsealed]`.
///
/// MEMORY is any name: parts with the same name are of one memfd. OFFSET is the part's place in the memfd, 0 if absent.
/// `unsealed` says that udmabuf would not take that memory.
package struct LayoutLine: Equatable, Sendable, CustomStringConvertible {
  package let address: GuestAddress
  /// In bytes; not 0. Neither `address` nor `offset` plus this overflows.
  package let length: UInt64
  package let memory: String
  /// In the memory, in bytes.
  package let offset: UInt64
  package let isSealed: Bool

  package init(address: GuestAddress, length: UInt64, memory: String, offset: UInt64, isSealed: Bool) {
    (self.address, self.length, self.offset, self.isSealed) = (address, length, offset, isSealed)
    // Names may hold blanks.
    self.memory = memory.replacing(" ", with: "_")
  }

  init(_ region: MemoryRegion) {
    let (memfd, offset) = (region.backing.memfd, region.backing.offset)
    self.init(
      address: region.guestAddress, length: region.length, memory: "memfd-\(memfd.status.inode)",
      offset: offset, isSealed: (try? memfd.seals().contains(.shrink)) ?? false)
  }

  /// Nil if the line, from which a comment was removed, is no such line.
  package init?(_ line: ArraySlice<UInt8>) {
    let words = line.split { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") }
    isSealed = words.last?.elementsEqual("unsealed".utf8) != true
    let fields = isSealed ? words : words.dropLast()
    guard (2...3).contains(fields.count), let range = GuestRange(traced: fields[0]), range.length > 0,
      range.address.advanced(by: range.length) != nil,
      let offset = fields.count == 3 ? Quantity.parse(fields[2]) : 0,
      !offset.addingReportingOverflow(range.length).overflow
    else { return nil }
    (address, length, self.offset) = (range.address, range.length, offset)
    memory = String(decoding: fields[1], as: UTF8.self)
  }

  package var description: String {
    "\(address):\(hex(length)) \(memory) \(hex(offset))\(isSealed ? "" : " unsealed")"
  }
}

extension GuestRange {
  /// Reads `ADDRESS:LENGTH`; nil for anything else.
  init?(traced text: ArraySlice<UInt8>) {
    guard let colon = text.firstIndex(of: UInt8(ascii: ":")), let start = Quantity.parse(text[..<colon]),
      let length = Quantity.parse(text[(colon + 1)...])
    else { return nil }
    self.init(address: GuestAddress(start), length: length)
  }
}
