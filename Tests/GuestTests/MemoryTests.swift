import Fixtures
import Guest
import Linux
import SystemPackage
import Testing

private let page: UInt64 = 4096

@Suite struct RegionTests {
  private func region(
    at address: UInt64, user: UInt64 = 0, offset: UInt64 = 0, length: UInt64, file: UInt64 = 4 * page
  ) throws -> MemoryRegion {
    let memfd = try Memfd.create(name: "region", size: file)
    return try MemoryRegion(
      guestAddress: GuestAddress(address), userAddress: user,
      backing: MemfdRange(memfd: memfd, offset: offset, length: length))
  }

  @Test("a region knows its end") func knowsItsEnd() throws {
    let region = try region(at: 0x1000, offset: page, length: 3 * page)
    #expect(region.end == 0x4000)
    #expect(region.length == 3 * page)
  }

  @Test("a region may begin inside a page of its file") func takesAnOffsetWithinAPage() throws {
    let ram = try GuestRAM([.init(at: 0x1000, length: 100, offset: 17)])
    ram.write([1, 2, 3], at: 0x1000)
    var bytes: [UInt8] = []
    try ram.memory.append(GuestRange(address: GuestAddress(0x1000), length: 3), to: &bytes)
    #expect(bytes == [1, 2, 3])
    #expect(try ram.memory.resolve([GuestRange(address: GuestAddress(0x1001), length: 1)])[0].offset == 18)
  }

  @Test("an empty region is refused") func refusesAnEmptyOne() {
    #expect(throws: GuestMemoryError.emptyRegion(GuestAddress(5))) { try region(at: 5, length: 0) }
  }

  @Test("a region that exceeds 64 bits is refused") func refusesOverflow() {
    let far = UInt64.max - 10
    for (guest, user, offset) in [(far, 0, 0), (0, far, 0), (0, 0, far)] as [(UInt64, UInt64, UInt64)] {
      #expect(throws: GuestMemoryError.regionOverflow(GuestAddress(guest), length: page)) {
        try region(at: guest, user: user, offset: offset, length: page)
      }
    }
  }

  @Test("a region that ends behind its file is refused") func refusesWhatIsBehindTheEndOfTheFile() {
    #expect(throws: GuestMemoryError.regionPastFile(GuestAddress(0), end: 4 * page + 1, size: 4 * page)) {
      try region(at: 0, offset: page, length: 3 * page + 1)
    }
    #expect(throws: GuestMemoryError.regionPastFile(GuestAddress(0), end: 9 * page, size: 4 * page)) {
      try region(at: 0, offset: 8 * page, length: page)
    }
  }

  @Test("a region of a file that cannot be mapped is refused") func refusesAFileThatCannotBeMapped() throws {
    let file = try Memfd.create(name: "region", size: page)
    let path = FilePath("/proc/self/fd/\(file.number)")
    let memfd = try Memfd(adopting: FD.open(path, writable: false))
    #expect(throws: GuestMemoryError.unmappable(GuestAddress(0), .permissionDenied)) {
      try MemoryRegion(
        guestAddress: GuestAddress(0), userAddress: 0, backing: MemfdRange(memfd: memfd, offset: 0, length: 1)
      )
    }
  }

  @Test("regions that overlap are refused") func refusesOverlap() throws {
    let memory = try GuestMemory([region(at: 0x1000, length: page), region(at: 0x3000, length: page)])
    for (address, with) in [(0x0001, 0x1000), (0x1fff, 0x1000), (0x2001, 0x3000)] as [(UInt64, UInt64)] {
      let (low, high) = (min(address, with), max(address, with))
      #expect(throws: GuestMemoryError.regionsOverlap(GuestAddress(low), GuestAddress(high))) {
        try memory.adding(region(at: address, length: page))
      }
    }
    #expect(try memory.adding(region(at: 0x2000, length: page)).regions.count == 3)
  }

  /// Of three files two are named, one of them by two of its regions.
  @Test("the files of some ranges are given out, each once, and no others") func givesOutTheFilesOfRanges()
    throws
  {
    var ram: GuestRAM? = try GuestRAM([
      .init(at: 0, length: page, offset: page), .init(at: page, length: page, offset: 3 * page),
      .init(at: 2 * page, length: page, file: 1), .init(at: 3 * page, length: page, file: 2, offset: 17),
    ])
    ram!.write([1], at: 0)
    ram!.write([2], at: 2 * page - 1)
    ram!.write([3], at: 3 * page + 5)
    weak let idle = ram!.files[1]
    let ranges = try ram!.memory.resolve(
      [(0, 1), (2 * page - 1, 1), (3 * page + 5, 1), (0, 1)].map {
        GuestRange(address: GuestAddress($0), length: $1)
      })
    let files = ram!.memory.files(of: ranges)
    ram = nil
    let windows = files.windows(of: ranges)
    #expect(windows.map(\.length) == [1, 1, 1, 1])
    #expect(windows.map { $0.mapping.load(UInt8.self, at: $0.start) } == [1, 2, 3, 1])
    #expect(idle == nil, "nothing else of the table is kept")
  }

  @Test("exactly one region is removed, and the old table stays as it was") func removesExactlyOneRegion()
    throws
  {
    let memory = try GuestMemory([
      region(at: 0x1000, user: 0x10, length: page), region(at: 0x3000, user: 0x20, length: page),
    ])
    let rest = try memory.removing(GuestAddress(0x1000), userAddress: 0x10, length: page)
    #expect(rest.regions.map(\.guestAddress) == [GuestAddress(0x3000)])
    #expect(memory.regions.count == 2, "a table is a value")
    for (address, user, length) in [
      (0x2000, 0x10, page), (0x1000, 0x20, page), (0x1000, 0x10, page - 1),
    ] as [(UInt64, UInt64, UInt64)] {
      #expect(throws: GuestMemoryError.noSuchRegion(GuestAddress(address))) {
        try memory.removing(GuestAddress(address), userAddress: user, length: length)
      }
    }
  }
}

@Suite struct AccessTests {
  @Test("a copy may go across two regions") func copiesAcrossRegions() throws {
    let ram = try GuestRAM([
      .init(at: 0, length: page), .init(at: page, length: page, file: 1), .init(at: 2 * page, length: page),
    ])
    let bytes = (0..<UInt8(200)).map { $0 }
    try unsafe ram.memory.store(bytes.span.bytes, at: GuestAddress(page - 100))
    #expect(ram.read(100, at: page - 100) == Array(bytes[..<100]))
    #expect(ram.read(100, at: page) == Array(bytes[100...]))
    var copy: [UInt8] = [99]
    try ram.memory.append(GuestRange(address: GuestAddress(page - 100), length: 200), to: &copy)
    #expect(copy == [99] + bytes)
  }

  @Test("a copy from or into a hole is refused") func refusesAHole() throws {
    let ram = try GuestRAM([.init(at: 0, length: page), .init(at: 2 * page, length: page, offset: page)])
    var copy: [UInt8] = []
    #expect(throws: GuestMemoryError.hole(item: 0, GuestAddress(page))) {
      try ram.memory.append(GuestRange(address: GuestAddress(page - 1), length: page), to: &copy)
    }
    let zeros = [UInt8](repeating: 0, count: 2)
    #expect(throws: GuestMemoryError.hole(item: 0, GuestAddress(3 * page))) {
      try unsafe ram.memory.store(zeros.span.bytes, at: GuestAddress(3 * page - 1))
    }
    let wrapping = GuestRange(address: GuestAddress(.max), length: 2)
    #expect(throws: GuestMemoryError.overflow(item: 0, wrapping)) {
      try ram.memory.append(wrapping, to: &copy)
    }
  }
}

@Suite struct WindowTests {
  private let base = GuestRAM.userBase

  @Test("a window lies where the front end has the address") func liesWhereTheFrontEndHasIt() throws {
    let ram = try GuestRAM.likeQEMU()
    ram.write([7, 8, 9], at: 0x1_0000_1234)
    let window = try ram.memory.window(userAddress: base + 0x1_0000_1234, length: 3)
    #expect(window.length == 3)
    #expect(window.mapping.bytes(at: window.start, count: 3) == [7, 8, 9])
  }

  @Test("a window reaches the last byte of its region, and no further") func reachesTheLastByteAndNoFurther()
    throws
  {
    let ram = try GuestRAM([.init(at: 0, length: page), .init(at: page, length: page, offset: page)])
    _ = try ram.memory.window(userAddress: base, length: Int(page))
    _ = try ram.memory.window(userAddress: base + 2 * page - 1, length: 1)
    for (address, length) in [
      (base - 1, 1), (base + 1, Int(page)), (base + page - 1, 2), (base + 2 * page, 1), (UInt64.max, 1),
      (0, 1),
    ] {
      #expect(throws: GuestMemoryError.hole(item: 0, GuestAddress(address)), "\(hex(address))+\(length)") {
        try ram.memory.window(userAddress: address, length: length)
      }
    }
  }

  @Test("a window keeps its mapping alive") func keepsItsMappingAlive() throws {
    var ram: GuestRAM? = try GuestRAM(size: 1 << 20)
    ram!.write([42], at: 5)
    let window = try ram!.memory.window(userAddress: base + 5, length: 1)
    ram = nil
    #expect(window.mapping.bytes(at: window.start, count: 1) == [42])
  }
}
