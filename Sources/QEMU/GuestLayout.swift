package import Guest
package import Linux
internal import SystemPackage

/// Memory that a guest sees, and the file behind it.
package struct GuestBacking: Sendable {
  /// The kind of the memory.
  package enum Kind: Sendable {
    /// A memfd, with its descriptor number in QEMU.
    case memfd(Memfd, descriptor: CInt)
    /// Another file that QEMU has mapped.
    case file(path: String)
    /// QEMU's own memory, which cannot be passed to other processes.
    case anonymous
  }

  /// QEMU's name for it, usually the id of its memory backend.
  package let name: String
  /// What it is made of.
  package let kind: Kind

  /// A memory and what it is made of.
  package init(name: String, kind: Kind) { (self.name, self.kind) = (name, kind) }

  /// The memfd, if it is one.
  package var memfd: Memfd? { if case .memfd(let memfd, _) = kind { memfd } else { nil } }
}

/// A piece of the guest-physical address space, and its place in the memory behind it.
package struct LayoutPart: Equatable, Sendable {
  /// The first address.
  package let address: GuestAddress
  /// In bytes.
  package let length: UInt64
  /// Whether the guest cannot write there.
  package let isReadOnly: Bool
  /// The index of its memory in `GuestLayout.backings`.
  package let backing: Int
  /// The offset of `address` in the memfd or the file.
  package let offset: UInt64

  /// A piece of the memory `backing`.
  package init(address: GuestAddress, length: UInt64, isReadOnly: Bool = false, backing: Int, offset: UInt64)
  {
    (self.address, self.length, self.isReadOnly) = (address, length, isReadOnly)
    (self.backing, self.offset) = (backing, offset)
  }

  /// The last address in it.
  package var last: GuestAddress { GuestAddress(address.rawValue + (length - 1)) }
}

/// The layout of a guest's memory: which part of which memfd is at which guest-physical address.
package struct GuestLayout: Sendable {
  /// The memories of the parts.
  package let backings: [GuestBacking]
  /// Sorted by address. Between two parts there is no memory.
  package let parts: [LayoutPart]
  /// The source of this knowledge.
  package let source: Source

  /// The source of a layout.
  package enum Source: String, Sendable {
    /// QEMU's monitor, with which the process's memory map agrees.
    case monitor
    /// QEMU's command line.
    case commandLine
    /// A file or an option of the user.
    case text
  }

  /// Takes the parts in any order.
  package init(backings: [GuestBacking], parts: [LayoutPart], source: Source) {
    self.backings = backings
    self.parts = parts.sorted { $0.address < $1.address }
    self.source = source
  }

  /// The table that resolves addresses, of the parts that are in memfds.
  package func memory() throws(QEMUError) -> GuestMemory {
    do throws(GuestMemoryError) {
      var regions: [MemoryRegion] = []
      for part in joined {
        guard let memfd = backings[part.backing].memfd else { continue }
        regions.append(
          try MemoryRegion(
            guestAddress: part.address, userAddress: 0,
            backing: MemfdRange(memfd: memfd, offset: part.offset, length: part.length),
            besides: regions.last { $0.backing.memfd === memfd }))
      }
      return try GuestMemory(regions)
    } catch { throw .memory(error) }
  }

  /// The parts, joined if they follow each other in the address space and in their memory.
  package var joined: [LayoutPart] {
    var result: [LayoutPart] = []
    for part in parts {
      if let before = result.last, before.backing == part.backing,
        before.length == part.address.rawValue - before.address.rawValue,
        // A monitor gives the lengths, and the offsets in memory without a file.
        case (let end, let isPastEnd) = before.offset.addingReportingOverflow(before.length), !isPastEnd,
        end == part.offset,
        case (let length, let isTooLong) = before.length.addingReportingOverflow(part.length), !isTooLong
      {
        result[result.count - 1] = LayoutPart(
          address: before.address, length: length,
          isReadOnly: before.isReadOnly && part.isReadOnly, backing: part.backing, offset: before.offset)
      } else {
        result.append(part)
      }
    }
    return result
  }

  /// The text of an error for an address without a memfd: a hole and its bounds, or memory that cannot be lent.
  package func absence(at address: GuestAddress) -> String {
    if let part = parts.last(where: { $0.address <= address }), address <= part.last {
      let backing = backings[part.backing]
      return switch backing.kind {
      case .memfd: "\(address) is in \(backing.name)"
      case .file(let path):
        "\(address) is in \(backing.name), which QEMU has in the file \(path): only memfds can be lent "
          + "(-object memory-backend-memfd,share=on)"
      case .anonymous:
        "\(address) is in \(backing.name), which is memory of QEMU's own: only memfds can be lent "
          + "(-object memory-backend-memfd,share=on)"
      }
    }
    let before = parts.last { $0.last < address }.map {
      "\($0.last.rawValue == .max ? "" : hex($0.last.rawValue + 1))"
    }
    let after = parts.first { $0.address > address }.map { "\($0.address)" }
    return switch (before, after) {
    case (let before?, let after?):
      "\(address) is in the hole from \(before) to \(after)"
        + (source == .commandLine ? ", which without QEMU's monitor is not known to be RAM" : "")
    case (let before?, nil): "\(address) is past the end of the guest's memory at \(before)"
    case (nil, let after?): "\(address) is before the guest's memory, which begins at \(after)"
    case (nil, nil): "the guest has no memory at all"
    }
  }
}
