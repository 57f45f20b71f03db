import Fixtures
import Guest
import Linux
import Testing

/// The page size of the tests' layouts; resolving itself knows no pages.
private let page: UInt64 = 4096

private func range(_ address: UInt64, _ length: UInt64) -> GuestRange {
  GuestRange(address: GuestAddress(address), length: length)
}

/// A range of a file, by the file's number, so that tables can be written down.
private struct Expected: Equatable, CustomStringConvertible {
  let file: Int
  let offset: UInt64
  let length: UInt64
  var description: String { "\(hex(offset)):\(hex(length)) of file \(file)" }

  init(_ file: Int, _ offset: UInt64, _ length: UInt64) {
    self.file = file
    self.offset = offset
    self.length = length
  }

  init(_ range: MemfdRange, in ram: GuestRAM) {
    self.init(ram.files.firstIndex { $0 === range.memfd }!, range.offset, range.length)
  }
}

struct ResolveCase: CustomTestStringConvertible {
  let testDescription: String
  fileprivate let ranges: [GuestRange]
  fileprivate let expected: [Expected]

  fileprivate init(_ name: String, _ ranges: [GuestRange], _ expected: [Expected]) {
    testDescription = name
    self.ranges = ranges
    self.expected = expected
  }
}

struct ResolveErrorCase: CustomTestStringConvertible {
  let testDescription: String
  fileprivate let ranges: [GuestRange]
  fileprivate let error: GuestMemoryError

  fileprivate init(_ name: String, _ ranges: [GuestRange], _ error: GuestMemoryError) {
    testDescription = name
    self.ranges = ranges
    self.error = error
  }
}

@Suite struct ResolveTests {
  /// Two regions side by side over one file (at 0 and 16 pages), a hole of 8 pages, then a region of the same
  /// file out of order, then, with no gap, one of another file.
  private static func layout() throws -> GuestRAM {
    try GuestRAM([
      .init(at: 0, length: 16 * page, offset: 0),
      .init(at: 16 * page, length: 16 * page, offset: 16 * page),
      .init(at: 40 * page, length: 8 * page, offset: 40 * page),
      .init(at: 48 * page, length: 8 * page, file: 1, offset: 3 * page),
      .init(at: 56 * page, length: 8 * page, offset: 32 * page),
    ])
  }

  static let cases: [ResolveCase] = [
    .init("nothing", [], []),
    .init("one range", [range(page, page)], [.init(0, page, page)]),
    .init("one byte at the very end", [range(64 * page - 1, 1)], [.init(0, 40 * page - 1, 1)]),
    .init("no page borders", [range(100, 200)], [.init(0, 100, 200)]),
    .init(
      "neighbours join", [range(page, page), range(2 * page, page), range(3 * page, page)],
      [.init(0, page, 3 * page)]),
    .init("neighbours join at any byte", [range(10, 5), range(15, 1)], [.init(0, 10, 6)]),
    .init(
      "the order is kept: descending pages do not join", [range(2 * page, page), range(page, page)],
      [.init(0, 2 * page, page), .init(0, page, page)]),
    .init(
      "the same page twice stays two ranges", [range(page, page), range(page, page)],
      [.init(0, page, page), .init(0, page, page)]),
    .init(
      "across regions side by side in one file", [range(15 * page, 2 * page)], [.init(0, 15 * page, 2 * page)]
    ),
    .init(
      "joined across regions side by side", [range(15 * page, page), range(16 * page, page)],
      [.init(0, 15 * page, 2 * page)]),
    .init(
      "across regions of two files", [range(47 * page, 2 * page)],
      [.init(0, 47 * page, page), .init(1, 3 * page, page)]),
    .init(
      "over a whole region and into its neighbours", [range(47 * page, 10 * page)],
      [.init(0, 47 * page, page), .init(1, 3 * page, 8 * page), .init(0, 32 * page, page)]),
    .init(
      "side by side in the guest, apart in the file", [range(55 * page, page), range(56 * page, page)],
      [.init(1, 10 * page, page), .init(0, 32 * page, page)]),
    .init(
      "side by side in the file, apart in the guest", [range(31 * page, page), range(56 * page, page)],
      [.init(0, 31 * page, 2 * page)]),
    .init(
      "equal offsets of two files do not join", [range(48 * page, page), range(4 * page, page)],
      [.init(1, 3 * page, page), .init(0, 4 * page, page)]),
    .init(
      "back and forth between regions",
      [range(48 * page, 1), range(0, 1), range(63 * page, 1), range(16 * page, 1)],
      [.init(1, 3 * page, 1), .init(0, 0, 1), .init(0, 39 * page, 1), .init(0, 16 * page, 1)]),
  ]

  @Test("a page list becomes the fewest ranges, in order, with neighbours joined", arguments: cases)
  func resolves(_ item: ResolveCase) throws {
    let ram = try Self.layout()
    let resolved = try ram.memory.resolve(item.ranges).map { Expected($0, in: ram) }
    #expect(resolved == item.expected)
  }

  /// Lists for 3 pages and 100 bytes, to be 4 pages.
  static let completed: [ResolveCase] = [
    .init("exactly as many", [range(page, 3 * page + 100)], [.init(0, page, 4 * page)]),
    .init("all of the last page", [range(page, 4 * page)], [.init(0, page, 4 * page)]),
    .init("more", [range(page, 5 * page)], [.init(0, page, 4 * page)]),
    .init("a byte less", [range(page, 3 * page + 99)], [.init(0, page, 3 * page + 99)]),
    .init("a byte more", [range(page, 3 * page + 101)], [.init(0, page, 4 * page)]),
    .init(
      "the last of several, apart", [range(8 * page, 3 * page), range(2 * page, 100)],
      [.init(0, 8 * page, 3 * page), .init(0, 2 * page, page)]),
    .init(
      "the end of a region", [range(29 * page, 2 * page), range(31 * page, page), range(63 * page, 100)],
      [.init(0, 29 * page, 3 * page), .init(0, 39 * page, page)]),
    .init("not from a page on", [range(page + 8, 3 * page + 100)], [.init(0, page + 8, 4 * page)]),
    .init(
      "up to the very end of a region", [range(29 * page, 2 * page), range(30 * page, page + 100)],
      [.init(0, 29 * page, 2 * page), .init(0, 30 * page, 2 * page)]),
    .init(
      "no further than that", [range(29 * page, 2 * page), range(30 * page + 1, page + 100)],
      [.init(0, 29 * page, 2 * page), .init(0, 30 * page + 1, page + 100)]),
  ]

  @Test("the rest of the last page is added, if the same region has it", arguments: completed)
  func completesTheLastPage(_ item: ResolveCase) throws {
    let ram = try Self.layout()
    let resolved = try ram.memory.resolve(item.ranges, upTo: 4 * page, completing: 3 * page + 100)
    #expect(resolved.map { Expected($0, in: ram) } == item.expected)
  }

  /// A region that ends inside a page has no rest of it to lend, whatever its file has there.
  @Test("nothing behind the end of a region is added") func takesNothingFromBehindARegion() throws {
    let ram = try GuestRAM([
      .init(at: 0, length: page + 200), .init(at: 4 * page, length: page, offset: 4 * page),
    ])
    let resolved = try ram.memory.resolve([range(0, page + 100)], upTo: 2 * page, completing: page + 100)
    #expect(resolved.map { Expected($0, in: ram) } == [.init(0, 0, page + 100)])
  }

  static let errors: [ResolveErrorCase] = [
    .init("an empty range", [range(0, page), range(page, 0)], .emptyRange(item: 1)),
    .init("an empty range in a hole", [range(33 * page, 0)], .emptyRange(item: 0)),
    .init("a hole", [range(32 * page, page)], .hole(item: 0, GuestAddress(32 * page))),
    .init("the last byte in a hole", [range(31 * page, page + 1)], .hole(item: 0, GuestAddress(32 * page))),
    .init(
      "a hole at both ends filled", [range(31 * page, 10 * page)], .hole(item: 0, GuestAddress(32 * page))),
    .init("just below a region", [range(40 * page - 1, 2)], .hole(item: 0, GuestAddress(40 * page - 1))),
    .init(
      "past the end", [range(0, page), range(63 * page, 2 * page)], .hole(item: 1, GuestAddress(64 * page))),
    .init("far away", [range(1 << 50, 1)], .hole(item: 0, GuestAddress(1 << 50))),
    .init(
      "past the address space", [range(.max - 1, 3)], .overflow(item: 0, range(.max - 1, 3))),
    .init(
      "a length that wraps around to valid memory", [range(16 * page, .max - 8 * page)],
      .overflow(item: 0, range(16 * page, .max - 8 * page))),
    .init("up to the end of the address space", [range(0, .max)], .hole(item: 0, GuestAddress(32 * page))),
  ]

  @Test(
    "a list with an empty entry, a hole or an overflow is refused by the entry's number", arguments: errors)
  func refuses(_ item: ResolveErrorCase) throws {
    let ram = try Self.layout()
    #expect(throws: item.error) { try ram.memory.resolve(item.ranges) }
  }

  @Test("in an empty table every address is a hole") func anEmptyTableIsAHole() {
    #expect(throws: GuestMemoryError.hole(item: 0, GuestAddress(0))) {
      try GuestMemory().resolve([range(0, 1)])
    }
  }

  /// As many regions as a table may have, in one file but in the reverse order, so that none join.
  @Test("in a full table each region is found, and each gap between two is a hole")
  func findsItsWayAmongAllRegions() throws {
    let count = UInt64(GuestMemory.maxRegions)
    let ram = try GuestRAM(
      (0..<count).map { .init(at: 2 * $0 * page, length: page, offset: (count - 1 - $0) * page) })
    let memory = ram.memory
    #expect(memory.regions.count == 509)
    for index in 0..<count {
      let resolved = try memory.resolve([range(2 * index * page + 7, 9)]).map { Expected($0, in: ram) }
      #expect(resolved == [.init(0, (count - 1 - index) * page + 7, 9)])
      #expect(throws: GuestMemoryError.hole(item: 0, GuestAddress((2 * index + 1) * page))) {
        try memory.resolve([range((2 * index + 1) * page, 1)])
      }
    }
    // One list over all of them, in an order in which the next is never in the same or the next region.
    let scattered = (0..<count).map { ($0 * 100) % count }
    let resolved = try memory.resolve(scattered.map { range(2 * $0 * page, page) })
    #expect(resolved.map { count - 1 - $0.offset / page } == scattered)
  }

  @Test("one region more than the limit is refused") func oneRegionMoreIsTooMany() throws {
    let count = UInt64(GuestMemory.maxRegions) + 1
    let ram = try GuestRAM((0..<count).map { .init(at: 2 * $0 * page, length: page, offset: $0 * page) })
    let regions = try ram.blocks.map { try ram.region($0) }
    #expect(throws: GuestMemoryError.tooManyRegions(limit: 509)) { try GuestMemory(regions) }
    let full = try GuestMemory(Array(regions.dropLast()))
    #expect(throws: GuestMemoryError.tooManyRegions(limit: 509)) { try full.adding(regions.last!) }
  }
}
