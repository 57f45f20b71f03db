import Fixtures
import Linux
import SystemPackage
import Testing
import VhostUser

@Suite struct HandshakeTests {
  private static let version1: UInt64 = 1 << 32
  private static let eventIndex: UInt64 = 1 << 29
  private static let indirect: UInt64 = 1 << 28

  @Test(
    "a handshake as QEMU does it starts the device", arguments: FrontEnd.MemoryStyle.allCases, [false, true])
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
        .started(0, fresh: true, at: 0), .started(1, fresh: true, at: 0),
      ])
    #expect(setup.device.kicks == [1, 1], "chains may be there already")
    for index in [0, 1, 0] { #expect(try setup.echo([1, 2, 3], on: index) == [3, 2, 1]) }
    #expect(try setup.frontEnd.stop() == [2, 1])
    #expect(setup.link.end == nil)
    #expect(!setup.frontEnd.hasInput, "nothing was said that was not asked for")
  }

  @Test("the session offers the features of the device and its own") func offersWhatItCanDo() throws {
    let setup = try Setup()
    let offered = try setup.frontEnd.askWord(FrontEnd.getProtocolFeatures)
    // MQ, REPLY_ACK, BACKEND_REQ, CONFIG, RESET_DEVICE, CONFIGURE_MEM_SLOTS, SHARED_OBJECT
    #expect(offered == 1 << 0 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 18)
    try setup.frontEnd.send(FrontEnd.setProtocolFeatures, offered.bytes)
    #expect(try setup.frontEnd.askWord(FrontEnd.getMaxMemorySlots) == 509)
  }

  @Test("a driver without the event index is served") func goesOnWithoutTheEventIndex() throws {
    let setup = try Setup.running(eventIndex: false)
    for _ in 0..<100 { #expect(try setup.echo() == [3, 2, 1]) }
    setup.queues[0].suppressesCalls = true
    #expect(try setup.echo() == nil)
    #expect(setup.queues[0].receive()?.bytes == [3, 2, 1])
  }

  @Test(
    "feature bits that QEMU sets without an offer are accepted",
    arguments: [1 << 40, 1 << 24, 1 << 27, 0] as [UInt64])
  func copesWithBitsThatQEMUDoesNotMask(extra: UInt64) throws {
    let setup = try Setup()
    setup.frontEnd.extraFeatures = extra
    try setup.frontEnd.realize(memory: .slots)
    try setup.frontEnd.start(setup.queues)
    #expect(try setup.echo() == [3, 2, 1])
  }

  /// A front end that knows nothing of protocol features, and so never enables a ring.
  @Test("a front end without protocol features is served") func servesAnOldFrontEnd() throws {
    let setup = try Setup()
    let frontEnd = setup.frontEnd
    _ = try frontEnd.askWord(FrontEnd.getFeatures)
    try frontEnd.send(FrontEnd.setOwner)
    try frontEnd.send(FrontEnd.setFeatures, (Self.version1 | Self.eventIndex | Self.indirect).bytes)
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

  @Test("messages in pieces are put together", arguments: [1, 2, 5, 11, 13]) func takesMessagesInPieces(
    size: Int
  ) throws {
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

  @Test("many messages at once are executed in order") func takesManyMessagesAtOnce() throws {
    let setup = try Setup()
    var bytes: [UInt8] = []
    for _ in 0..<100 { bytes += FrontEnd.getFeatures.bytes + UInt32(1).bytes + UInt32(0).bytes }
    try setup.frontEnd.sendBytes(bytes)
    let features = try setup.frontEnd.reply(to: FrontEnd.getFeatures)
    for _ in 1..<100 { #expect(try setup.frontEnd.reply(to: FrontEnd.getFeatures) == features) }
    #expect(!setup.frontEnd.hasInput)
  }

  @Test("only the messages that ask for it are acknowledged") func acknowledgesOnlyWhatIsToBe() throws {
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

  @Test("the configuration space is read and written") func readsAndWritesTheConfiguration() throws {
    let setup = try Setup()
    try setup.frontEnd.realize(memory: .slots)
    #expect(try setup.frontEnd.config(offset: 4, size: 4) == [5, 6, 7, 8])
    #expect(try setup.frontEnd.config(offset: 15, size: 3) == [16, 0, 0])
    #expect(try setup.frontEnd.config(size: 256).count == 256)
    try setup.frontEnd.writeConfig(offset: 4, [9, 9])
    try setup.link.settle()
    #expect(setup.device.takeEvents() == [.configWritten(offset: 4, [9, 9])])
  }

  @Test("the device gets the display socket") func handsTheDisplaySocketOver() throws {
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

  @Test("the session sends requests to the front end over the socket that it was given")
  func asksTheFrontEnd() throws {
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
