public import Linux
internal import SystemPackage

/// A part of the guest's RAM: a range of a memfd that stands at a guest-physical address.
public final class MemoryRegion {
  public let guestAddress: GuestAddress
  /// Where the front end has it in its own address space; the addresses of rings are given in these terms.
  public let userAddress: UInt64
  public let backing: MemfdRange
  let mapping: Mapping

  /// In bytes.
  public var length: UInt64 { backing.length }
  /// The first address behind it. It does not overflow: `init` checks.
  public var end: UInt64 { guestAddress.rawValue + backing.length }

  /// Maps the range, which must lie within the file.
  public init(
    guestAddress: GuestAddress, userAddress: UInt64, backing: MemfdRange
  ) throws(GuestMemoryError) {
    let (length, offset) = (backing.length, backing.offset)
    guard length > 0 else { throw .emptyRegion(guestAddress) }
    guard !guestAddress.rawValue.addingReportingOverflow(length).overflow,
      !userAddress.addingReportingOverflow(length).overflow,
      !offset.addingReportingOverflow(length).overflow, let size = Int(exactly: length)
    else { throw .regionOverflow(guestAddress, length: length) }
    let fileSize: UInt64
    do throws(Errno) {
      fileSize = try backing.memfd.currentSize()
      mapping = try backing.memfd.withDescriptor { fd throws(Errno) in
        try Mapping(fd, offset: offset, length: size, writable: true)
      }
    } catch {
      throw .unmappable(guestAddress, error)
    }
    guard offset + length <= fileSize else {
      throw .regionPastFile(guestAddress, end: offset + length, size: fileSize)
    }
    self.guestAddress = guestAddress
    self.userAddress = userAddress
    self.backing = backing
  }
}
