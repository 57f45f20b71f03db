internal import Buffers
internal import Fixtures
internal import Guest
internal import Linux
internal import Logging
internal import Scanout
internal import SystemPackage
internal import Udmabuf
internal import Virtio
internal import VirtioGPU

/// The virtio-gpu device between a driver with real queues in real memory and a fake card.
final class Machine {
  static let outputs = [
    SinkOutput(
      name: "A",
      modes: [.reducedBlanking(width: 1024, height: 768)!, .reducedBlanking(width: 64, height: 64)!],
      hasCursor: true),
    SinkOutput(name: "B", modes: [.reducedBlanking(width: 640, height: 480)!]),
  ]
  /// Low enough to be met.
  static let quotas: Quotas = {
    var quotas = Quotas()
    (quotas.resources, quotas.pinnedBytes, quotas.entries) = (6, 96 << 10, 24)
    (quotas.bookkeepingBytes, quotas.shadowBytes) = (8 << 10, 128 << 10)
    return quotas
  }()

  let loop: EventLoop
  let ram: GuestRAM
  let card: FakeCard
  let device: GPUDevice
  let frontEnd = FakeFrontEnd()
  /// The two that the guest may have now; another one takes the place of one that is withdrawn.
  private var offers: [HostOffer]
  private var withdrawn: [HostOffer] = []
  private(set) var drivers: [DriverQueue]
  private var queues: [VirtQueue?] = [nil, nil]
  /// What was sent and not answered, by queue and head.
  private var open: [[UInt16: Sent]] = [[:], [:]]
  private var sentCount = 0
  /// The driver of each queue was called since it last found nothing.
  private var called = [false, false]

  private struct Sent {
    /// Counts up.
    let number: Int
    let fence: UInt64?
    /// The fence's ring, and the flag of that, which come back with it.
    let ring: (flag: UInt32, number: UInt32)
    let type: UInt32
    let room: Int
  }

  init() throws {
    loop = try EventLoop()
    // Three blocks: two side by side in one file, one far away in another.
    ram = try GuestRAM([
      .init(at: 0, length: 64 << 10), .init(at: 64 << 10, length: 1 << 20, offset: 64 << 10),
      .init(at: 1 << 32, length: 64 << 10, file: 1),
    ])
    card = try FakeCard(Self.outputs, loop)
    // Without the device everything is copied.
    let lender = Lender(
      device: Result { () throws(Errno) in try UdmabufDevice() }, account: GuestAccount(Self.quotas))
    offers = try [1, 2].map(FakeFrontEnd.offer)
    device = try GPUDevice(
      lender: lender, sink: card, outputs: Self.outputs, profile: .share,
      hostMemory: FakeFrontEnd.hostMemory(offers), loop: loop,
      logger: Logger(label: "fuzz") { _ in SwiftLogNoOpLogHandler() })
    device.featuresChanged(device.features)
    device.frontEnd = frontEnd
    drivers = [DriverQueue(ram, size: 16), DriverQueue(ram, size: 4)]
    for index in 0..<2 { start(index, fresh: true) }
  }

  /// The device starts a queue where its driver stands.
  func start(_ index: Int, fresh: Bool) {
    let driver = drivers[index]
    let queue: VirtQueue
    do throws(VirtQueueError) {
      queue = try VirtQueue(
        size: driver.size, rings: driver.rings, memory: ram.memory, eventIndex: driver.eventIndex,
        start: driver.seenUsed)
    } catch { fail("the rings are refused: \(error)") }
    queues[index] = queue
    device.start(
      GPUQueue(queue: queue) { [unowned self] in if queue.shouldNotify() { called[index] = true } },
      index: index, fresh: fresh)
  }

  /// The rings of a new driver.
  func replaceDriver() {
    open = [[:], [:]]
    called = [false, false]
    drivers = [DriverQueue(ram, size: 16), DriverQueue(ram, size: 4)]
    for index in 0..<2 { start(index, fresh: true) }
  }

  /// The regions of which the mask has a bit; the first two always, since the rings are there.
  func changeMemory(_ mask: UInt8) {
    let regions = ram.memory.regions.enumerated().filter { $0.offset < 2 || mask & 1 << $0.offset != 0 }
    guard let memory = try? GuestMemory(regions.map(\.element)) else { fail("a part of a table is a table") }
    for queue in queues { queue?.memory = memory }
  }

  // MARK: Commands

  /// Whether a command over so many descriptors can be sent now.
  func hasRoom(_ queue: Int, _ descriptors: Int) -> Bool { drivers[queue].freeDescriptors >= descriptors }

  func send(
    _ request: [UInt8], room: Int, on queue: Int = 0, pieces: Int = 1, answerPieces: Int = 1,
    indirect: Bool = true
  ) {
    guard request.count + room > 0 else { return }
    let head = drivers[queue].send(
      request, pieces: pieces, answer: room, answerPieces: answerPieces, indirect: indirect)
    let isFenced = request.count >= 24 && request[4] & 1 != 0
    sentCount += 1
    open[queue][head] = Sent(
      number: sentCount, fence: isFenced ? request.value(at: 8) : nil,
      ring: isFenced ? (UInt32(request[4] & 2), UInt32(request[20])) : (0, 0),
      type: request.count >= 24 ? request.value(at: 0) : 0,
      room: room)
    if drivers[queue].wantsKick() { device.kicked(queue) }
  }

  /// The front end was out of reach for some time.
  var wasGone = false

  /// Looks at the answers that are there.
  func collect() {
    for queue in 0..<2 {
      while let (head, written, bytes) = drivers[queue].receive() {
        expect(called[queue], "an answer came and the driver was not called")
        guard let sent = open[queue].removeValue(forKey: head) else { fail("an answer to nothing") }
        check(bytes, Int(written), sent)
        if queue == 1 || sent.fence == nil { continue }
        let earlier = open[queue].values.contains { $0.fence != nil && $0.number < sent.number }
        expect(!earlier, "a fence is done before an earlier one")
      }
      called[queue] = false
    }
  }

  private func check(_ bytes: [UInt8], _ written: Int, _ sent: Sent) {
    expect(written <= sent.room && bytes.count == written, "\(written) bytes in a room of \(sent.room)")
    if written == 0 { return expect(sent.room < 24, "there was room for an answer") }
    let type: UInt32 = bytes.value(at: 0)
    let size =
      switch type {
      case 0x1101: 24 + 16 * 24
      case 0x1104: 24 + 8 + 1024
      case 0x1105: 24 + 16
      case 0x1106: 24 + 8
      case 0x1100, 0x1200...0x1205: 24
      default: fail("an answer of type \(hex(type))")
      }
    expect(written == size, "an answer of type \(hex(type)) with \(written) bytes")
    if type == 0x1101 { expect(sent.type == 0x100, "an answer to another command") }
    if type == 0x1105 { expect(sent.type == 0x10b, "an answer to another command") }
    if type == 0x1106 { expect(sent.type == 0x208, "an answer to another command") }
    if type == 0x1104 { expect(sent.type == 0x10a, "an answer to another command") }
    expect(bytes.value(at: 4) as UInt32 == (sent.fence == nil ? 0 : 1) | sent.ring.flag, "flags of a fence")
    expect(bytes.value(at: 20) as UInt32 == sent.ring.number, "another ring")
    expect(bytes.value(at: 8) as UInt64 == sent.fence ?? 0, "another fence")
  }

  /// Lets everything happen that needs no waiting.
  func settle() throws {
    for _ in 0..<1000 where try loop.turn(waiting: .zero) == 0 { return }
    fail("the loop does not come to rest")
  }

  /// The queues stop, as for `GET_VRING_BASE`: every command has its answer then.
  private func stop() throws {
    // What the device left in the ring for its next turn is not taken any more once it stops.
    try settle()
    card.mood.isSlow = false
    card.wakeUp()
    var stopped = 0
    for index in 0..<2 { device.stop(index) { stopped += 1 } }
    try settle()
    collect()
    expect(stopped == 2, "a queue does not stop")
    expect(open.allSatisfy(\.isEmpty), "a command has no answer")
  }

  /// The VM pauses and goes on.
  func pause() throws {
    try stop()
    for index in 0..<2 { start(index, fresh: false) }
  }

  /// The host takes an offer back, perhaps what the guest has of it too, and makes another one under its number.
  func changeOffers(_ index: Int, isCutOff: Bool) throws {
    let offer = offers[index]
    device.withdraw(offer)
    if isCutOff {
      device.cutOff(offer)
      expect(offer.uses == 0, "what is cut off is in use")
    }
    withdrawn.append(offer)
    offers[index] = try FakeFrontEnd.offer(offer.id)
    device.add(offers[index])
  }

  // MARK: What must hold

  func checkQuotas() {
    let (now, quotas) = (device.statistics, Self.quotas)
    expect(now.liveResources <= UInt64(quotas.resources), "\(now.liveResources) resources")
    expect(now.pinnedBytes <= quotas.pinnedBytes, "\(now.pinnedBytes) pinned bytes")
    // A card may give more than it was asked for.
    expect(now.shadowBytes <= 2 * quotas.shadowBytes, "\(now.shadowBytes) bytes of copies")
    expect(
      now.framesShown + now.framesCoalesced + now.framesFailed <= now.flushes, "more frames than flushes")
  }

  /// A new driver comes, and nothing is left of the old one.
  func finish() throws {
    try stop()
    replaceDriver()
    try settle()
    // What was unmapped in vain lies there still; what was mapped and is not wanted any more does not.
    frontEnd.refuses = false
    while !frontEnd.isIdle { frontEnd.acknowledge() }
    if !wasGone {
      expect(frontEnd.mapped.isEmpty, "something is mapped still")
      expect(withdrawn.allSatisfy(\.isOver), "the guest has something of what was withdrawn")
    }
    let now = device.statistics
    expect(card.isEmpty, "the card still holds something")
    expect(
      now.liveResources == 0 && now.liveDMABufs == 0 && now.pinnedBytes == 0 && now.shadowBytes == 0,
      "something is left: \(now)")
    expect(
      now.framesShown + now.framesCoalesced + now.framesFailed == now.flushes,
      "the frames do not add up: \(now)")
    checkQuotas()
  }
}
