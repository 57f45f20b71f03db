import Fixtures
import Guest
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

@testable import Buffers

private let page = systemPageSize

private func quotas(
  resources: Int = 1024, pinned: UInt64 = 1 << 32, entries: Int = 16384, bookkeeping: UInt64 = 64 << 20
) -> Quotas {
  var quotas = Quotas()
  (quotas.resources, quotas.pinnedBytes) = (resources, pinned)
  (quotas.entries, quotas.bookkeepingBytes) = (entries, bookkeeping)
  return quotas
}

private func range(_ address: UInt64, _ length: UInt64) -> GuestRange {
  GuestRange(address: GuestAddress(address), length: length)
}

/// What needs no device: every check comes before it is asked for.
@Suite struct LenderTests {
  private func lender(_ quotas: Quotas = Quotas()) -> Lender {
    Lender(device: .failure(.noSuchFileOrDirectory), account: GuestAccount(quotas))
  }

  @Test(
    "as many resources exist at once as the quota allows, and one more is refused", arguments: [1, 2, 1024])
  func resources(_ limit: Int) throws {
    let lender = lender(quotas(resources: limit))
    for _ in 0..<limit { try lender.account.admitResource() }
    let full = LendError.quota(.resources, needed: UInt64(limit) + 1, limit: UInt64(limit))
    for _ in 0..<3 { #expect(throws: full) { try lender.account.admitResource() } }
    #expect(lender.statistics.liveResources == UInt64(limit))
    lender.account.dismissResource()
    #expect(lender.statistics.liveResources == UInt64(limit) - 1)
    try lender.account.admitResource()
    #expect(throws: full) { try lender.account.admitResource() }
  }

  @Test("each resource counts as bookkeeping") func resourcesCountAsBookkeeping() throws {
    let lender = lender(quotas(bookkeeping: 2048))
    try lender.account.admitResource()
    try lender.account.admitResource()
    #expect(throws: LendError.quota(.bookkeepingBytes, needed: 3072, limit: 2048)) {
      try lender.account.admitResource()
    }
    #expect(lender.statistics.liveResources == 2)
    lender.account.dismissResource()
    try lender.account.admitResource()
  }

  @Test(
    "a page list within the quota of entries is admitted",
    arguments: [(0, 0), (1, 1), (16384, 16384)] as [(UInt64, Int)]) func entriesWithin(
      _ count: UInt64, _ limit: Int
    ) throws
  {
    try lender(quotas(entries: limit)).account.checkEntries(count)
  }

  @Test(
    "a page list beyond the quota of entries is refused",
    arguments: [(1, 0), (2, 1), (16385, 16384), (UInt64(UInt32.max), 16384), (.max, 16384)] as [(UInt64, Int)]
  )
  func entriesBeyond(_ count: UInt64, _ limit: Int) {
    #expect(throws: LendError.quota(.entries, needed: count, limit: UInt64(limit))) {
      try lender(quotas(entries: limit)).account.checkEntries(count)
    }
  }

  struct Case: CustomTestStringConvertible {
    let testDescription: String
    let ranges: [GuestRange]
    let length: UInt64
    let error: LendError
    init(_ name: String, _ ranges: [GuestRange], _ length: UInt64, _ error: LendError) {
      (testDescription, self.ranges, self.length, self.error) = (name, ranges, length, error)
    }
  }

  static let item = UInt64(MemoryLayout<MemfdRange>.stride)

  /// The RAM has 64 pages at 0. The quotas are 8 pages and two items.
  static let refused: [Case] = [
    Case("a hole", [range(64 * page, page)], page, .memory(.hole(item: 0, GuestAddress(64 * page)))),
    Case("an empty range", [range(0, page), range(0, 0)], page, .memory(.emptyRange(item: 1))),
    Case("an overflow", [range(.max, 2)], page, .memory(.overflow(item: 0, range(.max, 2)))),
    Case("no ranges", [], page, .short(bytes: 0, needed: page)),
    Case("one byte short", [range(0, 2 * page - 1)], 2 * page, .short(bytes: 2 * page - 1, needed: 2 * page)),
    Case(
      "short inside the last page", [range(0, page + 1)], page + 2, .short(bytes: page + 1, needed: page + 2)),
    Case("a page short", [range(0, page)], page + 1, .short(bytes: page, needed: page + 1)),
    // The rest of the last page is taken along, and counts.
    Case("up to inside the last page", [range(0, page + 1)], page + 1, .noDevice(.noSuchFileOrDirectory)),
    Case(
      "up to inside the ninth page", [range(0, 8 * page + 1)], 8 * page + 1,
      .quota(.pinnedBytes, needed: 9 * page, limit: 8 * page)),
    Case(
      "nine pages", [range(0, 9 * page)], 9 * page,
      .quota(.pinnedBytes, needed: 9 * page, limit: 8 * page)),
    Case(
      "a byte more than eight pages", [range(0, 9 * page)], 8 * page + 1,
      .quota(.pinnedBytes, needed: 9 * page, limit: 8 * page)),
    Case(
      "three items", [range(0, page), range(2 * page, page), range(4 * page, page)], 3 * page,
      .quota(.bookkeepingBytes, needed: 3 * item, limit: 2 * item)),
    // What is not needed is not counted: the next thing is the device.
    Case(
      "nine pages of which eight are needed", [range(0, 9 * page)], 8 * page,
      .noDevice(.noSuchFileOrDirectory)),
    Case(
      "three items of which two are needed", [range(0, page), range(2 * page, page), range(4 * page, page)],
      2 * page, .noDevice(.noSuchFileOrDirectory)),
    Case(
      "three ranges that join", [range(0, page), range(page, page), range(2 * page, page)], 3 * page,
      .noDevice(.noSuchFileOrDirectory)),
    Case("one byte", [range(5 * page, page)], 1, .noDevice(.noSuchFileOrDirectory)),
  ]

  @Test(
    "a list that cannot be lent is refused with its reason, and leaves no trace in the counts",
    arguments: refused) func refuses(_ item: Case) throws
  {
    let lender = lender(quotas(pinned: 8 * page, bookkeeping: 2 * Self.item))
    let memory = try GuestRAM(size: 64 * page).memory
    for _ in 0..<2 {
      #expect(throws: item.error) { try lender.lend(item.ranges, of: memory, length: item.length) }
      #expect(lender.statistics == Statistics(), "what is refused leaves no trace")
    }
  }

  /// A buffer that was made elsewhere; nothing is shown in this test.
  private func buffer(pages: UInt64, items: Int, entries: Int) throws -> Buffer {
    let memfd = try Memfd.create(name: "buffer", size: pages * page)
    let dmabuf = try DMABuf(adopting: memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() })
    let one = MemfdRange(memfd: memfd, offset: 0, length: page)
    var ranges = Array(repeating: one, count: items)
    ranges[0].length = (pages - UInt64(items) + 1) * page
    let region = try MemoryRegion(
      guestAddress: GuestAddress(0), userAddress: 0,
      backing: MemfdRange(memfd: memfd, offset: 0, length: pages * page))
    return Buffer(ranges: ranges, of: try GuestMemory([region]), entries: entries, backing: .lent(dmabuf))
  }

  @Test("a buffer counts as lent once, however often it is shown") func shownBuffersAreCountedOnce() throws {
    let lender = lender()
    let (a, b) = (try buffer(pages: 3, items: 2, entries: 3), try buffer(pages: 5, items: 1, entries: 4))
    for _ in 0..<3 { lender.countShown(a) }
    #expect(lender.statistics.buffersLent == 1 && lender.statistics.entriesReported == 3)
    #expect(lender.statistics.itemsJoined == 2 && lender.statistics.pagesLent == 3)
    lender.countShown(b)
    lender.countShown(a)
    var expected = Statistics()
    (expected.buffersLent, expected.entriesReported, expected.itemsJoined) = (2, 7, 3)
    (expected.pagesLent, expected.bytesLent) = (8, 8 * page)
    #expect(lender.statistics == expected)
  }

  static let errors: [(LendError, ShadowCause.Name?, [String])] = [
    (.memory(.hole(item: 3, GuestAddress(0xb000))), nil, ["entry 3", "0xb000"]),
    (.short(bytes: 1, needed: 2), .shortBacking, ["1", "2"]),
    (.unaligned(.offsetMisaligned(item: 1, offset: 5)), .unalignedEntry, ["item 1", "0x5", "\(page)"]),
    (.udmabuf(.tooManyItems(count: 5, limit: 4)), .listLimit, ["list_limit", "5", "4", "echo 8"]),
    (
      .udmabuf(.tooManyBytes(bytes: 65 << 20, limit: 64 << 20)), .sizeLimit,
      ["size_limit_mb", "64", "echo 66"]
    ),
    (.udmabuf(.notMemfd(item: 0)), .notSealedMemfd, ["memory-backend-memfd"]),
    (.udmabuf(.sealMissing(item: 0, seals: [])), .notSealedMemfd, ["F_SEAL_SHRINK", "seal=on"]),
    (.udmabuf(.sealForbidden(item: 0, seals: .write)), .notSealedMemfd, ["WRITE"]),
    (.udmabuf(.kernel(.noMemory)), .udmabuf, ["kernel"]),
    (.noDevice(.noSuchFileOrDirectory), .noDevice, ["/dev/udmabuf", "CONFIG_UDMABUF"]),
    (.noDevice(.permissionDenied), .noPermission, ["/dev/udmabuf", "kvm"]),
    (.quota(.resources, needed: 5, limit: 4), nil, ["5", "4 resources"]),
    (.quota(.pinnedBytes, needed: 5, limit: 4), nil, ["5", "4 pinned bytes"]),
    (.quota(.entries, needed: 5, limit: 4), nil, ["5", "4 entries"]),
    (.quota(.bookkeepingBytes, needed: 5, limit: 4), nil, ["5", "4 bytes"]),
  ]

  @Test("an error of lending has its cause, and names its values or the remedy", arguments: errors)
  func errorsSayWhatToDo(
    _ error: LendError, _ cause: ShadowCause.Name?, _ words: [String]
  ) {
    #expect(error.cause == cause)
    for word in words { #expect(error.description.contains(word), "\(error)") }
  }
}

/// What the device makes of it.
@Suite(.testHost, .serialized) struct LendTests {
  private let ram: GuestRAM
  init() throws { ram = try GuestRAM(size: 64 * page) }

  private func lender(_ quotas: Quotas = Quotas()) throws -> Lender {
    Lender(device: .success(try UdmabufDevice()), account: GuestAccount(quotas))
  }

  private func lend(_ lender: Lender, _ ranges: [GuestRange], _ length: UInt64) throws -> Buffer {
    try lender.lend(ranges, of: ram.memory, length: length)
  }

  @Test("only the pages that the image needs are lent") func trimsToTheImage() throws {
    let lender = try lender()
    for (ranges, length, expected) in [
      ([range(0, 8 * page)], 3 * page, [(0, 3)]), ([range(0, 8 * page)], 2 * page + 1, [(0, 3)]),
      ([range(4 * page, 2 * page), range(0, page), range(9 * page, page)], 3 * page, [(4, 2), (0, 1)]),
      ([range(4 * page, page), range(0, 50 * page)], 2 * page, [(4, 1), (0, 1)]),
      ([range(4 * page, page), range(0, page)], page, [(4, 1)]), ([range(7 * page, page)], 1, [(7, 1)]),
      ([range(7 * page, 1)], 1, [(7, 1)]), ([range(0, 2 * page + 16)], 2 * page + 16, [(0, 3)]),
      ([range(8 * page, page), range(2 * page, 24)], page + 24, [(8, 1), (2, 1)]),
    ] as [([GuestRange], UInt64, [(UInt64, UInt64)])] {
      let buffer = try lend(lender, ranges, length)
      #expect(buffer.ranges.map { $0.offset / page } == expected.map(\.0))
      #expect(buffer.ranges.map { $0.length / page } == expected.map(\.1))
      #expect(buffer.size == expected.map(\.1).reduce(0, +) * page && buffer.entries == ranges.count)
      #expect(lender.statistics.pinnedBytes == buffer.size && lender.statistics.liveDMABufs == 1)
      lender.dismiss(buffer)
      #expect(lender.statistics == Statistics())
    }
  }

  @Test("the quotas count the buffers that exist, and no earlier ones") func quotasCountWhatLives() throws {
    let item = UInt64(MemoryLayout<MemfdRange>.stride)
    let lender = try lender(quotas(pinned: 8 * page, bookkeeping: 3 * item))
    let a = try lend(lender, [range(0, 5 * page)], 5 * page)
    #expect(throws: LendError.quota(.pinnedBytes, needed: 9 * page, limit: 8 * page)) {
      try lend(lender, [range(0, 4 * page)], 4 * page)
    }
    let b = try lend(lender, [range(0, page), range(2 * page, page)], 2 * page)
    #expect(throws: LendError.quota(.bookkeepingBytes, needed: 4 * item, limit: 3 * item)) {
      try lend(lender, [range(0, page)], page)
    }
    lender.dismiss(b)
    _ = try lend(lender, [range(0, 3 * page)], 3 * page)
    lender.dismiss(a)
    _ = try lend(lender, [range(0, 5 * page)], 5 * page)
    #expect(lender.statistics.liveDMABufs == 2 && lender.statistics.pinnedBytes == 8 * page)
    #expect(lender.statistics.buffersLent == 0)
  }

  @Test(
    "a list that does not begin or end at pages is refused",
    arguments: [
      ([range(16, 2 * page)], page, LendError.unaligned(.offsetMisaligned(item: 0, offset: 16))),
      (
        [range(0, page + 16), range(4 * page, 2 * page)], 2 * page,
        .unaligned(.lengthMisaligned(item: 0, length: page + 16))
      ),
      (
        [range(0, page), range(4 * page + 8, 2 * page)], 2 * page,
        .unaligned(.offsetMisaligned(item: 1, offset: 4 * page + 8))
      ),
      // An entry that ends inside a page must be the last one, and begin at a page.
      (
        [range(0, 16), range(4 * page, page)], page + 16,
        .unaligned(.lengthMisaligned(item: 0, length: 16))
      ),
      ([range(16, page + 16)], page + 16, .unaligned(.offsetMisaligned(item: 0, offset: 16))),
    ] as [([GuestRange], UInt64, LendError)])
  func unaligned(_ ranges: [GuestRange], _ length: UInt64, _ error: LendError) throws {
    let lender = try lender()
    #expect(throws: error) { try lend(lender, ranges, length) }
    #expect(lender.statistics == Statistics())
    // A lender that refused goes on.
    lender.dismiss(try lend(lender, [range(0, page)], page))
  }

  @Test("the dma-buf closes with its buffer") func theDMABufClosesWithTheBuffer() throws {
    let lender = try lender()
    weak var dmabuf: DMABuf?
    do {
      let buffer = try lend(lender, [range(0, page)], page)
      dmabuf = buffer.dmabuf
      #expect(dmabuf != nil)
      lender.dismiss(buffer)
    }
    #expect(dmabuf == nil)
  }

  // MARK: What the kernel has no room for

  /// The kernel allocates no list of so many pages.
  @Test("a list that is too long for the kernel to allocate is copied, or refused if it must be lent")
  func noMemoryForTheList() throws {
    let bytes: UInt64 = 2 << 40
    let ram = try GuestRAM(size: bytes)
    try TestHost.withUdmabufLimits(megabytes: 4 << 20) {
      let lender = try lender(quotas(pinned: 4 << 40))
      let memory = LendError.udmabuf(.kernel(.noMemory))
      #expect(throws: memory) { try lender.lend([range(0, bytes)], of: ram.memory, length: bytes) }
      let buffer = try lender.take([range(0, bytes)], of: ram.memory, length: bytes, as: .auto)
      guard case .shadow(let cause) = buffer.backing else { throw TroubleInTest("it was lent") }
      #expect(cause.name == .udmabuf && cause.message == memory.description)
      #expect(lender.statistics.liveDMABufs == 0 && lender.statistics.pinnedBytes == 0)
      lender.dismiss(buffer)
    }
  }

  /// The last descriptors are not lent with, and one that is free again is.
  @Test("the reserved descriptors are not used for buffers, and a descriptor that is free again is")
  func noDescriptorsToSpare() throws {
    let first = try self.lender()
    let place = try lend(first, [range(0, page)], page)
    var number = 0
    while place.dmabuf?.withDescriptor({ $0.isBelow(number) }) == false { number += 1 }
    first.dismiss(place)
    var quotas = Quotas()
    // Below the number that the dma-buf had, which is free once it has closed.
    quotas.descriptors = number - 1 + Quotas.reservedDescriptors
    let lender = try self.lender(quotas)
    let buffer = try lender.take([range(0, page)], of: ram.memory, length: page, as: .auto)
    guard case .shadow(let cause) = buffer.backing else { throw TroubleInTest("it was lent") }
    #expect(cause.name == .descriptorLimit && cause.mayPass)
    #expect(cause.message.contains("this process may have \(quotas.descriptors) open (RLIMIT_NOFILE)"))
    #expect(!lender.lendAgain(buffer) && lender.statistics.liveDMABufs == 0)
    #expect(throws: LendError.descriptors(limit: quotas.descriptors)) {
      try lend(lender, [range(0, page)], page)
    }
    lender.dismiss(buffer)
  }
}

extension Lender {
  /// All that it says.
  fileprivate var statistics: Statistics {
    var statistics = Statistics()
    report(into: &statistics)
    return statistics
  }
}
