public import Linux

/// The memory table of a guest: its regions, sorted by address, none overlapping. A value: a change makes
/// a new table, and who still holds the old one goes on undisturbed.
public struct GuestMemory {
  /// What QEMU and the kernel's KVM slots allow.
  public static let maxRegions = 509

  public let regions: [MemoryRegion]

  /// An empty table, in which every address is a hole.
  public init() { regions = [] }

  /// Takes regions in any order.
  public init(_ regions: [MemoryRegion]) throws(GuestMemoryError) {
    if regions.count > Self.maxRegions { throw .tooManyRegions(limit: Self.maxRegions) }
    let sorted = regions.sorted { $0.guestAddress < $1.guestAddress }
    for (a, b) in zip(sorted, sorted.dropFirst()) where a.end > b.guestAddress.rawValue {
      throw .regionsOverlap(a.guestAddress, b.guestAddress)
    }
    self.regions = sorted
  }

  /// The table with one region more.
  public func adding(_ region: MemoryRegion) throws(GuestMemoryError) -> GuestMemory {
    try GuestMemory(regions + [region])
  }

  /// The table without the region that has exactly these addresses and this length.
  public func removing(
    _ address: GuestAddress, userAddress: UInt64, length: UInt64
  ) throws(GuestMemoryError) -> GuestMemory {
    let rest = regions.filter {
      !($0.guestAddress == address && $0.userAddress == userAddress && $0.length == length)
    }
    if rest.count == regions.count { throw .noSuchRegion(address) }
    return try GuestMemory(rest)
  }

  /// Turns what the guest calls its pages into the fewest ranges of the memfds behind them: order kept,
  /// neighbours joined, also across two regions that lie side by side in one memfd.
  ///
  /// Each entry costs a binary search over the regions at most, and none while entries stay in one region.
  /// - Throws: `emptyRange`, `overflow` or `hole`, with the number of the entry.
  public func resolve(_ ranges: some Collection<GuestRange>) throws(GuestMemoryError) -> [MemfdRange] {
    var joined: [MemfdRange] = []
    var here = 0  // The region of the last address: the next one is most often in the same.
    for (item, range) in ranges.enumerated() {
      if range.length == 0 { throw .emptyRange(item: item) }
      guard var address = range.address.advanced(by: 0), let end = address.advanced(by: range.length)
      else { throw .overflow(item: item, range) }
      while address < end {
        guard let index = index(of: address, near: here) else { throw .hole(item: item, address) }
        here = index
        let region = regions[index]
        let skip = address.rawValue - region.guestAddress.rawValue
        let length = min(end.rawValue, region.end) - address.rawValue
        let offset = region.backing.offset + skip
        if let last = joined.last, last.memfd === region.backing.memfd, last.offset + last.length == offset {
          joined[joined.count - 1].length += length
        } else {
          joined.append(MemfdRange(memfd: region.backing.memfd, offset: offset, length: length))
        }
        address = GuestAddress(address.rawValue + length)
      }
    }
    return joined
  }

  /// Which region holds `address`: `near` and its successor are tried first.
  private func index(of address: GuestAddress, near: Int) -> Int? {
    if near < regions.count, regions[near].guestAddress <= address {
      if address.rawValue < regions[near].end { return near }
      let next = near + 1
      if next < regions.count, regions[next].guestAddress <= address, address.rawValue < regions[next].end {
        return next
      }
    }
    var (low, high) = (0, regions.count)
    while low < high {
      let middle = (low + high) / 2
      if regions[middle].guestAddress <= address { low = middle + 1 } else { high = middle }
    }
    guard low > 0, address.rawValue < regions[low - 1].end else { return nil }
    return low - 1
  }

  // MARK: Access by the CPU

  /// Copies guest memory to the end of `bytes`: it changes under us, so only a copy may be parsed.
  /// - Throws: `overflow` or `hole`, with `item` 0.
  public func append(_ range: GuestRange, to bytes: inout [UInt8]) throws(GuestMemoryError) {
    try visit(range) { mapping, offset, count, _ in mapping.append(to: &bytes, from: offset, count: count) }
  }

  /// Copies `bytes` into guest memory.
  /// - Throws: `overflow` or `hole`, with `item` 0.
  public func store(_ bytes: RawSpan, at address: GuestAddress) throws(GuestMemoryError) {
    try visit(GuestRange(address: address, length: UInt64(bytes.byteCount))) { mapping, offset, count, done in
      mapping.store(bytes.extracting(done..<done + count), at: offset)
    }
  }

  private func visit(
    _ range: GuestRange, _ body: (Mapping, _ offset: Int, _ count: Int, _ done: Int) -> Void
  ) throws(GuestMemoryError) {
    guard let end = range.address.advanced(by: range.length) else { throw .overflow(item: 0, range) }
    var address = range.address
    var here = 0
    while address < end {
      guard let index = index(of: address, near: here) else { throw .hole(item: 0, address) }
      here = index
      let region = regions[index]
      let count = min(end.rawValue, region.end) - address.rawValue
      body(
        region.mapping, Int(address.rawValue - region.guestAddress.rawValue), Int(count),
        Int(address.rawValue - range.address.rawValue))
      address = GuestAddress(address.rawValue + count)
    }
  }

  /// A window of `length` bytes at an address of the front end's own address space, for a ring.
  /// It must lie in one region.
  /// - Throws: `hole`, with `item` 0.
  public func window(userAddress: UInt64, length: Int) throws(GuestMemoryError) -> GuestWindow {
    for region in regions where userAddress >= region.userAddress {
      let offset = userAddress - region.userAddress
      if offset < region.length, UInt64(length) <= region.length - offset {
        return GuestWindow(mapping: region.mapping, start: Int(offset), length: length)
      }
    }
    throw .hole(item: 0, GuestAddress(userAddress))
  }
}

/// A piece of mapped guest memory at a fixed place: a ring. It keeps its mapping alive.
public struct GuestWindow {
  public let mapping: Mapping
  /// Where it starts in the mapping, in bytes.
  public let start: Int
  public let length: Int
}
