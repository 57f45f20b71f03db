import Fixtures
import Guest
import Linux
import SystemPackage
import Testing
import VhostUser
import Virtio

@Suite struct HandshakeTests {
  private static let version1: UInt64 = 1 << 32
  private static let eventIndex: UInt64 = 1 << 29
  private static let indirect: UInt64 = 1 << 28

  @Test(arguments: FrontEnd.MemoryStyle.allCases, [false, true])
  func goesAsQEMUDoesIt(style: FrontEnd.MemoryStyle, replyAck: Bool) throws {
    let setup = try Setup()
    try setup.frontEnd.realize(memory: style, replyAck: replyAck)
    #expect(
      setup.frontEnd.offeredFeatures
        == Self.version1 | Self.eventIndex | Self.indirect | 1 << 30 | setup.device.deviceFeatures)
    #expect(setup.frontEnd.queueCount == 2)
    #expect(try setup.frontEnd.config(size: 16) == EchoDevice.configuration)
    #expect(setup.device.takeEvents() == [])

    try setup.frontEnd.start(setup.queues)
    try setup.link.settle()
    // The bits of the transport that were not offered are not the device's business.
    #expect(
      setup.device.takeEvents() == [
        .features(Self.version1 | Self.eventIndex | Self.indirect | setup.device.deviceFeatures),
        .memory(regions: 1), .started(0, fresh: true, at: 0), .started(1, fresh: true, at: 0),
      ])
    #expect(setup.device.kicks == [1, 1], "chains may be there already")
    for index in [0, 1, 0] { #expect(try setup.echo([1, 2, 3], on: index) == [3, 2, 1]) }
    #expect(try setup.frontEnd.stop() == [2, 1])
    #expect(setup.link.end == nil)
    #expect(!setup.frontEnd.hasInput, "nothing was said that was not asked for")
  }

  @Test func offersWhatItCanDo() throws {
    let setup = try Setup()
    let offered = try setup.frontEnd.askWord(FrontEnd.getProtocolFeatures)
    // MQ, REPLY_ACK, BACKEND_REQ, CONFIG, RESET_DEVICE, CONFIGURE_MEM_SLOTS
    #expect(offered == 1 << 0 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 13 | 1 << 15)
    try setup.frontEnd.send(FrontEnd.setProtocolFeatures, offered.bytes)
    #expect(try setup.frontEnd.askWord(FrontEnd.getMaxMemorySlots) == 509)
  }

  @Test func goesOnWithoutTheEventIndex() throws {
    let setup = try Setup.running(eventIndex: false)
    for _ in 0..<100 { #expect(try setup.echo() == [3, 2, 1]) }
    setup.queues[0].suppressesCalls = true
    #expect(try setup.echo() == nil)
    #expect(setup.queues[0].receive()?.bytes == [3, 2, 1])
  }

  @Test(arguments: [1 << 40, 1 << 24, 1 << 27, 0] as [UInt64])
  func copesWithBitsThatQEMUDoesNotMask(extra: UInt64) throws {
    let setup = try Setup()
    setup.frontEnd.extraFeatures = extra
    try setup.frontEnd.realize(memory: .slots)
    try setup.frontEnd.start(setup.queues)
    #expect(try setup.echo() == [3, 2, 1])
  }

  /// A front end that knows nothing of protocol features, and so never enables a ring.
  @Test func servesAnOldFrontEnd() throws {
    let setup = try Setup()
    let frontEnd = setup.frontEnd
    _ = try frontEnd.askWord(FrontEnd.getFeatures)
    try frontEnd.send(FrontEnd.setOwner)
    try frontEnd.send(FrontEnd.setFeatures, (Self.version1 | Self.eventIndex).bytes)
    try frontEnd.sendTable(setup.ram, setup.ram.blocks)
    let (kick, call) = (try FrontEnd.Line(), try FrontEnd.Line())
    try frontEnd.send(FrontEnd.setVringNum, UInt32(0).bytes + UInt32(64).bytes)
    try frontEnd.send(FrontEnd.setVringBase, UInt32(0).bytes + UInt32(0).bytes)
    try frontEnd.send(FrontEnd.setVringAddress, FrontEnd.addresses(0, setup.queues[0]))
    try frontEnd.sendLine(FrontEnd.setVringCall, 0, call)
    try frontEnd.sendLine(FrontEnd.setVringKick, 0, kick)
    setup.queues[0].send([5, 6], answer: 2)
    kick.event.signal()
    try setup.link.settle()
    #expect(setup.queues[0].receive()?.bytes == [6, 5])
    let called = call.event.drain()
    #expect(called)
  }

  @Test(arguments: [1, 2, 5, 11, 13]) func takesMessagesInPieces(size: Int) throws {
    let setup = try Setup(ram: GuestRAM.likeQEMU())
    setup.frontEnd.pieceSize = size
    try setup.frontEnd.realize(memory: .table)
    #expect(
      try setup.frontEnd.config(offset: 3, size: 20) == Array(EchoDevice.configuration[3...])
        + Array(repeating: 0, count: 7))
    try setup.frontEnd.start(setup.queues)
    #expect(try setup.echo() == [3, 2, 1])
    #expect(try setup.frontEnd.stop() == [1, 0])
  }

  @Test func takesManyMessagesAtOnce() throws {
    let setup = try Setup()
    var bytes: [UInt8] = []
    for _ in 0..<100 { bytes += FrontEnd.getFeatures.bytes + UInt32(1).bytes + UInt32(0).bytes }
    try setup.frontEnd.sendBytes(bytes)
    let features = try setup.frontEnd.reply(to: FrontEnd.getFeatures)
    for _ in 1..<100 { #expect(try setup.frontEnd.reply(to: FrontEnd.getFeatures) == features) }
    #expect(!setup.frontEnd.hasInput)
  }

  @Test func acknowledgesOnlyWhatIsToBe() throws {
    let setup = try Setup()
    // The flag says nothing as long as REPLY_ACK was not negotiated.
    try setup.frontEnd.send(FrontEnd.setOwner, flags: 9)
    try setup.link.settle()
    #expect(!setup.frontEnd.hasInput)
    try setup.frontEnd.realize(memory: .slots)
    try setup.frontEnd.send(FrontEnd.setOwner, flags: 9)
    #expect(try setup.frontEnd.reply(to: FrontEnd.setOwner) == UInt64(0).bytes)
    try setup.frontEnd.send(FrontEnd.setOwner)
    try setup.link.settle()
    #expect(!setup.frontEnd.hasInput)
    // An answer of its own is the only one.
    try setup.frontEnd.send(FrontEnd.getQueueNum, flags: 9)
    #expect(try setup.frontEnd.reply(to: FrontEnd.getQueueNum) == UInt64(2).bytes)
    try setup.link.settle()
    #expect(!setup.frontEnd.hasInput)
  }

  @Test func readsAndWritesTheConfiguration() throws {
    let setup = try Setup()
    try setup.frontEnd.realize(memory: .slots)
    #expect(try setup.frontEnd.config(offset: 4, size: 4) == [5, 6, 7, 8])
    #expect(try setup.frontEnd.config(offset: 15, size: 3) == [16, 0, 0])
    #expect(try setup.frontEnd.config(size: 256).count == 256)
    try setup.frontEnd.writeConfig(offset: 4, [9, 9])
    try setup.link.settle()
    #expect(setup.device.takeEvents() == [.configWritten(offset: 4, [9, 9])])
  }

  @Test func handsTheDisplaySocketOver() throws {
    let setup = try Setup()
    try UnixSocket.pair { mine, theirs in
      let hello: [UInt8] = [104, 105]
      #expect(try unsafe mine.send(hello.span.bytes) == 2)
      try setup.frontEnd.send(FrontEnd.setDisplaySocket, descriptors: [theirs.fd.withRaw { $0 }])
      try setup.link.settle()
    }
    #expect(setup.device.takeEvents() == [.display])
    #expect(setup.device.displayBytes == [104, 105])
  }

  @Test func asksTheFrontEnd() throws {
    let setup = try Setup()
    #expect(setup.link.session?.backendChannel == nil)
    try UnixSocket.pair { mine, theirs in
      try setup.frontEnd.realize(memory: .slots, backendRequests: theirs.fd.withRaw { $0 })
      try #require(setup.link.session?.backendChannel).send(.configChanged)
      var bytes: [UInt8] = []
      var descriptors = ReceivedDescriptors()
      _ = try mine.receive(into: &bytes, upTo: 100, descriptors: &descriptors)
      #expect(bytes == UInt32(2).bytes + UInt32(1).bytes + UInt32(0).bytes)
    }
    // Both ends that the test held are gone.
    let channel = try #require(setup.link.session?.backendChannel)
    #expect(throws: VhostUserError.socket(.brokenPipe)) { try channel.send(.configChanged) }
  }
}

@Suite struct RingStateTests {
  @Test func looksAtWhatIsThereAtTheStart() throws {
    let setup = try Setup()
    try setup.frontEnd.realize(memory: .table)
    setup.queues[0].send([1, 2], answer: 2)
    setup.queues[0].send([3, 4], answer: 2)
    try setup.frontEnd.start(setup.queues)
    try setup.link.settle()
    #expect(setup.queues[0].receive()?.bytes == [2, 1])
    #expect(setup.queues[0].receive()?.bytes == [4, 3])
    let called = setup.frontEnd.called(0)
    #expect(called)
  }

  @Test func waitsUntilARingIsEnabled() throws {
    let setup = try Setup()
    let frontEnd = setup.frontEnd
    try frontEnd.realize(memory: .table)
    try frontEnd.send(FrontEnd.setFeatures, frontEnd.offeredFeatures.bytes)
    frontEnd.kick(0)
    try frontEnd.sendMemory(setup.ram)
    try frontEnd.setUp(0, setup.queues[0], base: 0)
    setup.queues[0].send([1, 2], answer: 2)
    frontEnd.kick(0)
    try setup.link.settle()
    #expect(setup.device.kicks == [0, 0])
    #expect(setup.queues[0].receive() == nil)
    try frontEnd.enable(0, true)
    try setup.link.settle()
    #expect(setup.queues[0].receive()?.bytes == [2, 1])
    #expect(setup.device.kicks[1] == 0)
  }

  @Test func restsWhileARingIsDisabled() throws {
    let setup = try Setup.running()
    try setup.frontEnd.enable(0, false)
    #expect(try setup.echo() == nil)
    #expect(try setup.echo(on: 1) == [3, 2, 1])
    try setup.frontEnd.enable(0, true)
    try setup.link.settle()
    let called = setup.frontEnd.called(0)
    #expect(called)
    #expect(setup.queues[0].receive()?.bytes == [3, 2, 1])
    #expect(setup.device.takeEvents() == [], "it is the same run")
  }

  @Test(arguments: FrontEnd.MemoryStyle.allCases) func stopsAndResumes(_ style: FrontEnd.MemoryStyle) throws {
    let setup = try Setup.running(style)
    for _ in 0..<3 { #expect(try setup.echo() == [3, 2, 1]) }
    #expect(try setup.frontEnd.stop() == [3, 0])
    #expect(setup.device.takeEvents() == [.stopping(0), .stopping(1)])
    // The guest goes on for a moment.
    setup.queues[0].send([7, 8], answer: 2)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    #expect(setup.queues[0].receive() == nil)

    try setup.frontEnd.start(setup.queues)
    try setup.link.settle()
    let events = setup.device.takeEvents()
    #expect(events.contains(.started(0, fresh: false, at: 3)))
    // Regions in slots are not sent again, and still there.
    #expect(events.contains(.memory(regions: 1)) == (style == .table))
    #expect(setup.queues[0].receive()?.bytes == [8, 7])
    #expect(try setup.frontEnd.stop() == [4, 0])
  }

  @Test func startsAnewForANewDriver() throws {
    let setup = try Setup.running(.slots)
    for _ in 0..<3 { #expect(try setup.echo() == [3, 2, 1]) }
    #expect(try setup.frontEnd.stop() == [3, 0])
    setup.queues = [64, 16].map { DriverQueue(setup.ram, size: $0) }
    try setup.frontEnd.start(setup.queues)
    #expect(try setup.echo() == [3, 2, 1])
    #expect(setup.device.takeEvents().contains(.started(0, fresh: true, at: 0)))
  }

  /// An index that has come around to 0 looks like a new driver's, but is not.
  @Test func resumesAtIndexZero() throws {
    let setup = try Setup.running(start: 65530)
    for _ in 0..<6 { #expect(try setup.echo() == [3, 2, 1]) }
    #expect(try setup.frontEnd.stop() == [0, 65530])
    try setup.frontEnd.start(setup.queues)
    try setup.link.settle()
    #expect(setup.device.takeEvents().contains(.started(0, fresh: false, at: 0)))
    #expect(try setup.echo() == [3, 2, 1])
    // Here is a new one.
    #expect(try setup.frontEnd.stop()[0] == 1)
    setup.queues = [64, 16].map { DriverQueue(setup.ram, size: $0) }
    try setup.frontEnd.start(setup.queues)
    try setup.link.settle()
    #expect(setup.device.takeEvents().contains(.started(0, fresh: true, at: 0)))
  }

  @Test func answersForARingThatNeverRan() throws {
    let setup = try Setup()
    try setup.frontEnd.realize(memory: .table)
    try setup.frontEnd.send(FrontEnd.setVringBase, UInt32(1).bytes + UInt32(77).bytes)
    #expect(try setup.frontEnd.stop() == [0, 77])
    #expect(setup.device.takeEvents() == [])
  }

  @Test func waitsForWhatTheDeviceHasTaken() throws {
    let setup = try Setup.running()
    setup.device.holds = true
    setup.queues[0].send([1, 2], answer: 2)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    try setup.frontEnd.send(FrontEnd.getVringBase, UInt32(0).bytes + UInt32(0).bytes)
    try setup.frontEnd.send(FrontEnd.getQueueNum)
    // What comes now is for the next run.
    setup.queues[0].send([3, 4], answer: 2)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    #expect(setup.device.takeEvents() == [.stopping(0)])
    #expect(!setup.frontEnd.hasInput, "neither this answer nor the next one")
    // The other ring runs on.
    setup.queues[1].send([5, 6], answer: 2)
    setup.frontEnd.kick(1)
    try setup.link.settle()
    #expect(setup.device.kicks[1] == 2)

    setup.device.release()
    #expect(setup.frontEnd.hasInput)
    let base = try setup.frontEnd.reply(to: FrontEnd.getVringBase)
    #expect(base == UInt32(0).bytes + UInt32(1).bytes)
    #expect(try setup.frontEnd.reply(to: FrontEnd.getQueueNum) == UInt64(2).bytes)
    #expect(setup.queues[0].receive()?.bytes == [2, 1])
    #expect(setup.queues[0].receive() == nil)
    #expect(setup.queues[1].receive()?.bytes == [6, 5])
  }

  @Test func endsWhenTheFrontEndLeavesDuringAStop() throws {
    let setup = try Setup.running()
    setup.device.holds = true
    setup.queues[0].send([1, 2], answer: 2)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    try setup.frontEnd.send(FrontEnd.getVringBase, UInt32(0).bytes + UInt32(0).bytes)
    try setup.link.settle()
    setup.link.hangUp()
    try setup.link.settle()
    #expect(setup.error == .cutOff(while: "while queue 0 was stopping"))
    setup.device.release()
    try setup.link.settle()
    #expect(setup.link.endCount == 1)
  }

  @Test func stopsEverythingForAReset() throws {
    let setup = try Setup.running(.slots)
    setup.device.holds = true
    setup.queues[0].send([1, 2], answer: 2)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    try setup.frontEnd.tell(FrontEnd.resetDevice)
    #expect(setup.device.takeEvents() == [.reset])
    let kicks = setup.device.kicks
    setup.frontEnd.kick(0)
    setup.frontEnd.kick(1)
    try setup.link.settle()
    #expect(setup.device.kicks == kicks)
    setup.device.holds = false
    setup.queues = [64, 16].map { DriverQueue(setup.ram, size: $0) }
    try setup.frontEnd.start(setup.queues)
    #expect(try setup.echo() == [3, 2, 1])
    #expect(setup.device.takeEvents().contains(.started(0, fresh: true, at: 0)))
  }

  @Test func ignoresResetOwner() throws {
    let setup = try Setup.running()
    try setup.frontEnd.tell(FrontEnd.resetOwner)
    #expect(try setup.echo() == [3, 2, 1])
  }

  @Test func takesOtherLinesWhileItRuns() throws {
    let setup = try Setup.running()
    let (kick, call) = (try FrontEnd.Line(), try FrontEnd.Line())
    try setup.frontEnd.sendLine(FrontEnd.setVringKick, 0, kick)
    try setup.frontEnd.sendLine(FrontEnd.setVringCall, 0, call)
    try setup.link.settle()
    setup.queues[0].send([1, 2], answer: 2)
    kick.event.signal()
    try setup.link.settle()
    let (new, old) = (call.event.drain(), setup.frontEnd.called(0))
    #expect(new && !old)
    #expect(setup.queues[0].receive()?.bytes == [2, 1])
    // No call descriptor at all: the driver looks by itself.
    try setup.frontEnd.send(FrontEnd.setVringCall, UInt64(0x100).bytes)
    setup.queues[0].send([1, 2], answer: 2)
    kick.event.signal()
    try setup.link.settle()
    #expect(setup.queues[0].receive()?.bytes == [2, 1])
  }

  @Test func reportsABrokenRing() throws {
    let setup = try Setup.running()
    setup.queues[0].makeAvailable(64)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    #expect(setup.device.chainErrors == [.headOutOfRange(64, size: 64)])
    let failed = (setup.frontEnd.failed(0), setup.frontEnd.failed(1))
    #expect(failed == (true, false))
    #expect(try setup.echo(on: 1) == [3, 2, 1])
    #expect(setup.link.end == nil, "the driver's mistake is not the front end's")
  }
}

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

  @Test func refusesATableWithoutARunningRing() throws {
    let setup = try Setup.running(
      .table, ram: GuestRAM([.init(at: 0, length: 1 << 20), .init(at: 1 << 30, length: 1 << 19, file: 1)]))
    #expect(throws: FrontEndError.closed) { try setup.frontEnd.sendTable(setup.ram, [setup.ram.blocks[1]]) }
    let address = GuestRAM.userBase + setup.queues[0].descriptors
    #expect(setup.error == .ringOutsideMemory(queue: 0, .descriptors, userAddress: address))
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

@Suite struct EndTests {
  @Test func endsInOrder() throws {
    let setup = try Setup.running()
    setup.link.hangUp()
    try setup.link.settle()
    #expect(setup.link.end == .some(nil))
    #expect(setup.link.endCount == 1)
    // The device may still hold on to what it was given.
    setup.device.vrings[0]?.notify()
    #expect(try setup.link.loop.turn(milliseconds: 0) == 0)
  }

  @Test func endsInOrderAfterItsLastMessage() throws {
    let setup = try Setup()
    try setup.frontEnd.send(FrontEnd.setDisplaySocket, descriptors: [setup.frontEnd.socket.fd.withRaw { $0 }])
    setup.link.hangUp()
    try setup.link.settle()
    #expect(setup.link.end == .some(nil))
    #expect(setup.device.takeEvents() == [.display])
  }

  @Test func stopsWhenItIsDropped() throws {
    let setup = try Setup.running()
    let kicks = setup.device.kicks
    setup.link.dropSession()
    setup.frontEnd.kick(0)
    #expect(try setup.link.loop.turn(milliseconds: 0) == 0)
    #expect(setup.device.kicks == kicks)
    #expect(setup.link.endCount == 0)
    #expect(throws: FrontEndError.closed) { try setup.frontEnd.askWord(FrontEnd.getFeatures) }
  }

  /// What keeps an answer from being read must not keep this side from working.
  @Test func doesNotWaitForAFrontEndThatDoesNotRead() throws {
    let setup = try Setup()
    var asked = 0
    while setup.link.end == nil, asked < 100_000 {
      try setup.frontEnd.send(FrontEnd.getFeatures)
      try setup.link.settle()
      asked += 1
    }
    #expect(setup.error == .repliesNotRead(.getFeatures))
    #expect(asked > 10)
  }
}
