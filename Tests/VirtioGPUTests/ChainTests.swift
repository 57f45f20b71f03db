import Buffers
import Fixtures
import Guest
import Testing

@testable import VirtioGPU

/// A chain that nothing can be made of, put into the ring by hand.
struct BadChain: CustomTestStringConvertible {
  let testDescription: String
  let kind: String
  /// What the device writes: an error, or nothing at all.
  let error: UInt32?
  /// Makes the chain at descriptor 0, given a good command and room for an answer somewhere in memory.
  let make: @Sendable (DriverQueue, _ command: UInt64, _ room: UInt64) -> Void

  init(
    _ name: String, _ kind: String = "malformedChain", error: UInt32? = nil,
    _ make: @escaping @Sendable (DriverQueue, _ command: UInt64, _ room: UInt64) -> Void
  ) {
    (testDescription, self.kind, self.error, self.make) = (name, kind, error, make)
  }
}

@Suite struct ChainTests {
  private static let (next, write, indirect) = (DriverQueue.next, DriverQueue.write, DriverQueue.indirect)
  /// Nowhere in the RAM.
  private static let hole: UInt64 = 0xb0000

  static let broken: [BadChain] = [
    BadChain("readable behind writable") { queue, command, room in
      queue.setDescriptor(0, address: room, length: 24, flags: write | next, next: 1)
      queue.setDescriptor(1, address: command, length: 40, flags: 0)
    },
    BadChain("a loop") { queue, command, _ in
      queue.setDescriptor(0, address: command, length: 20, flags: next, next: 1)
      queue.setDescriptor(1, address: command, length: 20, flags: next, next: 0)
    },
    BadChain("next outside the table") { queue, command, _ in
      queue.setDescriptor(0, address: command, length: 40, flags: next, next: 64)
    },
    BadChain("an indirect table in a hole") { queue, _, _ in
      queue.setDescriptor(0, address: hole, length: 32, flags: indirect)
    },
    BadChain("an empty indirect table") { queue, command, _ in
      queue.setDescriptor(0, address: command, length: 0, flags: indirect)
    },
    BadChain("half a descriptor in an indirect table") { queue, command, _ in
      queue.setDescriptor(0, address: command, length: 24, flags: indirect)
    },
    BadChain("indirect and next") { queue, command, room in
      queue.setDescriptor(0, address: command, length: 32, flags: indirect | next, next: 1)
      queue.setDescriptor(1, address: room, length: 24, flags: write)
    },
    BadChain("an indirect table in an indirect table") { queue, command, room in
      let table = queue.ram.allocate(32)
      DriverQueue.writeDescriptor(
        queue.ram, at: table, address: command, length: 32, flags: indirect, next: 0)
      queue.setDescriptor(0, address: table, length: 16, flags: indirect)
    },
    BadChain("more than 4 GiB") { queue, command, room in
      queue.setDescriptor(0, address: command, length: 40, flags: next, next: 1)
      queue.setDescriptor(1, address: 0, length: .max, flags: next, next: 2)
      queue.setDescriptor(2, address: room, length: 24, flags: write)
    },
    BadChain("a command in a hole", "malformedCommand", error: ResponseType.invalidParameter) {
      queue, _, room in
      queue.setDescriptor(0, address: hole, length: 40, flags: next, next: 1)
      queue.setDescriptor(1, address: room, length: 24, flags: write)
    },
    BadChain("half a command in a hole", "malformedCommand", error: ResponseType.invalidParameter) {
      queue, command, room in
      queue.setDescriptor(0, address: command, length: 30, flags: next, next: 1)
      queue.setDescriptor(1, address: hole, length: 10, flags: next, next: 2)
      queue.setDescriptor(2, address: room, length: 24, flags: write)
    },
    BadChain("a command at the end of 64 bits", "malformedCommand", error: ResponseType.invalidParameter) {
      queue, _, room in
      queue.setDescriptor(0, address: .max - 3, length: 40, flags: next, next: 1)
      queue.setDescriptor(1, address: room, length: 24, flags: write)
    },
    BadChain("no command at all", "malformedCommand", error: ResponseType.invalidParameter) {
      queue, _, room in
      queue.setDescriptor(0, address: room, length: 24, flags: write)
    },
    BadChain("descriptors of no length", "malformedCommand", error: ResponseType.invalidParameter) {
      queue, command, room in
      queue.setDescriptor(0, address: command, length: 0, flags: next, next: 1)
      queue.setDescriptor(1, address: room, length: 0, flags: write | next, next: 2)
      queue.setDescriptor(2, address: room, length: 24, flags: write)
    },
  ]

  @Test(
    "a malformed chain is completed, with an error if it has room, and changes nothing", arguments: broken,
    [0, 1]) func malformed(_ chain: BadChain, _ index: Int) throws
  {
    let rig = try Rig()
    let queue = index == 0 ? rig.control : rig.cursor
    let (command, room) = (rig.ram.allocate(64), rig.ram.allocate(64))
    rig.ram.write(Request.create(5), at: command)
    rig.ram.write([UInt8](repeating: 0xaa, count: 64), at: room)
    let state = rig.state
    // The descriptors of these chains are below 8, which no later chain of this test uses.
    chain.make(queue, command, room)
    queue.makeAvailable(0)
    rig.device.kicked(index)
    let used = try #require(queue.nextUsed())
    #expect(used.head == 0)
    #expect(used.written == (chain.error == nil ? 0 : 24))
    let expected = chain.error.map { $0.bytes } ?? [0xaa, 0xaa, 0xaa, 0xaa]
    #expect(rig.ram.read(4, at: room) == expected)
    #expect(rig.ram.read(40, at: room + 24) == [UInt8](repeating: 0xaa, count: 40))
    #expect(rig.errors == [chain.kind: 1] && rig.state == state)
    #expect(rig.log.warnings.count == 1)
    let good = queue.send(
      index == 0 ? Request.displayInfo() : Request.moveCursor(0), answer: 408, indirect: true)
    rig.device.kicked(index)
    #expect(rig.answer(queue)?.head == good)
    #expect(rig.errors == [chain.kind: 1])
  }

  // MARK: No room for the answer

  static let answers: [(String, [UInt8], Int)] = [
    ("GET_DISPLAY_INFO", Request.displayInfo(), 408), ("GET_EDID", Request.edid(0), 1056),
    ("SET_SCANOUT", Request.setScanout(0, 0), 24), ("an error", Request.unref(99), 24),
  ]

  /// Less than a header: nothing is written. A header: an error.
  @Test(
    "an answer that does not fit becomes an error if a header fits, and else nothing",
    arguments: answers) func roomForTheAnswer(_ name: String, _ request: [UInt8], _ full: Int) throws
  {
    for room in [0, 1, 12, 23, 24, 25, full / 2, full - 1] where room < full {
      let rig = try Rig()
      let own: [String: UInt64] = request == Request.unref(99) ? ["invalidResource": 1] : [:]
      let answer = try rig.ask(request, room: room)
      #expect(answer.written == (room < 24 ? 0 : 24))
      if room >= 24 { #expect(answer.type == ResponseType.unspecified) }
      #expect(rig.errors == own.merging(["noRoom": 1]) { $1 })
      #expect(try rig.ask(Request.displayInfo()).type == ResponseType.displayInfo)
    }
    let rig = try Rig()
    #expect(try rig.ask(request, room: full).written == UInt32(full))
    #expect(rig.errors["noRoom"] == nil)
  }

  @Test("too little room for a cursor command's answer is counted, and no room at all is not")
  func cursorRoom() throws {
    let rig = try Rig()
    for room in [1, 23] {
      #expect(try rig.askCursor(Request.moveCursor(0), room: room).written == 0)
    }
    #expect(rig.errors == ["noRoom": 2])
    // A mistake without room for telling it is counted all the same.
    #expect(try rig.askCursor(Request.moveCursor(9), room: 0).written == 0)
    #expect(rig.errors == ["noRoom": 2, "invalidScanout": 1])
  }

  /// A flush without any room for an answer is done, and nobody is told anything.
  @Test("a flush without room for an answer is shown and is no mistake") func aFlushWithoutRoom() throws {
    let rig = try Rig(backing: .auto)
    try rig.lend(1)
    try rig.ok(Request.setScanout(0, 1))
    for _ in 0..<100 {
      #expect(try rig.ask(Request.flush(1), room: 0).written == 0)
      rig.screen.flipAll()
    }
    #expect(rig.statistics.framesShown == 100 && rig.errors.isEmpty && rig.log.warnings.isEmpty)
    // Some room that is too little is a mistake still, and so is a flush of nothing.
    #expect(try rig.ask(Request.flush(1), room: 23).written == 0)
    #expect(try rig.ask(Request.flush(9), room: 0).written == 0)
    #expect(rig.errors == ["noRoom": 1, "invalidResource": 1])
    try rig.expectBalance()
  }

  @Test("an answer ends before the first descriptor that is not all in the guest's memory") func roomInAHole()
    throws
  {
    let rig = try Rig()
    let (command, room) = (rig.ram.allocate(64), rig.ram.allocate(64))
    rig.ram.write(Request.displayInfo(), at: command)
    let readable = [GuestRange(address: GuestAddress(command), length: 24)]
    for (writable, written) in [
      ([(Self.hole, 408)], 0), ([(room, 10), (Self.hole, 400)], 10), ([(0x9fff0, 408)], 0),
      ([(.max - 3, 408)], 0),
    ] as [([(UInt64, UInt64)], UInt32)] {
      rig.control.add(
        readable: readable,
        writable: writable.map { GuestRange(address: GuestAddress($0.0), length: $0.1) })
      rig.device.kicked(0)
      let used = try #require(rig.control.nextUsed())
      #expect(used.written == written)
      rig.control.reclaim(used.head)
    }
    #expect(rig.errors == ["noRoom": 4])
    #expect(try rig.ask(Request.displayInfo()).type == ResponseType.displayInfo)
  }

  // MARK: A ring that cannot go on

  @Test(
    "a broken ring stops its queue, and no other, until it is set up anew", arguments: [0, 1], [true, false])
  func brokenRing(
    _ index: Int, _ byHead: Bool
  ) throws {
    let rig = try Rig()
    let queue = index == 0 ? rig.control : rig.cursor
    try rig.ok(Request.create(1))
    if byHead {
      queue.makeAvailable(queue.size)
    } else {
      queue.setAvailableIndex(queue.availableIndex &+ queue.size &+ 1)
    }
    for _ in 0..<3 { rig.device.kicked(index) }
    #expect(queue.nextUsed() == nil)
    #expect(rig.errors == ["brokenRing": 1] && rig.log.warnings.count == 1)
    // The other queue lives.
    if index == 0 {
      #expect(try rig.askCursor(Request.moveCursor(0)).type == ResponseType.ok)
    } else {
      try rig.ok(Request.create(2))
    }
    // And so does this one once it is set up anew.
    let fresh = DriverQueue(rig.ram, size: 64)
    try rig.start(index, fresh, fresh: true)
    let head = fresh.send(index == 0 ? Request.create(1) : Request.moveCursor(0), answer: 24)
    rig.device.kicked(index)
    let answer = try #require(rig.answer(fresh))
    #expect(answer.head == head && answer.type == ResponseType.ok)
  }
}
