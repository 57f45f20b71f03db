import Fixtures
import Guest
import Linux
import Testing
import VhostUser
import Virtio

@Suite struct MemoryTableTests {
  @Test(arguments: FrontEnd.MemoryStyle.allCases) func sharesTheFileOfItsRegions(
    _ style: FrontEnd.MemoryStyle
  ) throws {
    let setup = try Setup.running(style, ram: GuestRAM.likeQEMU(low: 4 << 20, high: 4 << 20))
    let memory = setup.device.memory
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

  @Test func keepsRegionsThatComeAgain() throws {
    let setup = try Setup.running(.table, ram: GuestRAM.likeQEMU())
    let before = setup.device.memory.regions
    _ = try setup.frontEnd.stop()
    try setup.frontEnd.start(setup.queues)
    let after = setup.device.memory.regions
    #expect(before.count == 3)
    #expect(zip(before, after).allSatisfy { $0 === $1 })
  }

  @Test func keepsFilesApart() throws {
    let ram = try GuestRAM([.init(at: 0, length: 1 << 20), .init(at: 1 << 20, length: 1 << 20, file: 1)])
    let setup = try Setup.running(.slots, ram: ram)
    let resolved = try setup.device.memory.resolve([
      GuestRange(address: GuestAddress((1 << 20) - 1), length: 2)
    ])
    #expect(resolved.count == 2)
    #expect(resolved[0].memfd !== resolved[1].memfd)
  }

  @Test func changesWhileRingsRun() throws {
    let setup = try Setup.running(
      .table, ram: GuestRAM([.init(at: 0, length: 1 << 20), .init(at: 1 << 30, length: 1 << 19, file: 1)]))
    #expect(try setup.echo() == [3, 2, 1])
    try setup.frontEnd.sendTable(setup.ram, [setup.ram.blocks[0]])
    #expect(setup.device.takeEvents() == [.memory(regions: 1)])
    #expect(setup.device.vrings[0]?.queue.memory.regions.count == 1)
    #expect(try setup.echo() == [3, 2, 1])
    try setup.frontEnd.sendTable(setup.ram, setup.ram.blocks)
    #expect(try setup.echo() == [3, 2, 1])
  }

  /// A guest that maps something over its memory can bring that about.
  @Test func restsWhileATableIsWithoutARunningRing() throws {
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
  @Test func bridgesTheGapWhileARegionIsReplaced() throws {
    let setup = try Setup.running(.slots)
    #expect(try setup.echo() == [3, 2, 1])
    setup.device.holds = true
    setup.queues[0].send([9], answer: 1)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    setup.device.holds = false

    let block = setup.ram.blocks[0]
    try setup.frontEnd.remove(block)
    #expect(setup.device.memory.regions.isEmpty)
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

  @Test func stopsARingWhoseRegionIsGone() throws {
    let setup = try Setup.running(.slots)
    #expect(try setup.echo() == [3, 2, 1])
    try setup.frontEnd.remove(setup.ram.blocks[0])
    #expect(try setup.frontEnd.stop() == [1, 0])
  }

  @Test func takesAsManySlotsAsItOffers() throws {
    let ram = try GuestRAM((0..<510).map { .init(at: $0 << 20, length: 4096, offset: $0 * 4096) })
    let setup = try Setup()
    try setup.frontEnd.realize(memory: .slots)
    for block in ram.blocks.dropLast() { try setup.frontEnd.add(ram, block) }
    #expect(setup.device.memory.regions.count == 509)
    #expect(throws: FrontEndError.closed) { try setup.frontEnd.add(ram, ram.blocks[509]) }
    #expect(setup.error == .memory(try #require(Request(rawValue: 37)), .tooManyRegions(limit: 509)))
  }
}
