internal import Guest
internal import Linux
internal import SystemPackage

/// The memory of one guest that its devices know. Each region is mapped once for all of them.
package final class KnownMemory {
  private var tables: [ObjectIdentifier: [MemoryRegion]] = [:]

  package init() {}

  var regions: [MemoryRegion] { tables.values.flatMap(\.self) }

  func set(_ regions: [MemoryRegion], of session: VhostUserSession) {
    tables[ObjectIdentifier(session)] = regions
  }

  func forget(_ session: VhostUserSession) { tables[ObjectIdentifier(session)] = nil }
}

/// The memory table as the messages build it.
///
/// QEMU sends a descriptor with every region, several for one file, and the same again after each pause. Regions of one
/// file share one `Memfd` here, so that neighbours can be joined. A region that was there before keeps its mapping.
struct MemoryTable {
  private(set) var memory = GuestMemory()

  /// `SET_MEM_TABLE`: these regions and no others.
  mutating func replace(
    with descriptions: [RegionDescription], _ descriptors: inout ReceivedDescriptors, known: KnownMemory
  ) throws(VhostUserError) {
    var regions: [MemoryRegion] = []
    for (index, description) in descriptions.enumerated() {
      guard let fd = descriptors.take(index) else { preconditionFailure("the count was checked") }
      regions.append(
        try Self.region(description, fd, known: known.regions + regions, request: .setMemoryTable))
    }
    do { memory = try GuestMemory(regions) } catch { throw .memory(.setMemoryTable, error) }
  }

  /// `ADD_MEM_REG`
  mutating func add(
    _ description: RegionDescription, _ descriptors: inout ReceivedDescriptors, known: KnownMemory
  ) throws(VhostUserError) {
    guard let fd = descriptors.take(0) else { preconditionFailure("the count was checked") }
    let region = try Self.region(description, fd, known: known.regions, request: .addMemoryRegion)
    do { memory = try memory.adding(region) } catch { throw .memory(.addMemoryRegion, error) }
  }

  /// `REM_MEM_REG`
  mutating func remove(_ description: RegionDescription) throws(VhostUserError) {
    do {
      memory = try memory.removing(
        description.guestAddress, userAddress: description.userAddress, length: description.length)
    } catch {
      throw .memory(.removeMemoryRegion, error)
    }
  }

  private static func region(
    _ description: RegionDescription, _ fd: consuming FD, known: [MemoryRegion], request: Request
  ) throws(VhostUserError) -> MemoryRegion {
    let file: Memfd
    do { file = try Memfd(adopting: fd) } catch { throw .descriptor(request, error) }
    // Of several, take the one that maps the most of a file which has grown.
    let neighbour = known.filter { $0.backing.memfd.isSameFile(as: file) }.max { $0.mappedEnd < $1.mappedEnd }
    let backing = MemfdRange(
      memfd: neighbour?.backing.memfd ?? file, offset: description.offset, length: description.length)
    let same = known.first {
      $0.guestAddress == description.guestAddress && $0.userAddress == description.userAddress
        && $0.backing == backing
    }
    if let same { return same }
    do {
      return try MemoryRegion(
        guestAddress: description.guestAddress, userAddress: description.userAddress, backing: backing,
        besides: neighbour)
    } catch {
      throw .memory(request, error)
    }
  }
}

extension Memfd {
  fileprivate func isSameFile(as other: Memfd) -> Bool {
    status.device == other.status.device && status.inode == other.status.inode
  }
}
