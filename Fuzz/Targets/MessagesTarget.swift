internal import Buffers
internal import Fixtures
internal import Guest
internal import Linux
internal import Logging
internal import SystemPackage
internal import VhostUser
internal import VhostUserGPU
internal import Virtio
internal import VirtioGPU

// vhost-user messages with descriptors, at any point of a session, to the virtio-gpu device.

func fuzzMessages(_ input: inout Input) throws {
  let peer = try Peer(&input)
  for _ in 0..<64 where !input.isEmpty && !peer.hasEnded { try peer.step(&input) }
  try peer.hangUp()
}

private final class Peer {
  private static let requests = Request.allCases.map(\.rawValue)

  private let link: Link
  private let device: GPUDevice
  private let card: FakeCard
  private let ram: GuestRAM
  private let drivers: [DriverQueue]
  private let descriptors: Descriptors
  /// The session began as QEMU's does.
  private var hasLines = false
  /// The answers that were not looked at, as bytes.
  private var replies: [UInt8] = []

  init(_ input: inout Input) throws {
    ram = try GuestRAM([
      .init(at: 0, length: 64 << 10), .init(at: 64 << 10, length: 64 << 10, offset: 64 << 10),
      .init(at: 1 << 32, length: 1 << 18, file: 1),
    ])
    drivers = [DriverQueue(ram, size: 16), DriverQueue(ram, size: 4)]
    descriptors = try Descriptors(ram.files)
    let loop = try EventLoop()
    let silent = Logger(label: "fuzz") { _ in SwiftLogNoOpLogHandler() }
    card = try FakeCard(Machine.outputs, loop)
    device = try GPUDevice(
      lender: Lender(device: .failure(.noSuchFileOrDirectory), account: GuestAccount(Machine.quotas)),
      sink: card,
      outputs: Machine.outputs, profile: .share, hostMemory: FakeFrontEnd.hostMemory(), loop: loop,
      logger: silent)
    let backEnd = GPUBackEnd(device, loop: loop, logger: silent)
    link = try Link(backEnd, loop: loop)
    backEnd.session = link.session
    // How far the session has got, as QEMU goes.
    let setup = input.byte()
    if setup & 3 == 0 { return }
    try link.frontEnd.realize(
      memory: setup & 4 == 0 ? .table : .slots, replyAck: setup & 8 == 0,
      backendRequests: setup & 16 == 0 ? nil : descriptors.socket,
      sharedMemory: setup & 32 != 0)
    hasLines = true
    if setup & 3 > 1 { try link.frontEnd.start(drivers) }
  }

  var hasEnded: Bool { link.end != nil }

  func step(_ input: inout Input) throws {
    do {
      switch input.byte() % 10 {
      case 0, 1, 2: try sendWild(&input)
      case 3, 4, 5: try sendForm(&input)
      case 6: try sendCommand(&input)
      case 7:
        let mood = input.byte()
        card.mood.isSlow = mood & 1 != 0
        card.mood.fails = mood & 2 != 0
      case 8: checkReplies()
      default: try link.frontEnd.sendBytes(input.take(Int(input.byte() % 16) + 1))
      }
      try settle()
    } catch FrontEndError.closed {
      try settle()
      expect(hasEnded, "the connection is closed and nobody was told")
    } catch FrontEndError.noReply {
      // The device waits for its card, and no message is read: the socket is full.
      expect(card.mood.isSlow, "messages are not read")
    }
  }

  /// Any message at all.
  private func sendWild(_ input: inout Input) throws {
    let kind = input.byte()
    let request = kind == 0xff ? input.number(UInt32.self) : Self.requests[Int(kind) % Self.requests.count]
    let form = input.byte()
    let passed = descriptors.several(&input)
    let payload = input.take(Int(input.byte()))
    if request == 0 { return }
    try link.frontEnd.send(
      request, payload, flags: form & 0x80 == 0 ? (form & 1 == 0 ? 1 : 9) : input.number(),
      size: form & 0x40 == 0 ? nil : input.number(), descriptors: passed)
  }

  /// A message that makes sense, with numbers of the input's choice.
  private func sendForm(_ input: inout Input) throws {
    let (kind, index) = (input.byte(), Int(input.byte() & 1))
    let queue = UInt32(index)
    let event = descriptors.event(index)
    func send(_ request: UInt32, _ payload: [UInt8], _ passed: [CInt] = []) throws {
      try link.frontEnd.send(request, payload, flags: kind & 0x80 == 0 ? 1 : 9, descriptors: passed)
    }
    func word() -> [UInt8] { queue.bytes + UInt32(input.byte()).bytes }
    switch kind % 20 {
    case 0: try send(FrontEnd.setVringNum, queue.bytes + (1 << UInt32(input.byte() % 18)).bytes)
    case 1: try send(FrontEnd.setVringBase, word())
    case 2:
      // With the log's flag, or without.
      var addresses = FrontEnd.addresses(index, drivers[index])
      addresses[4] = kind >> 6 & 1
      try send(FrontEnd.setVringAddress, addresses)
    case 3:
      // Somewhere else in the guest's memory, or beside it.
      let places = (0..<3).map { _ in GuestRAM.userBase + UInt64(input.number(UInt16.self)) * 4 }
      try send(FrontEnd.setVringAddress, queue.bytes + UInt32(0).bytes + (places + [0]).flatMap(\.bytes))
    case 4: try send(FrontEnd.setVringKick, UInt64(index).bytes, [event])
    case 5: try send(FrontEnd.setVringCall, UInt64(index).bytes, [event])
    case 6: try send(FrontEnd.setVringError, UInt64(index | 0x100).bytes)
    case 7, 8: try send(FrontEnd.setVringEnable, queue.bytes + UInt32(input.byte() & 1).bytes)
    case 9, 10: try send(FrontEnd.getVringBase, queue.bytes + UInt32(0).bytes)
    case 11:
      let blocks = ram.blocks.enumerated().filter { [mask = input.byte()] in mask & 1 << $0.offset != 0 }
      try send(
        FrontEnd.setMemoryTable,
        UInt32(blocks.count).bytes + UInt32(0).bytes
          + blocks.flatMap { FrontEnd.region($0.element) }, blocks.map { ram.files[$0.element.file].number })
    case 12:
      let block = block(&input)
      let file = kind & 0x40 == 0 ? ram.files[block.file].number : descriptors.readOnly
      try send(FrontEnd.addMemoryRegion, UInt64(0).bytes + FrontEnd.region(block), [file])
    case 13: try send(FrontEnd.removeMemoryRegion, UInt64(0).bytes + FrontEnd.region(block(&input)))
    case 14: try send(FrontEnd.resetDevice, [])
    case 15: try send(FrontEnd.setDisplaySocket, [], [descriptors.one(&input)])
    case 16:
      // VHOST_F_LOG_ALL, or not.
      let log = UInt64(kind & 0x40) << 20
      try send(
        FrontEnd.setFeatures, (link.frontEnd.offeredFeatures & ~(UInt64(input.byte()) << 24) | log).bytes)
    case 17: try send(FrontEnd.setProtocolFeatures, UInt64(input.number(UInt32.self)).bytes)
    case 18:
      try send(
        FrontEnd.getConfig,
        UInt32(input.byte()).bytes + UInt32(16).bytes
          + [UInt8](repeating: 0, count: 20))
    default:
      let asked = [
        FrontEnd.getFeatures, FrontEnd.setOwner, FrontEnd.getQueueNum, FrontEnd.getSharedMemoryConfig,
        FrontEnd.setLogBase, FrontEnd.setLogDescriptor, FrontEnd.resetOwner, FrontEnd.setLogBase,
      ]
      let choice = input.byte()
      let request = asked[Int(choice & 7)]
      try send(
        request, request == FrontEnd.setLogBase ? UInt64(4096).bytes + UInt64(0).bytes : [],
        choice & 0xc == 4 && choice & 0x80 != 0 ? [descriptors.one(&input)] : [])
    }
  }

  private func block(_ input: inout Input) -> GuestRAM.Block {
    var block = ram.blocks[Int(input.byte()) % ram.blocks.count]
    let change = input.byte()
    if change & 1 != 0 { block.length = UInt64(input.number(UInt16.self)) }
    if change & 2 != 0 { block.offset = UInt64(input.number(UInt16.self)) }
    if change & 4 != 0 { block.address = UInt64(input.number(UInt32.self)) << 8 }
    return block
  }

  /// Something for the rings, if the driver has room, and a kick.
  private func sendCommand(_ input: inout Input) throws {
    let index = Int(input.byte() & 1)
    if drivers[index].freeDescriptors > 0 {
      drivers[index].send(input.take(Int(input.byte() % 96)) + [0], answer: 24)
    }
    // The input's own kick descriptor, or the one that the session began with.
    if input.byte() & 1 == 0 || !hasLines {
      descriptors.events[index].event.signal()
    } else {
      link.frontEnd.kick(index)
    }
  }

  private func settle() throws {
    for _ in 0..<1000 where try link.loop.turn(waiting: .zero) == 0 { return }
    fail("the loop does not come to rest")
  }

  /// What came back is whole, and an answer.
  private func checkReplies() {
    var got = ReceivedDescriptors()
    while let count = try? link.frontEnd.socket.receive(into: &replies, upTo: 4096, descriptors: &got),
      count > 0
    {}
    expect(got.count == 0, "an answer comes with descriptors")
    var rest = replies[...]
    while !rest.isEmpty {
      let reply = Array(rest)
      expect(reply.count >= 12, "a part of a header")
      let (code, flags, size): (UInt32, UInt32, UInt32) = (
        reply.value(at: 0), reply.value(at: 4), reply.value(at: 8)
      )
      expect(Self.requests.contains(code) && flags == 5, "answer \(code) with flags \(flags)")
      expect(reply.count >= 12 + Int(size), "a part of an answer")
      rest = rest.dropFirst(12 + Int(size))
    }
    replies = []
  }

  func hangUp() throws {
    link.hangUp()
    try settle()
    expect(hasEnded && link.endCount == 1, "the end was told \(link.endCount) times")
  }
}
