import Fixtures
import Glibc
import Guest
import Linux
import SystemPackage
import Testing
import VhostUser
import Virtio

@Suite struct MemoryTableTests {
  @Test("regions of one file share one memfd", arguments: FrontEnd.MemoryStyle.allCases)
  func sharesTheFileOfItsRegions(
    _ style: FrontEnd.MemoryStyle
  ) throws {
    let setup = try Setup.running(style, ram: GuestRAM.likeQEMU(low: 4 << 20, high: 4 << 20))
    let memory = setup.memory
    #expect(memory.regions.map(\.guestAddress.rawValue) == [0, 0xc0000, 0x1_0000_0000])
    // The last page below and the first above 4 GiB are neighbours in the file.
    let resolved = try memory.resolve([
      GuestRange(address: GuestAddress((4 << 20) - 4096), length: 4096),
      GuestRange(address: GuestAddress(0x1_0000_0000), length: 4096),
    ])
    #expect(resolved.count == 1)
    #expect(resolved[0].offset == (4 << 20) - 4096)
    #expect(resolved[0].length == 8192)
  }

  @Test("a region that comes again keeps its mapping") func keepsRegionsThatComeAgain() throws {
    let setup = try Setup.running(.table, ram: GuestRAM.likeQEMU())
    let before = setup.memory.regions
    _ = try setup.frontEnd.stop()
    try setup.frontEnd.start(setup.queues)
    let after = setup.memory.regions
    #expect(before.count == 3)
    #expect(zip(before, after).allSatisfy { $0 === $1 })
  }

  @Test("regions of different files have different memfds") func keepsFilesApart() throws {
    let ram = try GuestRAM([.init(at: 0, length: 1 << 20), .init(at: 1 << 20, length: 1 << 20, file: 1)])
    let setup = try Setup.running(.slots, ram: ram)
    let resolved = try setup.memory.resolve([
      GuestRange(address: GuestAddress((1 << 20) - 1), length: 2)
    ])
    #expect(resolved.count == 2)
    #expect(resolved[0].memfd !== resolved[1].memfd)
  }

  @Test("running rings go on when the table changes") func changesWhileRingsRun() throws {
    let setup = try Setup.running(
      .table, ram: GuestRAM([.init(at: 0, length: 1 << 20), .init(at: 1 << 30, length: 1 << 19, file: 1)]))
    #expect(try setup.echo() == [3, 2, 1])
    try setup.frontEnd.sendTable(setup.ram, [setup.ram.blocks[0]])
    #expect(setup.device.takeEvents() == [])
    #expect(setup.device.vrings[0]?.queue.memory.regions.count == 1)
    #expect(try setup.echo() == [3, 2, 1])
    try setup.frontEnd.sendTable(setup.ram, setup.ram.blocks)
    #expect(try setup.echo() == [3, 2, 1])
  }

  /// A guest that maps something over its memory can bring that about.
  @Test("a ring whose place is not in the table rests until it is there again")
  func restsWhileATableIsWithoutARunningRing() throws {
    let setup = try Setup.running(
      .table, ram: GuestRAM([.init(at: 0, length: 1 << 20), .init(at: 1 << 30, length: 1 << 19, file: 1)]))
    try setup.frontEnd.sendTable(setup.ram, [setup.ram.blocks[1]])
    let events = setup.device.takeEvents()
    for (index, queue) in setup.queues.enumerated() {
      let error = VhostUserError.ringOutsideMemory(
        queue: index, .descriptors, userAddress: GuestRAM.userBase + queue.descriptors)
      #expect(events.contains(.unusable(index, error)))
    }
    #expect(try setup.echo() == nil)
    try setup.frontEnd.sendTable(setup.ram, setup.ram.blocks)
    try setup.link.settle()
    #expect(setup.queues[0].receive()?.bytes == [3, 2, 1])
    #expect(setup.link.end == nil)
  }

  /// With slots a region is changed by taking it away and adding it again: the ring in it waits meanwhile.
  @Test("a ring waits while its region is replaced") func bridgesTheGapWhileARegionIsReplaced() throws {
    let setup = try Setup.running(.slots)
    #expect(try setup.echo() == [3, 2, 1])
    setup.device.holds = true
    setup.queues[0].send([9], answer: 1)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    setup.device.holds = false

    let block = setup.ram.blocks[0]
    try setup.frontEnd.remove(block)
    #expect(setup.memory.regions.isEmpty)
    setup.queues[0].send([1, 2], answer: 2)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    #expect(setup.queues[0].receive() == nil)
    try setup.frontEnd.add(setup.ram, block)
    setup.device.release()
    try setup.link.settle()
    #expect(setup.queues[0].receive()?.bytes == [9])
    #expect(setup.queues[0].receive()?.bytes == [2, 1])
    #expect(try setup.echo() == [3, 2, 1])
  }

  @Test("a ring whose region is gone can be stopped") func stopsARingWhoseRegionIsGone() throws {
    let setup = try Setup.running(.slots)
    #expect(try setup.echo() == [3, 2, 1])
    try setup.frontEnd.remove(setup.ram.blocks[0])
    #expect(try setup.frontEnd.stop() == [1, 0])
  }

  @Test("as many slots are taken as are offered, and one more is refused") func takesAsManySlotsAsItOffers()
    throws
  {
    let ram = try GuestRAM((0..<510).map { .init(at: $0 << 20, length: 4096, offset: $0 * 4096) })
    let setup = try Setup()
    try setup.frontEnd.realize(memory: .slots)
    for block in ram.blocks.dropLast() { try setup.frontEnd.add(ram, block) }
    #expect(setup.memory.regions.count == 509)
    #expect(throws: Self.refused) { try setup.frontEnd.add(ram, ram.blocks[509]) }
    #expect(setup.memory.regions.count == 509)
    #expect(setup.link.end == nil)
  }

  // MARK: Memory that cannot be had

  /// The answer to a message that was to be acknowledged, and could not be done.
  private static let refused = FrontEndError.wrongReply(UInt64(1).bytes)

  /// A device that runs, in memory of its own, and what QEMU plugs in besides.
  private func plugged(_ style: FrontEnd.MemoryStyle, readOnly: Bool, acknowledged: Bool) throws -> (
    Setup, Memfd
  ) {
    let setup = try Setup()
    try setup.frontEnd.realize(memory: style, replyAck: acknowledged)
    try setup.frontEnd.start(setup.queues)
    #expect(try setup.echo() == [3, 2, 1])
    let file = try Memfd.create(name: "other", size: 4096)
    let path = FilePath("/proc/self/fd/\(file.number)")
    return (setup, try Memfd(adopting: FD.open(path, writable: !readOnly)))
  }

  static let bad: [(name: String, readOnly: Bool, length: UInt64)] = [
    ("a descriptor that cannot be written", true, 4096), ("a file that is too short", false, 8192),
  ]

  @Test(
    "a region that cannot be added is answered with an error, and changes nothing",
    arguments: FrontEnd.MemoryStyle.allCases,
    bad.indices)
  func tellsThatItCannotHaveMemory(_ style: FrontEnd.MemoryStyle, _ index: Int) throws {
    let (setup, other) = try plugged(style, readOnly: Self.bad[index].readOnly, acknowledged: true)
    let before = setup.memory.regions
    let block = GuestRAM.Block(at: 1 << 32, length: Self.bad[index].length)
    #expect(throws: Self.refused) {
      switch style {
      case .slots:
        try setup.frontEnd.tell(
          FrontEnd.addMemoryRegion, numbers(0, 0) + FrontEnd.region(block), descriptors: [other.number])
      case .table:
        try setup.frontEnd.tell(
          FrontEnd.setMemoryTable,
          numbers(2, 0) + FrontEnd.region(setup.ram.blocks[0]) + FrontEnd.region(block),
          descriptors: [setup.ram.files[0].number, other.number])
      }
    }
    let after = setup.memory.regions
    #expect(after.count == 1 && after[0] === before[0])
    #expect(try setup.echo() == [3, 2, 1])
    #expect(setup.link.end == nil)
    // The same is done once it can be.
    try setup.frontEnd.sendMemory(setup.ram)
    #expect(try setup.echo() == [3, 2, 1])
  }

  @Test("the removal of an unknown region is answered with an error") func tellsThatThereIsNothingToRemove()
    throws
  {
    let setup = try Setup.running(.slots)
    #expect(throws: Self.refused) { try setup.frontEnd.remove(.init(at: 1 << 32, length: 4096)) }
    #expect(try setup.echo() == [3, 2, 1])
  }

  /// A front end that does not ask hears of it by the end of the connection.
  @Test("a region that cannot be added ends a session without acknowledgements", arguments: bad.indices)
  func endsWhereNobodyAsked(_ index: Int) throws {
    let (setup, other) = try plugged(.slots, readOnly: Self.bad[index].readOnly, acknowledged: false)
    let block = GuestRAM.Block(at: 1 << 32, length: Self.bad[index].length)
    try setup.frontEnd.send(
      FrontEnd.addMemoryRegion, numbers(0, 0) + FrontEnd.region(block), descriptors: [other.number])
    try setup.link.settle()
    guard case .memory(.addMemoryRegion, _) = setup.error else {
      Issue.record("\(String(describing: setup.error))")
      return
    }
  }

  // MARK: Memory that goes

  /// Runs, is stopped, or has been started anew in the meantime: nothing of the memory that went is kept.
  @Test("unplugged memory is let go of, whether the rings run or not", arguments: [false, true])
  func letsGoOfWhatIsUnplugged(
    whileItIsStopped: Bool
  ) throws {
    let setup = try Setup.running(
      .slots, ram: GuestRAM([.init(at: 0, length: 1 << 20), .init(at: 1 << 30, length: 1 << 19, file: 1)]))
    #expect(try setup.echo() == [3, 2, 1])
    weak let region = setup.memory.regions[1]
    #expect(region != nil)
    if whileItIsStopped { #expect(try setup.frontEnd.stop() == [1, 0]) }
    try setup.frontEnd.remove(setup.ram.blocks[1])
    #expect(region == nil)
    if whileItIsStopped { try setup.frontEnd.start(setup.queues) }
    #expect(try setup.echo() == [3, 2, 1])
  }

  /// QEMU cuts the guest's memory anew whenever something is laid over a part of it.
  @Test("a file is mapped once, however the table cuts it") func mapsAFileOnceHoweverItIsCut() throws {
    let setup = try Setup.running(.table)
    let ram = setup.ram
    let place = GuestAddress(0x3000)
    var windows: [GuestWindow] = []
    for cut in stride(from: UInt64(1 << 16), to: 1 << 20, by: 1 << 16) {
      try setup.frontEnd.sendTable(
        ram,
        [
          .init(at: 0, length: cut),
          .init(at: cut + 4096, length: ram.blocks[0].length - cut - 4096, offset: cut + 4096),
        ])
      let ranges = try setup.memory.resolve([GuestRange(address: place, length: 4096)])
      windows += setup.memory.files(of: ranges).windows(of: ranges)
    }
    #expect(windows.count > 10)
    #expect(
      windows.allSatisfy { $0.mapping === windows[0].mapping && $0.start == 0x3000 && $0.length == 4096 })
    #expect(try setup.echo() == [3, 2, 1])
  }

  @Test("a file that has grown is mapped anew") func mapsAFileAnewThatHasGrown() throws {
    let setup = try Setup.running(.slots, ram: GuestRAM([.init(at: 0, length: 1 << 20)], seals: []))
    let file = setup.ram.files[0]
    let grown = file.withDescriptor { $0.withRaw { ftruncate($0, 2 << 20) } }
    #expect(grown == 0)
    try setup.frontEnd.add(setup.ram, .init(at: 1 << 30, length: 1 << 20, offset: 1 << 20))
    unsafe try setup.memory.store([7 as UInt8].span.bytes, at: GuestAddress((1 << 30) + 5))
    // A list across both parts is read from one mapping.
    let ranges = try setup.memory.resolve([
      GuestRange(address: GuestAddress((1 << 20) - 1), length: 1),
      GuestRange(address: GuestAddress(1 << 30), length: 6),
    ])
    #expect(ranges.count == 1)
    let windows = setup.memory.files(of: ranges).windows(of: ranges)
    #expect(windows.count == 1 && windows[0].mapping.bytes(at: windows[0].start, count: 7).last == 7)
    #expect(try setup.echo() == [3, 2, 1])
  }
}
