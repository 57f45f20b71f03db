import CBench
import Glibc
import Guest
import Linux

/// What it costs to turn a guest's page list into ranges of memfds: `GuestMemory.resolve`.
///
/// The peer is what one would write in C: for each entry the same checks, a binary search over a sorted
/// array, and a join with the range before; it makes a new list as ours does, because each buffer keeps its
/// own. It counts no references to memfds; ours does, for each range.
func benchResolve() throws {
  let counts = [1, 8, 64, 512, 2025, 8192]
  print()
  print("resolve: nanoseconds per entry, and in parentheses how many times as long as the peer takes")
  print("         peer: bare C, binary search over a sorted array and join")
  print("entries in the list".left(44) + counts.map { "\($0)".right(14) }.joined())
  for isScattered in [true, false] {
    for regions in [1, 4, 32, 128, 509] {
      let table = try Table(regions: regions)
      let cells = try counts.map {
        try measure(table, isScattered ? table.scattered($0) : table.joinable($0))
      }
      let name =
        "resolve \(isScattered ? "scattered" : "joinable") pages, \(regions) region\(regions == 1 ? "" : "s")"
      print(name.left(41) + "ns " + cells.map { $0.right(14) }.joined())
    }
  }
}

private func measure(_ table: Table, _ entries: [GuestRange]) throws -> String {
  let plain = entries.map { cb_entry(address: $0.address.rawValue, length: $0.length) }
  try table.compare(entries, plain)
  let rounds = max(1, 16384 / entries.count)
  let scale = 1 / Double(rounds * entries.count)
  var ranges = 0
  var pairs = Pairs()
  try pairs.measure(
    25,
    {
      try nanoseconds {
        for _ in 0..<rounds { ranges += try table.memory.resolve(entries).count }
      } * scale
    },
    {
      nanoseconds {
        for _ in 0..<rounds { ranges -= unsafe table.resolveInC(plain) { $0.count } }
      } * scale
    })
  try check(ranges == 0, "both made the same number of ranges")
  return "\(short(pairs.ours.median)) (\(fixed(pairs.ratio, 2)))"
}

/// A guest of 128 MiB in one memfd, of which each region is followed by a hole.
struct Table {
  let memory: GuestMemory
  private let plain: [cb_region]
  private let pagesPerRegion: Int
  private let pages: Int

  init(regions count: Int) throws {
    let page = systemPageSize
    pagesPerRegion = 32768 / count
    pages = pagesPerRegion * count
    let memfd = try Memfd.create(name: "bench", size: UInt64(pages) * page, seals: .shrink)
    let length = UInt64(pagesPerRegion) * page
    let regions = try (0..<UInt64(count)).map { index in
      let address = index * (length + page)
      return try MemoryRegion(
        guestAddress: GuestAddress(address), userAddress: address,
        backing: MemfdRange(memfd: memfd, offset: index * length, length: length))
    }
    memory = try GuestMemory(regions)
    plain = regions.map {
      cb_region(start: $0.guestAddress.rawValue, length: $0.length, offset: $0.backing.offset, file: 7)
    }
  }

  private func entry(_ page: Int) -> GuestRange {
    let address = UInt64(page + page / pagesPerRegion) * systemPageSize
    return GuestRange(address: GuestAddress(address), length: systemPageSize)
  }

  func joinable(_ count: Int) -> [GuestRange] { (0..<count).map(entry) }

  /// No page stands behind its neighbour.
  func scattered(_ count: Int) -> [GuestRange] {
    // A step without a common divisor with the number of pages meets each page once.
    var step = pages * 5 / 13 | 1
    while greatestCommonDivisor(step, pages) != 1 { step += 2 }
    return (0..<count).map { entry(($0 + 1) * step % pages) }
  }

  private func greatestCommonDivisor(_ a: Int, _ b: Int) -> Int {
    b == 0 ? a : greatestCommonDivisor(b, a % b)
  }

  func resolveInC<Result>(_ entries: [cb_entry], _ body: (UnsafeBufferPointer<cb_range>) -> Result) -> Result
  {
    var list: UnsafeMutablePointer<cb_range>? = nil
    let count = unsafe cb_resolve(plain, plain.count, entries, entries.count, &list)
    precondition(count >= 0, "the entries are good")
    defer { unsafe free(list) }
    return unsafe body(UnsafeBufferPointer(start: list, count: count))
  }

  func compare(_ entries: [GuestRange], _ plainEntries: [cb_entry]) throws {
    let ours = try memory.resolve(entries)
    let equal = unsafe resolveInC(plainEntries) { theirs in
      unsafe ours.count == theirs.count
        && zip(ours, theirs).allSatisfy { $0.offset == $1.offset && $0.length == $1.length }
    }
    try check(equal, "resolve and the C loop make the same ranges")
  }
}
