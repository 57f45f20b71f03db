package import Linux
internal import SystemPackage

/// A part of the guest's RAM: a range of a memfd that stands at a guest-physical address.
package final class MemoryRegion {
  package let guestAddress: GuestAddress
  /// Where the front end has it in its own address space; the addresses of rings are given in these terms.
  package let userAddress: UInt64
  package let backing: MemfdRange
  /// The file from its start: front ends cut the guest's memory anew at any time, and what is mapped stays as it is.
  let mapping: Mapping

  /// In bytes.
  package var length: UInt64 { backing.length }
  /// The first address behind it. It does not overflow: `init` checks.
  package var end: UInt64 { guestAddress.rawValue + backing.length }
  /// How much of the file is mapped, in bytes.
  package var mappedEnd: Int { mapping.length }

  /// Maps the file that the range lies in, if it is not mapped yet.
  /// - Parameter neighbour: a region of the same file.
  package init(
    guestAddress: GuestAddress, userAddress: UInt64, backing: MemfdRange,
    besides neighbour: MemoryRegion? = nil
  ) throws(GuestMemoryError) {
    let (length, offset) = (backing.length, backing.offset)
    guard length > 0 else { throw .emptyRegion(guestAddress) }
    guard !guestAddress.rawValue.addingReportingOverflow(length).overflow,
      !userAddress.addingReportingOverflow(length).overflow,
      !offset.addingReportingOverflow(length).overflow, let end = Int(exactly: offset + length)
    else { throw .regionOverflow(guestAddress, length: length) }
    let fileSize: UInt64
    do throws(Errno) { fileSize = try backing.memfd.currentSize() } catch {
      throw .unmappable(guestAddress, error)
    }
    guard offset + length <= fileSize else {
      throw .regionPastFile(guestAddress, end: offset + length, size: fileSize)
    }
    if let neighbour, neighbour.backing.memfd === backing.memfd, neighbour.mapping.length >= end {
      mapping = neighbour.mapping
    } else {
      do throws(Errno) {
        mapping = try backing.memfd.withDescriptor { fd throws(Errno) in
          try Mapping(fd, offset: 0, length: Int(clamping: fileSize), writable: true)
        }
      } catch {
        throw .unmappable(guestAddress, error)
      }
    }
    self.guestAddress = guestAddress
    self.userAddress = userAddress
    self.backing = backing
  }
}
