import Fixtures
import Guest
import Testing
import Virtio

@Suite struct ReaderTests {
  @Test("a chain is read over any number of descriptors", arguments: [1, 2, 3, 7, 64])
  func readsOverAnyNumberOfDescriptors(pieces: Int) throws {
    let pair = try Pair(size: 64)
    pair.driver.send(pattern(1000), pieces: pieces, answer: 0, indirect: false)
    #expect(try pair.queue.next(into: &pair.chain))
    #expect(pair.chain.readable.count == pieces)
    var reader = ChainReader(pair.chain, pair.ram.memory)
    var bytes: [UInt8] = []
    var left = 1000
    // Steps that fall on borders of descriptors and beside them.
    for step in [0, 1, 24, 125, 350, 499, 1, 0] {
      #expect(reader.remaining == UInt64(left))
      try reader.read(step, into: &bytes)
      left -= step
    }
    #expect(reader.remaining == 0)
    #expect(bytes == pattern(1000))
  }

  @Test("a chain is read over two regions") func readsOverTwoRegions() throws {
    let ram = try GuestRAM([.init(at: 0, length: 0x1000), .init(at: 0x1000, length: 0x1000, file: 1)])
    ram.write([1, 2], at: 0xffe)
    ram.write([3, 4], at: 0x1000)
    var reader = ChainReader([range(0xffe, 4)], ram.memory)
    var bytes: [UInt8] = []
    try reader.read(4, into: &bytes)
    #expect(bytes == [1, 2, 3, 4])
  }

  @Test("nothing is read past the end of a chain") func readsNothingPastTheEnd() throws {
    let ram = try GuestRAM(size: 0x2000)
    var reader = ChainReader([range(0, 3), range(0, 4)], ram.memory)
    var bytes: [UInt8] = []
    for count in [8, 1000, Int.max] {
      #expect(throws: VirtQueueError.readPastEnd(count: count, left: 7)) {
        try reader.read(count, into: &bytes)
      }
    }
    #expect(throws: VirtQueueError.readPastEnd(count: -1, left: 7)) { try reader.read(-1, into: &bytes) }
    #expect(bytes.isEmpty)
    try reader.read(7, into: &bytes)
    #expect(bytes.count == 7)
    #expect(throws: VirtQueueError.readPastEnd(count: 1, left: 0)) { try reader.read(1, into: &bytes) }
  }

  @Test("memory that the guest does not have is refused") func refusesMemoryThatIsNotThere() throws {
    let ram = try GuestRAM(size: 0x1000)
    var bytes: [UInt8] = []
    var outside = ChainReader([range(0, 4), range(0x1000, 4)], ram.memory)
    #expect(throws: VirtQueueError.memory(.hole(item: 0, GuestAddress(0x1000)))) {
      try outside.read(8, into: &bytes)
    }
    #expect(bytes.count == 4)
    var wrapping = ChainReader([range(.max - 1, 8)], ram.memory)
    #expect(throws: VirtQueueError.self) { try wrapping.read(1, into: &bytes) }
    #expect(throws: VirtQueueError.self) { try wrapping.read(4, into: &bytes) }
    #expect(bytes.count == 4)
  }

  @Test("a list whose lengths add up to more than 64 bits can be read")
  func survivesAListThatAddsUpToMoreThanANumberHolds() throws {
    let ram = try GuestRAM(size: 0x1000)
    var reader = ChainReader([range(0, .max), range(0, .max)], ram.memory)
    #expect(reader.remaining == .max)
    var bytes: [UInt8] = []
    try reader.read(10, into: &bytes)
    #expect(bytes.count == 10)
  }
}

@Suite struct WriterTests {
  @Test("a chain is written over any number of descriptors", arguments: [1, 2, 5, 60])
  func writesOverAnyNumberOfDescriptors(pieces: Int) throws {
    let pair = try Pair(size: 64)
    pair.driver.send([1], answer: 600, answerPieces: pieces)
    #expect(try pair.queue.next(into: &pair.chain))
    var writer = ChainWriter(pair.chain, pair.ram.memory)
    let bytes = pattern(500)
    for (from, to) in [(0, 0), (0, 24), (24, 25), (25, 300), (300, 500)] {
      unsafe try writer.write(bytes.span.bytes.extracting(from..<to))
      #expect(writer.written == UInt32(to))
    }
    #expect(writer.remaining == 100)
    pair.queue.complete(head: pair.chain.head, written: writer.written)
    let answer = try #require(pair.driver.receive())
    #expect(answer.written == 500)
    #expect(answer.bytes == bytes)
  }

  @Test("nothing is written past the end of a chain") func writesNothingPastTheEnd() throws {
    let ram = try GuestRAM(size: 0x1000)
    var writer = ChainWriter([range(0x10, 3), range(0x20, 4)], ram.memory)
    let bytes = pattern(8)
    #expect(throws: VirtQueueError.writePastEnd(count: 8, left: 7)) {
      unsafe try writer.write(bytes.span.bytes)
    }
    #expect(writer.written == 0)
    #expect(ram.read(0x40, at: 0) == [UInt8](repeating: 0, count: 0x40))
  }

  @Test("the bytes written before a hole are counted") func countsWhatArrivedBeforeAHole() throws {
    let ram = try GuestRAM(size: 0x1000)
    var writer = ChainWriter([range(0, 4), range(0x1000, 4)], ram.memory)
    let bytes = pattern(8)
    #expect(throws: VirtQueueError.memory(.hole(item: 0, GuestAddress(0x1000)))) {
      unsafe try writer.write(bytes.span.bytes)
    }
    #expect(writer.written == 4)
  }
}
