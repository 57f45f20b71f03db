import Fixtures
import Guest
import Testing
import Virtio

@Suite struct SetUpTests {
  @Test(
    "a size that is not a power of two up to 32768 is refused",
    arguments: [0, 3, 6, 100, 32769, 65535] as [UInt16]) func refusesASize(_ size: UInt16) throws
  {
    let pair = try Pair()
    #expect(throws: VirtQueueError.size(size)) {
      try VirtQueue(
        size: size, rings: pair.driver.rings, memory: pair.ram.memory, eventIndex: true, start: 0)
    }
  }

  @Test(
    "a queue of 1, 2, 64 or 32768 descriptors takes and completes chains",
    arguments: [1, 2, 64, 32768] as [UInt16]) func takesASize(
      _ size: UInt16
    ) throws
  {
    let pair = try Pair(size: size)
    for count in UInt16(1)...3 {
      pair.driver.send([UInt8(count)], answer: 1)
      #expect(try pair.queue.next(into: &pair.chain))
      #expect(try pair.request() == [UInt8(count)])
      try pair.answer([UInt8(count) + 10])
      #expect(pair.driver.receive()?.bytes == [UInt8(count) + 10])
      #expect(pair.queue.position == count)
    }
  }

  /// The event fields at the end of the rings are needed only with the event index.
  @Test("the rings must be wholly in their windows", arguments: [false, true]) func demandsTheWholeRings(
    eventIndex: Bool
  ) throws {
    let pair = try Pair(size: 8)
    let tail = eventIndex ? 2 : 0
    let needed = [128, 20 + tail, 68 + tail]
    func window(_ address: UInt64, _ length: Int) throws -> GuestWindow {
      try pair.ram.memory.window(userAddress: GuestRAM.userBase + address, length: length)
    }
    func make(_ lengths: [Int]) throws -> VirtQueue {
      let rings = RingWindows(
        descriptors: try window(pair.driver.descriptors, lengths[0]),
        available: try window(pair.driver.available, lengths[1]),
        used: try window(pair.driver.used, lengths[2]))
      return try VirtQueue(size: 8, rings: rings, memory: pair.ram.memory, eventIndex: eventIndex, start: 0)
    }
    _ = try make(needed)
    for (index, part) in [RingPart.descriptors, .available, .used].enumerated() {
      var lengths = needed
      lengths[index] -= 1
      #expect(throws: VirtQueueError.ringTooShort(part, length: lengths[index], needed: needed[index])) {
        try make(lengths)
      }
    }
  }

  @Test("each part of the ring must be aligned") func demandsAlignment() throws {
    let pair = try Pair(size: 8)
    func make(_ skips: [UInt64]) throws -> VirtQueue {
      func window(_ index: Int, _ address: UInt64) throws -> GuestWindow {
        try pair.ram.memory.window(userAddress: GuestRAM.userBase + address + skips[index], length: 256)
      }
      let rings = RingWindows(
        descriptors: try window(0, 0x1000), available: try window(1, 0x2000), used: try window(2, 0x3000))
      return try VirtQueue(size: 8, rings: rings, memory: pair.ram.memory, eventIndex: true, start: 0)
    }
    _ = try make([16, 2, 4])
    #expect(throws: VirtQueueError.ringMisaligned(.descriptors, alignment: 16)) { try make([8, 0, 0]) }
    #expect(throws: VirtQueueError.ringMisaligned(.available, alignment: 2)) { try make([0, 1, 0]) }
    #expect(throws: VirtQueueError.ringMisaligned(.used, alignment: 4)) { try make([0, 0, 2]) }
  }

  /// A file offset that is not page-aligned moves the address of a ring, too.
  @Test("a file's offset counts for the alignment of a ring") func sumsTheOffsetOfTheFile() throws {
    let ram = try GuestRAM([.init(at: 0, length: 1 << 16, offset: 1)])
    let window = try ram.memory.window(userAddress: GuestRAM.userBase, length: 1024)
    #expect(throws: VirtQueueError.ringMisaligned(.descriptors, alignment: 16)) {
      try VirtQueue(
        size: 8, rings: RingWindows(descriptors: window, available: window, used: window),
        memory: ram.memory, eventIndex: true, start: 0)
    }
  }
}

@Suite struct RingTests {
  /// What is said once is enough: a loop over `next` ends.
  private func expectBroken(_ pair: Pair, _ error: VirtQueueError) throws {
    let position = pair.queue.position
    #expect(throws: error) { try pair.queue.next(into: &pair.chain) }
    #expect(error.breaksRing)
    #expect(pair.queue.isBroken)
    #expect(try !pair.queue.next(into: &pair.chain))
    #expect(pair.queue.position == position)
    #expect(!pair.queue.resumeKicks())
  }

  @Test("an index too far ahead breaks the ring", arguments: [0, 1, 65535] as [UInt16])
  func refusesAnIndexTooFarAhead(start: UInt16) throws {
    let pair = try Pair(size: 8, start: start)
    pair.driver.setAvailableIndex(start &+ 9)
    try expectBroken(pair, .indexAhead(by: 9, size: 8))
  }

  @Test("an index that goes back breaks the ring") func refusesAnIndexThatGoesBack() throws {
    let pair = try Pair(size: 8, start: 100)
    pair.driver.setAvailableIndex(99)
    try expectBroken(pair, .indexAhead(by: 65535, size: 8))
  }

  @Test("a head outside the queue breaks the ring", arguments: [8, 9, 65535] as [UInt16]) func refusesAHead(
    _ head: UInt16
  ) throws {
    let pair = try Pair(size: 8)
    pair.driver.makeAvailable(head)
    try expectBroken(pair, .headOutOfRange(head, size: 8))
  }

  @Test("a full queue is taken") func takesAFullQueue() throws {
    let pair = try Pair(size: 8)
    for byte in UInt8(0)..<8 { pair.driver.send([byte], answer: 1) }
    for byte in UInt8(0)..<8 {
      #expect(try pair.queue.next(into: &pair.chain))
      #expect(try pair.request() == [byte])
    }
    #expect(try !pair.queue.next(into: &pair.chain))
  }

  /// Completions in another order, with the length that each was given.
  @Test("chains are completed in any order, with their lengths") func completesInAnyOrder() throws {
    let pair = try Pair(size: 8)
    for byte in UInt8(0)..<4 { pair.driver.send([byte], answer: 16) }
    var heads: [UInt16] = []
    while try pair.queue.next(into: &pair.chain) { heads.append(pair.chain.head) }
    for index in [2, 0, 3, 1] { pair.queue.complete(head: heads[index], written: UInt32(index) + 1) }
    for index in [2, 0, 3, 1] {
      let used = try #require(pair.driver.nextUsed())
      #expect(used == (heads[index], UInt32(index) + 1))
    }
    #expect(pair.driver.nextUsed() == nil)
  }

  /// An answer needs no more than the head and a copy of the writable ranges.
  @Test("a chain can be completed long after it was taken") func completesLongAfter() throws {
    let pair = try Pair(size: 8)
    pair.driver.send([1], answer: 8, answerPieces: 3)
    #expect(try pair.queue.next(into: &pair.chain))
    let (head, writable) = (pair.chain.head, pair.chain.writable)
    for byte in UInt8(2)..<50 {
      pair.driver.send([byte], answer: 1)
      #expect(try pair.queue.next(into: &pair.chain))
      try pair.answer([byte])
      #expect(pair.driver.receive()?.bytes == [byte])
    }
    var writer = ChainWriter(writable, pair.queue.memory)
    let answer = pattern(8)
    unsafe try writer.write(answer.span.bytes)
    pair.queue.complete(head: head, written: writer.written)
    #expect(pair.driver.receive()?.bytes == answer)
  }

  /// More chains than an index can count, through the smallest useful queue, from both sides and in both
  /// ways to notify: none is lost, none comes twice, and nobody waits for a call that does not come.
  @Test("no chain and no call is lost when the indices go around", arguments: [false, true])
  func goesAroundTheIndices(eventIndex: Bool) throws {
    let pair = try Pair(size: 4, eventIndex: eventIndex, start: 65000)
    let count = 2000
    var (sent, taken, received) = (0, 0, 0)
    // The driver sends as much as there is room for, then sleeps until it is called.
    while received < count {
      let before = (taken, received)
      while sent < count, pair.driver.freeDescriptors >= 2 {
        pair.driver.send(UInt32(sent).bytes, answer: 4, indirect: sent % 3 != 0)
        sent += 1
      }
      guard pair.driver.wantsKick() else { break }
      while try pair.queue.next(into: &pair.chain) {
        let request = try pair.request()
        guard request == UInt32(taken).bytes else { break }
        taken += 1
        try pair.answer(request)
      }
      guard pair.queue.shouldNotify() else { break }
      while let (_, written, bytes) = pair.driver.receive() {
        guard written == 4, bytes == UInt32(received).bytes else { break }
        received += 1
      }
      if before == (taken, received) { break }
    }
    #expect((sent, taken, received) == (count, count, count))
    #expect(pair.queue.position == UInt16(truncatingIfNeeded: 65000 + count))
  }

  @Test("a queue moves to other mappings of the same memory") func movesToOtherMappingsOfTheSameMemory()
    throws
  {
    let pair = try Pair(size: 8)
    pair.driver.send([1], answer: 1)
    #expect(try pair.queue.next(into: &pair.chain))
    pair.driver.send([2], answer: 1)
    let memory = try GuestMemory(pair.ram.blocks.map { try pair.ram.region($0) })
    func window(_ address: UInt64, _ length: Int) throws -> GuestWindow {
      try memory.window(userAddress: GuestRAM.userBase + address, length: length)
    }
    func move(usedLength: Int) throws {
      let rings = RingWindows(
        descriptors: try window(pair.driver.descriptors, 128),
        available: try window(pair.driver.available, 22), used: try window(pair.driver.used, usedLength))
      try pair.queue.move(to: rings, memory: memory)
    }
    try move(usedLength: 70)
    #expect(pair.queue.memory.regions[0] === memory.regions[0])
    try pair.answer([3])
    #expect(try pair.queue.next(into: &pair.chain))
    #expect(try pair.request() == [2])
    try pair.answer([4])
    #expect(pair.driver.receive()?.bytes == [3])
    #expect(pair.driver.receive()?.bytes == [4])
    #expect(throws: VirtQueueError.ringTooShort(.used, length: 60, needed: 70)) {
      try move(usedLength: 60)
    }
    pair.driver.send([5], answer: 1)
    #expect(try pair.queue.next(into: &pair.chain))
  }
}

/// The driver's wish, and whether it is to be called.
struct EventCase: CustomTestStringConvertible {
  let testDescription: String
  fileprivate let start: UInt16
  fileprivate let event: Int
  fileprivate let completions: Int
  fileprivate let called: Bool

  fileprivate init(_ start: UInt16, event: Int, completions: Int, called: Bool) {
    testDescription =
      "from \(start), event at +\(event), \(completions) completions: \(called ? "call" : "no call")"
    self.start = start
    self.event = event
    self.completions = completions
    self.called = called
  }
}

@Suite struct NotificationTests {
  /// The driver is called if the used index passed the event: old <= event < new, modulo 2^16.
  static let events: [EventCase] = [0, 5, 65533, 65535].flatMap { (start: UInt16) in
    [
      EventCase(start, event: 0, completions: 1, called: true),
      EventCase(start, event: 0, completions: 4, called: true),
      EventCase(start, event: 3, completions: 4, called: true),
      EventCase(start, event: 4, completions: 4, called: false),
      EventCase(start, event: 1, completions: 1, called: false),
      EventCase(start, event: -1, completions: 4, called: false),
      EventCase(start, event: 32768, completions: 4, called: false),
      EventCase(start, event: 0, completions: 0, called: false),
    ]
  }

  private func complete(_ count: Int, _ pair: Pair) throws {
    for _ in 0..<count {
      pair.driver.send([1], answer: 1)
      #expect(try pair.queue.next(into: &pair.chain))
      try pair.answer([1])
    }
  }

  @Test("the driver is called as its used event says", arguments: events) func obeysTheUsedEvent(
    _ item: EventCase
  ) throws {
    let pair = try Pair(size: 8, start: item.start)
    pair.driver.usedEvent = UInt16(truncatingIfNeeded: Int(item.start) + item.event)
    try complete(item.completions, pair)
    #expect(pair.queue.shouldNotify() == item.called)
    #expect(!pair.queue.shouldNotify(), "nothing was completed since")
  }

  @Test("the driver is called when the used index passes its event, and not after that")
  func countsFromTheLastTimeItWasAsked() throws {
    let pair = try Pair(size: 8)
    pair.driver.usedEvent = 2
    try complete(2, pair)
    #expect(!pair.queue.shouldNotify())
    try complete(1, pair)
    #expect(pair.queue.shouldNotify())
    try complete(1, pair)
    #expect(!pair.queue.shouldNotify(), "the event lies behind")
  }

  @Test("a driver that wants no calls gets none") func obeysNoInterrupt() throws {
    let pair = try Pair(eventIndex: false)
    pair.driver.suppressesCalls = true
    try complete(1, pair)
    #expect(!pair.queue.shouldNotify())
    pair.driver.suppressesCalls = false
    #expect(!pair.queue.shouldNotify())
    try complete(1, pair)
    #expect(pair.queue.shouldNotify())
    #expect(!pair.queue.shouldNotify())
  }

  @Test("a sleeping device asks for a kick for each chain", arguments: [false, true])
  func isKickedForEachChainWhenItSleeps(eventIndex: Bool) throws {
    let pair = try Pair(eventIndex: eventIndex, start: 65534)
    for _ in 0..<5 {
      pair.driver.send([1], answer: 1)
      #expect(pair.driver.wantsKick())
      #expect(try pair.queue.next(into: &pair.chain))
      try pair.answer([1])
      #expect(try !pair.queue.next(into: &pair.chain))
      #expect(pair.driver.receive()?.bytes == [1])
    }
  }

  @Test("a device at work asks for no kicks", arguments: [false, true]) func isNotKickedWhileItIsAtWork(
    eventIndex: Bool
  ) throws {
    let pair = try Pair(eventIndex: eventIndex, start: 65534)
    pair.driver.send([1], answer: 1)
    #expect(pair.driver.wantsKick())
    pair.queue.suspendKicks()
    for _ in 0..<3 {
      pair.driver.send([1], answer: 1)
      #expect(!pair.driver.wantsKick())
    }
    for _ in 0..<4 { #expect(try pair.queue.next(into: &pair.chain)) }
    #expect(try !pair.queue.next(into: &pair.chain))
    // It arrives between the last look and the wish to be kicked again.
    pair.driver.send([2], answer: 1)
    #expect(!pair.driver.wantsKick())
    #expect(pair.queue.resumeKicks(), "it will not be kicked for this one")
    #expect(try pair.queue.next(into: &pair.chain))
    #expect(!pair.queue.resumeKicks())
    pair.driver.send([3], answer: 1)
    #expect(pair.driver.wantsKick())
  }

  /// A device that stopped while it was at work has left its wish not to be kicked in the ring.
  @Test("a device asks for kicks after a restart") func wantsKicksAfterARestart() throws {
    let pair = try Pair(eventIndex: false)
    pair.queue.suspendKicks()
    pair.driver.send([1], answer: 1)
    #expect(!pair.driver.wantsKick())
    _ = try VirtQueue(
      size: 8, rings: pair.driver.rings, memory: pair.ram.memory, eventIndex: false, start: 0)
    pair.driver.send([2], answer: 1)
    #expect(pair.driver.wantsKick())
  }
}
