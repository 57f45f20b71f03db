package import Linux

/// The memory table of a guest: its regions, sorted by address, none overlapping. A value: a change makes
/// a new table, and who still holds the old one goes on undisturbed.
package struct GuestMemory {
  /// What QEMU and the kernel's KVM slots allow.
  package static let maxRegions = 509

  package let regions: [MemoryRegion]
  /// The regions' numbers alone, in the same order.
  private let places: [Place]

  /// What the search and `resolve` look at for each entry, so that they count no references.
  private struct Place {
    let start, end: UInt64
    /// In the memfd.
    let offset: UInt64
    /// The first region of the same memfd, which stands for the memfd.
    let file: Int
  }

  /// An empty table, in which every address is a hole.
  package init() { (regions, places) = ([], []) }

  /// Takes regions in any order.
  package init(_ regions: [MemoryRegion]) throws(GuestMemoryError) {
    if regions.count > Self.maxRegions { throw .tooManyRegions(limit: Self.maxRegions) }
    let sorted = regions.sorted { $0.guestAddress < $1.guestAddress }
    for (a, b) in zip(sorted, sorted.dropFirst()) where a.end > b.guestAddress.rawValue {
      throw .regionsOverlap(a.guestAddress, b.guestAddress)
    }
    self.regions = sorted
    var files: [ObjectIdentifier: Int] = [:]
    places = sorted.enumerated().map { index, region in
      let memfd = ObjectIdentifier(region.backing.memfd)
      let file = files[memfd] ?? index
      files[memfd] = file
      return Place(
        start: region.guestAddress.rawValue, end: region.end, offset: region.backing.offset, file: file)
    }
  }

  /// The table with one region more.
  package func adding(_ region: MemoryRegion) throws(GuestMemoryError) -> GuestMemory {
    try GuestMemory(regions + [region])
  }

  /// The table without the region that has exactly these addresses and this length.
  package func removing(
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
  /// - Parameters:
  ///   - limit: no more bytes than these are returned; the entries behind them are checked all the same.
  ///   - length: entries with so many bytes at least, and fewer than `limit`, get the rest up to `limit` from behind the
  ///     last one, if the same region holds it.
  /// - Throws: `emptyRange`, `overflow` or `hole`, with the number of the entry.
  package func resolve(
    _ ranges: [GuestRange], upTo limit: UInt64 = .max, completing length: UInt64 = .max
  ) throws(GuestMemoryError) -> [MemfdRange] {
    var left = limit
    var joined: [MemfdRange] = []
    var here = 0  // The region of the last address: the next one is most often in the same.
    // The range that the next entry may join, until it turns out not to.
    var (file, start, end) = (-1, UInt64(0), UInt64(0))
    var behind: UInt64 = 0  // So many bytes of the region are behind the last entry.
    for item in ranges.indices {
      let range = ranges[item]
      if range.length == 0 { throw .emptyRange(item: item) }
      var address = range.address.rawValue
      let (last, overflow) = address.addingReportingOverflow(range.length)
      if overflow { throw .overflow(item: item, range) }
      while address < last {
        guard let index = index(of: address, near: here) else {
          throw .hole(item: item, GuestAddress(address))
        }
        here = index
        let place = places[index]
        let offset = place.offset + (address - place.start)
        let part = min(last, place.end) - address
        address += part
        behind = place.end - address
        if left == 0 { continue }
        let taken = min(part, left)
        left -= taken
        if offset == end, place.file == file {
          end += taken
        } else {
          append(file, start, end, to: &joined)
          (file, start, end) = (place.file, offset, offset + taken)
        }
      }
    }
    if left > 0, limit - left >= length, left <= behind { end += left }
    append(file, start, end, to: &joined)
    return joined
  }

  private func append(_ file: Int, _ start: UInt64, _ end: UInt64, to joined: inout [MemfdRange]) {
    if start == end { return }
    joined.append(MemfdRange(memfd: regions[file].backing.memfd, offset: start, length: end - start))
  }

  /// Which region holds `address`: `near` and its successor are tried first.
  private func index(of address: UInt64, near: Int) -> Int? {
    if near < places.count, places[near].start <= address {
      if address < places[near].end { return near }
      let next = near + 1
      if next < places.count, places[next].start <= address, address < places[next].end { return next }
    }
    var (low, high) = (0, places.count)
    while low < high {
      let middle = (low + high) / 2
      if places[middle].start <= address { low = middle + 1 } else { high = middle }
    }
    guard low > 0, address < places[low - 1].end else { return nil }
    return low - 1
  }

  // MARK: Access by the CPU

  /// Copies guest memory to the end of `bytes`: it changes under us, so only a copy may be parsed.
  /// - Throws: `overflow` or `hole`, with `item` 0.
  package func append(_ range: GuestRange, to bytes: inout [UInt8]) throws(GuestMemoryError) {
    try visit(range) { mapping, offset, count, _ in mapping.append(to: &bytes, from: offset, count: count) }
  }

  /// Copies `bytes` into guest memory.
  /// - Throws: `overflow` or `hole`, with `item` 0.
  package func store(_ bytes: RawSpan, at address: GuestAddress) throws(GuestMemoryError) {
    try visit(GuestRange(address: address, length: UInt64(bytes.byteCount))) { mapping, offset, count, done in
      mapping.store(bytes.extracting(done..<done + count), at: offset)
    }
  }

  private func visit(
    _ range: GuestRange, _ body: (Mapping, _ offset: Int, _ count: Int, _ done: Int) -> Void
  ) throws(GuestMemoryError) {
    guard let end = range.address.advanced(by: range.length) else { throw .overflow(item: 0, range) }
    var address = range.address.rawValue
    var here = 0
    while address < end.rawValue {
      guard let index = index(of: address, near: here) else { throw .hole(item: 0, GuestAddress(address)) }
      here = index
      let place = places[index]
      let count = min(end.rawValue, place.end) - address
      body(
        regions[index].mapping, Int(place.offset + (address - place.start)), Int(count),
        Int(address - range.address.rawValue))
      address += count
    }
  }

  /// The files that ranges which `resolve` made of this table lie in. Who keeps them keeps nothing else of the table.
  package func files(of ranges: [MemfdRange]) -> MappedFiles {
    var files: [MappedFiles.File] = []
    for range in ranges where files.last?.memfd !== range.memfd {
      if files.contains(where: { $0.memfd === range.memfd }) { continue }
      let mappings = regions.lazy.filter { $0.backing.memfd === range.memfd }.map(\.mapping)
      // A file that has grown is mapped anew.
      guard let longest = mappings.max(by: { $0.length < $1.length }) else {
        preconditionFailure("the range is of another table")
      }
      files.append((range.memfd, longest))
    }
    return MappedFiles(files)
  }

  /// A window of `length` bytes at an address of the front end's own address space, for a ring.
  /// It must lie in one region.
  /// - Throws: `hole`, with `item` 0.
  package func window(userAddress: UInt64, length: Int) throws(GuestMemoryError) -> GuestWindow {
    for region in regions where userAddress >= region.userAddress {
      let offset = userAddress - region.userAddress
      if offset < region.length, UInt64(length) <= region.length - offset {
        return GuestWindow(
          mapping: region.mapping, start: Int(region.backing.offset + offset), length: length)
      }
    }
    throw .hole(item: 0, GuestAddress(userAddress))
  }
}

/// Files of the guest's memory, each mapped from its start.
package struct MappedFiles {
  typealias File = (memfd: Memfd, mapping: Mapping)
  private let files: [File]

  init(_ files: [File]) { self.files = files }

  /// Where the ranges are mapped, one behind the other.
  package func windows(of ranges: [MemfdRange]) -> [GuestWindow] {
    var here = 0
    return ranges.map { range in
      if files[here].memfd !== range.memfd {
        guard let index = files.firstIndex(where: { $0.memfd === range.memfd }) else {
          preconditionFailure("the range is of another file")
        }
        here = index
      }
      return GuestWindow(mapping: files[here].mapping, start: Int(range.offset), length: Int(range.length))
    }
  }
}

/// A piece of mapped guest memory at a fixed place: a ring. It keeps its mapping alive.
package struct GuestWindow {
  package let mapping: Mapping
  /// Where it starts in the mapping, in bytes.
  package let start: Int
  package let length: Int

  package init(mapping: Mapping, start: Int, length: Int) {
    (self.mapping, self.start, self.length) = (mapping, start, length)
  }
}
