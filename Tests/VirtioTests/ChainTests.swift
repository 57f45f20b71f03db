import Fixtures
import Guest
import Testing
import Virtio

struct ChainCase: CustomTestStringConvertible {
  let testDescription: String
  fileprivate let readable: [GuestRange]
  fileprivate let writable: [GuestRange]
  fileprivate let indirect: Bool

  fileprivate init(_ name: String, _ readable: [GuestRange], _ writable: [GuestRange], indirect: Bool) {
    testDescription = name + (indirect ? ", indirect" : ", direct")
    self.readable = readable
    self.writable = writable
    self.indirect = indirect
  }
}

@Suite struct ChainTests {
  static let cases: [ChainCase] = [false, true].flatMap { indirect in
    [
      ChainCase("readable alone", [range(0x1000, 24)], [], indirect: indirect),
      ChainCase("writable alone", [], [range(0x1000, 24)], indirect: indirect),
      ChainCase("one of each", [range(0x1000, 24)], [range(0x2000, 408)], indirect: indirect),
      ChainCase(
        "as many as the queue has", (0..<4).map { range(0x1000 * $0, $0 + 1) },
        (4..<8).map { range(0x1000 * $0, $0 + 1) }, indirect: indirect),
      ChainCase("outside the guest's memory", [range(.max - 10, 100)], [], indirect: indirect),
      ChainCase(
        "as many bytes as there may be", [range(0, 0xffff_0000)], [range(0, 0xffff)], indirect: indirect),
    ]
  }

  @Test("a chain arrives as the driver wrote it", arguments: cases) func arrivesAsTheDriverWroteIt(
    _ item: ChainCase
  ) throws {
    let pair = try Pair()
    let head = pair.driver.add(readable: item.readable, writable: item.writable, indirect: item.indirect)
    #expect(try pair.queue.next(into: &pair.chain))
    #expect(pair.chain.head == head)
    #expect(pair.chain.readable == item.readable)
    #expect(pair.chain.writable == item.writable)
    #expect(pair.chain.readableLength == item.readable.reduce(0) { $0 + $1.length })
    #expect(pair.chain.writableLength == item.writable.reduce(0) { $0 + $1.length })
    #expect(try !pair.queue.next(into: &pair.chain))
    #expect(pair.chain.readable.isEmpty && pair.chain.writable.isEmpty)
  }

  @Test("a page list of thousands of entries arrives") func takesAPageListOfAnyLength() throws {
    let pair = try Pair(size: 4)
    let pages = (0..<8100).map { range(UInt64($0) * 0x3000, 0x1000) }
    pair.driver.add(readable: pages, writable: [range(0x1000, 24)], indirect: true)
    #expect(try pair.queue.next(into: &pair.chain))
    #expect(pair.chain.readable == pages)
  }

  @Test("the largest table is taken") func takesTheLargestTable() throws {
    let pair = try Pair(size: 4)
    let ranges = (0..<32768).map { range(UInt64($0) * 16, 1) }
    pair.driver.add(readable: ranges, writable: [], indirect: true)
    #expect(try pair.queue.next(into: &pair.chain))
    #expect(pair.chain.readable.count == 32768)
    #expect(pair.chain.readable.last == range(32767 * 16, 1))
  }

  /// virtio 1.3, 2.7.5.3.2: direct descriptors may come before the one that refers to a table, and WRITE on
  /// that one says nothing.
  @Test("direct descriptors may come before a table") func takesDirectDescriptorsBeforeATable() throws {
    let pair = try Pair()
    let table = pair.ram.allocate(32)
    DriverQueue.writeDescriptor(
      pair.ram, at: table, address: 0x2000, length: 2, flags: DriverQueue.next, next: 1)
    DriverQueue.writeDescriptor(
      pair.ram, at: table + 16, address: 0x3000, length: 3, flags: DriverQueue.write, next: 0)
    pair.driver.setDescriptor(0, address: 0x1000, length: 1, flags: DriverQueue.next, next: 5)
    pair.driver.setDescriptor(
      5, address: table, length: 32, flags: DriverQueue.indirect | DriverQueue.write)
    pair.driver.makeAvailable(0)
    #expect(try pair.queue.next(into: &pair.chain))
    #expect(pair.chain.readable == [range(0x1000, 1), range(0x2000, 2)])
    #expect(pair.chain.writable == [range(0x3000, 3)])
  }

  @Test("a table may lie across two regions") func readsATableThatLiesAcrossTwoRegions() throws {
    let ram = try GuestRAM([
      .init(at: 0, length: 0x1000), .init(at: 0x1000, length: 1 << 20, file: 1),
    ])
    let pair = try Pair(ram: ram)
    // The descriptor itself is cut by the border.
    for (index, byte) in (UInt64(0x5000).bytes + UInt32(9).bytes + [0, 0, 0, 0]).enumerated() {
      ram.write([byte], at: 0x1000 - 6 + UInt64(index))
    }
    pair.driver.setDescriptor(0, address: 0x1000 - 6, length: 16, flags: DriverQueue.indirect)
    pair.driver.makeAvailable(0)
    #expect(try pair.queue.next(into: &pair.chain))
    #expect(pair.chain.readable == [range(0x5000, 9)])
  }

  @Test("empty descriptors are left out", arguments: [false, true]) func leavesOutWhatIsEmpty(indirect: Bool)
    throws
  {
    let pair = try Pair()
    pair.driver.add(
      readable: [range(0x1000, 0), range(0x1000, 1), range(0x2000, 0)],
      writable: [range(0x3000, 0), range(0x3000, 3)], indirect: indirect)
    #expect(try pair.queue.next(into: &pair.chain))
    #expect(pair.chain.readable == [range(0x1000, 1)])
    #expect(pair.chain.writable == [range(0x3000, 3)])
  }

  @Test("a chain's arrays are used again for the next chains") func keepsTheArraysOfAChain() throws {
    let pair = try Pair()
    func places() -> [UInt] {
      unsafe [
        pair.chain.readable.withUnsafeBufferPointer { UInt(bitPattern: $0.baseAddress) },
        pair.chain.writable.withUnsafeBufferPointer { UInt(bitPattern: $0.baseAddress) },
      ]
    }
    func exchange(_ pieces: Int) throws {
      pair.driver.send(pattern(100), pieces: pieces, answer: 64, answerPieces: pieces)
      #expect(try pair.queue.next(into: &pair.chain))
      #expect(try pair.request() == pattern(100))
      try pair.answer([1])
      #expect(pair.driver.receive()?.bytes == [1])
    }
    try exchange(20)
    let first = places()
    for pieces in 1...20 {
      try exchange(pieces)
      #expect(places() == first)
    }
  }
}

/// One wrong chain: how the driver writes it into an empty queue of 8, and what it is.
struct BadChainCase: CustomTestStringConvertible, Sendable {
  let testDescription: String
  fileprivate let head: UInt16
  fileprivate let error: VirtQueueError
  fileprivate let write: @Sendable (DriverQueue) -> Void

  fileprivate init(
    _ name: String, head: UInt16 = 0, _ error: VirtQueueError,
    _ write: @escaping @Sendable (DriverQueue) -> Void
  ) {
    testDescription = name
    self.head = head
    self.error = error
    self.write = write
  }
}

@Suite struct BadChainTests {
  private static let next = DriverQueue.next
  private static let write = DriverQueue.write
  private static let indirect = DriverQueue.indirect

  /// Writes an indirect table at a fixed place and the descriptor 0 that refers to it.
  private static func table(
    _ driver: DriverQueue, _ entries: [(address: UInt64, length: UInt32, flags: UInt16, next: UInt16)]
  ) {
    let place: UInt64 = 0x20_0000
    for (index, entry) in entries.enumerated() {
      DriverQueue.writeDescriptor(
        driver.ram, at: place + 16 * UInt64(index), address: entry.address, length: entry.length,
        flags: entry.flags, next: entry.next)
    }
    driver.setDescriptor(0, address: place, length: UInt32(16 * entries.count), flags: indirect)
  }

  static let cases: [BadChainCase] = [
    .init("a descriptor that follows itself", .chainTooLong(head: 0, limit: 8)) {
      $0.setDescriptor(0, address: 0, length: 1, flags: next, next: 0)
    },
    .init("a loop of two, writable", head: 6, .chainTooLong(head: 6, limit: 8)) {
      $0.setDescriptor(6, address: 0, length: 1, flags: next | write, next: 7)
      $0.setDescriptor(7, address: 0, length: 1, flags: next | write, next: 6)
    },
    .init("a loop of empty descriptors", .chainTooLong(head: 0, limit: 8)) {
      $0.setDescriptor(0, address: 0, length: 0, flags: next, next: 0)
    },
    .init("a loop through all descriptors", .chainTooLong(head: 0, limit: 8)) { driver in
      for index in UInt16(0)..<8 {
        driver.setDescriptor(index, address: 0, length: 1, flags: next, next: (index + 1) % 8)
      }
    },
    .init("the next one just behind the table", .nextOutOfRange(head: 0, next: 8, limit: 8)) {
      $0.setDescriptor(0, address: 0, length: 1, flags: next, next: 8)
    },
    .init("the next one far behind the table", .nextOutOfRange(head: 0, next: 65535, limit: 8)) {
      $0.setDescriptor(0, address: 0, length: 1, flags: next, next: 65535)
    },
    .init("readable behind writable", .readableAfterWritable(head: 0)) {
      $0.setDescriptor(0, address: 0, length: 1, flags: next | write, next: 1)
      $0.setDescriptor(1, address: 0, length: 1, flags: 0)
    },
    .init("one byte too many in all", .chainTooLarge(head: 0, bytes: 1 << 32)) {
      $0.setDescriptor(0, address: 0, length: .max, flags: next, next: 1)
      $0.setDescriptor(1, address: 0, length: 1, flags: write)
    },
    .init("far too many bytes", .chainTooLarge(head: 0, bytes: 2 * UInt64(UInt32.max))) {
      $0.setDescriptor(0, address: 0, length: .max, flags: next, next: 0)
    },
    .init("INDIRECT with NEXT", .indirectWithNext(head: 0)) {
      table($0, [(0, 1, 0, 0)])
      $0.setDescriptor(0, address: 0x20_0000, length: 16, flags: indirect | next, next: 1)
    },
    .init("an empty table", .indirectLength(head: 0, length: 0)) {
      $0.setDescriptor(0, address: 0x20_0000, length: 0, flags: indirect)
    },
    .init("a table of 15 bytes", .indirectLength(head: 0, length: 15)) {
      $0.setDescriptor(0, address: 0x20_0000, length: 15, flags: indirect)
    },
    .init("a table of 17 bytes", .indirectLength(head: 0, length: 17)) {
      $0.setDescriptor(0, address: 0x20_0000, length: 17, flags: indirect)
    },
    .init("a table that is too long", .indirectTooLong(head: 0, entries: 32769, limit: 32768)) {
      $0.setDescriptor(0, address: 0x20_0000, length: 32769 * 16, flags: indirect)
    },
    .init(
      "the longest table that can be stated", .indirectTooLong(head: 0, entries: 0xfff_ffff, limit: 32768)
    ) { $0.setDescriptor(0, address: 0, length: 0xffff_fff0, flags: indirect) },
    .init(
      "a table outside the memory",
      .indirectUnreachable(head: 0, .hole(item: 0, GuestAddress(0x7000_0000)))
    ) { $0.setDescriptor(0, address: 0x7000_0000, length: 16, flags: indirect) },
    .init(
      "a table half outside the memory",
      .indirectUnreachable(head: 0, .hole(item: 0, GuestAddress(0x40_0000)))
    ) { $0.setDescriptor(0, address: 0x3f_fff0, length: 32, flags: indirect) },
    .init(
      "a table past the address space",
      .indirectUnreachable(head: 0, .overflow(item: 0, range(.max - 8, 16)))
    ) { $0.setDescriptor(0, address: .max - 8, length: 16, flags: indirect) },
    .init("a table in a table", .indirectNested(head: 0)) { table($0, [(0x20_0000, 16, indirect, 0)]) },
    .init("a table behind an entry of a table", .indirectNested(head: 0)) {
      table($0, [(0, 1, next, 1), (0x20_0000, 16, indirect, 0)])
    },
    .init("a loop in a table", .chainTooLong(head: 0, limit: 2)) {
      table($0, [(0, 1, next, 1), (0, 1, next, 0)])
    },
    .init("an entry that follows itself", .chainTooLong(head: 0, limit: 1)) { table($0, [(0, 1, next, 0)]) },
    .init("an entry behind the end of the table", .nextOutOfRange(head: 0, next: 2, limit: 2)) {
      table($0, [(0, 1, next, 1), (0, 1, next, 2)])
    },
    .init("readable behind writable in a table", .readableAfterWritable(head: 0)) {
      table($0, [(0, 1, next | write, 1), (0, 1, 0, 0)])
    },
    .init("readable in a table behind direct writable", head: 1, .readableAfterWritable(head: 1)) {
      table($0, [(0, 1, 0, 0)])
      $0.setDescriptor(1, address: 0, length: 1, flags: next | write, next: 0)
    },
    .init("too many bytes in a table", .chainTooLarge(head: 0, bytes: 1 << 32)) {
      table($0, [(0, .max, next, 1), (0, 1, 0, 0)])
    },
    .init("too many bytes in both parts", head: 1, .chainTooLarge(head: 1, bytes: 1 << 32)) {
      table($0, [(0, 1, 0, 0)])
      $0.setDescriptor(1, address: 0, length: .max, flags: next, next: 0)
    },
  ]

  /// The wrong chain is taken and named, can be given back, and the queue goes on.
  @Test("a wrong chain is named, and the queue goes on", arguments: cases, [false, true])
  func concernsOneChain(_ item: BadChainCase, eventIndex: Bool) throws {
    let pair = try Pair(eventIndex: eventIndex)
    item.write(pair.driver)
    pair.driver.makeAvailable(item.head)
    #expect(throws: item.error) { try pair.queue.next(into: &pair.chain) }
    #expect(!item.error.breaksRing)
    #expect(!pair.queue.isBroken)
    #expect(pair.chain.head == item.head)
    pair.queue.complete(head: pair.chain.head, written: 0)
    let used = try #require(pair.driver.nextUsed())
    #expect(used == (item.head, 0))

    pair.driver.setDescriptor(3, address: 0x5000, length: 5, flags: 0)
    pair.driver.makeAvailable(3)
    #expect(try pair.queue.next(into: &pair.chain))
    #expect(pair.chain.head == 3)
    #expect(pair.chain.readable == [range(0x5000, 5)])
    #expect(pair.chain.writable.isEmpty)
  }

  /// A driver that did not choose indirect tables has none.
  @Test("an indirect table that was not negotiated is refused") func refusesATableThatWasNotNegotiated()
    throws
  {
    let pair = try Pair(indirect: false)
    let head = pair.driver.add(readable: [range(0x1000, 8)], writable: [], indirect: true)
    #expect(throws: VirtQueueError.indirectNotNegotiated(head: head)) {
      try pair.queue.next(into: &pair.chain)
    }
    #expect(!pair.queue.isBroken && pair.chain.head == head)
    pair.queue.complete(head: head, written: 0)
    pair.driver.add(readable: [range(0x1000, 8)], writable: [], indirect: false)
    #expect(try pair.queue.next(into: &pair.chain))
    #expect(pair.chain.readable == [range(0x1000, 8)])
  }

  @Test("the error of a wrong chain names its first descriptor", arguments: cases) func saysWhatIsWrong(
    _ item: BadChainCase
  ) {
    let text = "\(item.error)"
    #expect(text.contains("descriptor \(item.head)"))
    #expect(!text.contains("VirtQueueError"))
  }
}
