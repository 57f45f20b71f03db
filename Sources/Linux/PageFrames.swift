internal import Glibc
package import SystemPackage

/// The physical addresses of memory, which only root may know.
package enum PageFrames {
  /// Consecutive pages of physical memory.
  package struct Run: Equatable, Sendable {
    /// In bytes.
    package var address, length: UInt64

    package init(address: UInt64, length: UInt64) { (self.address, self.length) = (address, length) }
  }

  /// The pages of a file in memory, in order. They keep their place for as long as somebody pins them.
  /// - Parameter size: of the file, whole pages.
  /// - Throws: `notPermitted` if this process may not know.
  /// - The corresponding file is `/proc/self/pagemap`.
  package static func runs(of memfd: Memfd, size: Int) throws(Errno) -> [Run] {
    let address = try memfd.withDescriptor { fd throws(Errno) in
      try fd.withRaw { raw throws(Errno) in
        try retrying {
          unsafe Int(bitPattern: mmap(nil, size, PROT_READ, MAP_SHARED | MAP_POPULATE, raw, 0))
        }
      }
    }
    defer { unsafe munmap(UnsafeMutableRawPointer(bitPattern: address), size) }
    let pages = try FD.open("/proc/self/pagemap", writable: false)
    let page = Int(systemPageSize)
    var runs: [Run] = []
    var place = 0
    while place < size {
      let entries = try pages.read(
        upTo: min(65536, (size - place) / page * 8), at: Int64((address + place) / page * 8))
      guard entries.count >= 8 else { throw .badAddress }
      for start in stride(from: 0, through: entries.count - 8, by: 8) {
        let entry = entries[start..<start + 8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        try add(entry, to: &runs)
        place += page
      }
    }
    return runs
  }

  /// - Parameter entry: of pagemap. The highest bit says that the page is in memory; the lowest 55 say where, or are zero.
  private static func add(_ entry: UInt64, to runs: inout [Run]) throws(Errno) {
    guard entry >> 63 == 1 else { throw .badAddress }
    let frame = entry & (1 << 55 - 1)
    guard frame != 0 else { throw .notPermitted }
    let address = frame * systemPageSize
    if let last = runs.last, last.address + last.length == address {
      runs[runs.count - 1].length += systemPageSize
    } else {
      runs.append(Run(address: address, length: systemPageSize))
    }
  }
}
