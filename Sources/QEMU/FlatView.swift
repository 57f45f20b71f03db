package import Guest

/// A piece of the guest-physical address space that is memory, as QEMU's monitor prints it for `info mtree -f`:
///
///     0000000100000000-000000013fffffff (prio 0, ram): pc.ram @0000000080000000 KVM
package struct FlatRange: Equatable, Sendable {
  /// The first address.
  package let address: GuestAddress
  /// In bytes.
  package let length: UInt64
  /// Whether the guest cannot write there: it is ROM, or RAM that is a copy of ROM for now.
  package let isReadOnly: Bool
  /// QEMU's name of the memory region.
  package let name: String
  /// The offset of `address` in the memory region.
  package let offset: UInt64

  /// A piece as the monitor names it.
  package init(address: GuestAddress, length: UInt64, isReadOnly: Bool, name: String, offset: UInt64) {
    (self.address, self.length, self.isReadOnly) = (address, length, isReadOnly)
    (self.name, self.offset) = (name, offset)
  }
}

/// The memory that a guest's CPUs see, in the order of addresses.
package struct FlatView: Equatable, Sendable {
  /// Sorted by address.
  package let ranges: [FlatRange]

  /// The view of the first CPU, outside of system management mode.
  package static let addressSpace = "cpu-memory-0"

  /// Reads the answer to `info mtree -f`: the flat view of `addressSpace`.
  ///
  /// Skips ranges that are neither RAM nor ROM, such as a device's registers.
  /// - Throws: `unknownForm` with the line that was not understood, or the missing part.
  package init(_ text: String, of addressSpace: String = FlatView.addressSpace) throws(QEMUError) {
    var ranges: [FlatRange] = []
    var (isWanted, isFound) = (false, false)
    for line in text.split(whereSeparator: \.isNewline) {
      if line.hasPrefix("FlatView #") {
        if isFound { break }
        isWanted = false
      } else if line.hasPrefix(" AS \"") {
        if line.dropFirst(5).prefix(while: { $0 != "\"" }) == addressSpace {
          (isWanted, isFound) = (true, true)
        }
      } else if isWanted, line.hasPrefix("  "), line.dropFirst(2).first?.isHexDigit == true {
        if let range = try Self.range(line) { ranges.append(range) }
      }
    }
    if !isFound { throw .unknownForm("no flat view of \(addressSpace)") }
    self.ranges = ranges
  }

  private static let writable: Set<Substring> = ["ram", "nv-ram", "ramd"]
  private static let readOnly: Set<Substring> = ["rom", "nv-rom", "romd"]

  /// Nil if the line is not memory.
  private static func range(_ line: Substring) throws(QEMUError) -> FlatRange? {
    // START-END (prio N, KIND): NAME[ @OFFSET][ ACCELERATOR]
    guard let open = line.firstIndex(of: "("), let close = line[open...].range(of: "): ") else {
      throw .unknownForm(String(line))
    }
    let bounds = line[..<open].split(whereSeparator: { $0 == "-" || $0 == " " })
    let kind = line[open..<close.lowerBound].split(separator: " ").last ?? ""
    guard bounds.count == 2, let start = UInt64(bounds[0], radix: 16),
      let last = UInt64(bounds[1], radix: 16),
      start <= last, last - start < .max
    else { throw .unknownForm(String(line)) }
    guard writable.contains(kind) || readOnly.contains(kind) else { return nil }
    let (name, offset) = nameAndOffset(line[close.upperBound...])
    return FlatRange(
      address: GuestAddress(start), length: last - start + 1, isReadOnly: readOnly.contains(kind), name: name,
      offset: offset)
  }

  /// A name may have blanks and at signs itself, such as `/rom@etc/acpi/tables`.
  private static func nameAndOffset(_ text: Substring) -> (String, UInt64) {
    var rest = text
    if rest.hasSuffix(" KVM") { rest = rest.dropLast(4) }
    if let at = rest.lastIndex(of: "@"), at > rest.startIndex, rest[rest.index(before: at)] == " ",
      let offset = UInt64(rest[rest.index(after: at)...], radix: 16)
    {
      return (String(rest[..<rest.index(before: at)]), offset)
    }
    return (String(rest), 0)
  }
}

extension Substring {
  /// Where `text` stands first.
  fileprivate func range(of text: String) -> Range<Index>? {
    var start = startIndex
    while start < endIndex {
      if self[start...].hasPrefix(text) { return start..<index(start, offsetBy: text.count) }
      start = index(after: start)
    }
    return nil
  }
}

/// A block of QEMU's memory, as its monitor prints it for `info ramblock`.
package struct RAMBlock: Equatable, Sendable {
  /// QEMU's id of the block.
  package let name: String
  /// Of the memory that it is made of, in bytes.
  package let pageSize: UInt64
  /// In bytes; a block that can grow may have more room.
  package let used: UInt64

  /// Reads the answer to `info ramblock`: name, page size with its unit, offset, used, total, and from QEMU 8 on
  /// the place in QEMU and the rights.
  package static func list(_ text: String) throws(QEMUError) -> [RAMBlock] {
    var blocks: [RAMBlock] = []
    for line in text.split(whereSeparator: \.isNewline) {
      let words = line.split(separator: " ")
      guard let unit = words.firstIndex(where: { units[$0] != nil }), unit > 1 else {
        if words.first == "Block" || words.isEmpty { continue }
        throw .unknownForm(String(line))
      }
      guard let count = UInt64(words[unit - 1]), words.count >= unit + 4, words[unit + 2].hasPrefix("0x"),
        let used = UInt64(words[unit + 2].dropFirst(2), radix: 16)
      else { throw .unknownForm(String(line)) }
      blocks.append(
        RAMBlock(
          name: words[..<(unit - 1)].joined(separator: " "), pageSize: count << units[words[unit]]!,
          used: used))
    }
    return blocks
  }

  private static let units: [Substring: UInt64] = ["B": 0, "KiB": 10, "MiB": 20, "GiB": 30]
}
