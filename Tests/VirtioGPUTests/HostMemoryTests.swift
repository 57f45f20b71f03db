import Buffers
import Fixtures
import Linux
import Scanout
import SystemPackage
import TestSupport
import Testing
import VhostUser

@testable import VirtioGPU

/// What is taken of a region, compared with a bit for each page.
@Suite struct SharedRegionTests {
  @Test("a region's free parts are the same as in a list with a bit for each page") func isAsABitForEachPage()
  {
    let count = 64
    var region = SharedRegion(size: UInt64(count))
    var taken = [Bool](repeating: false, count: count)
    var reserved: [Range<UInt64>] = []
    var random = SystemRandomNumberGenerator()
    for _ in 0..<20_000 {
      if Bool.random(using: &random), let range = reserved.randomElement(using: &random) {
        reserved.removeAll { $0 == range }
        for page in range { taken[Int(page)] = false }
        region.giveBack(range)
      } else {
        let start = UInt64.random(in: 0...70, using: &random)
        let range = start..<start + UInt64.random(in: 0...9, using: &random)
        let fits = !range.isEmpty && range.upperBound <= count && !range.contains { taken[Int($0)] }
        let isReserved = region.reserve(range)
        #expect(isReserved == fits, "\(range)")
        if fits {
          reserved.append(range)
          for page in range { taken[Int(page)] = true }
        }
      }
      var free: [Range<UInt64>] = []
      for page in 0..<count where !taken[page] {
        if let last = free.last, last.upperBound == page {
          free[free.count - 1] = last.lowerBound..<UInt64(page + 1)
        } else {
          free.append(UInt64(page)..<UInt64(page + 1))
        }
      }
      #expect(region.free == free)
    }
    for range in reserved { region.giveBack(range) }
    #expect(region == SharedRegion(size: UInt64(count)))
  }

  @Test("a range that is empty or outside the region cannot be reserved") func numbersThatWrapAreOutside() {
    var region = SharedRegion(size: 4096)
    for range: Range<UInt64> in [.max - 1 ..< .max, 4095..<4097, 4096..<8192, 0..<0] {
      let isReserved = region.reserve(range)
      #expect(!isReserved)
    }
    let isReserved = region.reserve(0..<4096)
    #expect(isReserved && region.free.isEmpty)
  }
}

/// Memory of the host on its way into the guest and out of it, with a front end that maps nothing, but says so.
@Suite struct HostMemoryTests {
  private static let (mapCode, unmapCode): (UInt32, UInt32) = (9, 10)
  private let page = UInt64(systemPageSize)
  private let files: [Memfd]
  private let machine: Machine

  /// Offer 5 has two pages and may be used twice, offer 6 one page, to be read only; the region has 16.
  init() throws {
    files = try [2, 1].map { try Memfd.create(name: "offer", size: UInt64($0) * UInt64(systemPageSize)) }
    machine = try Self.machine(files)
  }

  private static func offer(
    _ id: UInt64, _ file: Memfd, isWritable: Bool = true, limit: Int = 1
  ) throws -> HostOffer {
    let fd = try file.withDescriptor { fd throws(Errno) in try fd.duplicate() }
    let mapping = try Mapping(fd, offset: 0, length: Int(file.status.size), writable: true)
    let buffer = Buffer(host: mapping, backing: .shadow(ShadowCause(.udmabuf, "no udmabuf in this test")))
    return HostOffer(id: id, fd, buffer, isWritable: isWritable, limit: limit)
  }

  private static func machine(_ files: [Memfd], hasChannel: Bool = true) throws -> Machine {
    let memory = HostMemory(
      size: 16 * UInt64(systemPageSize),
      offers: [try offer(5, files[0], limit: 2), try offer(6, files[1], isWritable: false)])
    return try Machine(
      .slots, udmabuf: .failure(.noSuchFileOrDirectory), backing: .auto, profile: .share, hostMemory: memory,
      hasChannel: hasChannel)
  }

  private func ok(_ requests: [UInt8]..., location: SourceLocation = #_sourceLocation) throws {
    for request in requests {
      #expect(try machine.ask(request).type == ResponseType.ok, sourceLocation: location)
    }
  }

  private func create(_ id: UInt32, _ offer: UInt64 = 5, flags: UInt32 = 1) -> [UInt8] {
    Request.createBlob(id, size: offer == 5 ? 2 * page : page, memory: 2, flags: flags, blobID: offer)
  }

  /// The payload of a request for a mapping: the region's number, then words.
  private func mapping(at offset: UInt64, _ length: UInt64, writable: UInt64) -> [UInt8] {
    [1, 0, 0, 0, 0, 0, 0, 0] + [0, offset, length, writable].flatMap(\.bytes)
  }

  /// The one request that the front end has got.
  private func request(_ location: SourceLocation = #_sourceLocation) throws -> RequestChannel.Asked {
    let asked = try machine.channel.next()
    try #require(asked.count == 1, "\(asked)", sourceLocation: location)
    return asked[0]
  }

  private func acknowledge(_ code: UInt32, _ word: UInt64 = 0) throws {
    try machine.channel.acknowledge(code, word)
    try machine.link.settle()
  }

  /// Maps, with the front end's consent.
  private func map(_ id: UInt32, at offset: UInt64) throws {
    try machine.post(Request.mapBlob(id, at: offset))
    #expect(machine.answer() == nil, "nothing is answered before the front end has")
    _ = try request()
    try acknowledge(Self.mapCode)
    #expect(machine.answer()?.type == ResponseType.mapInfo)
  }

  private func unmap(_ id: UInt32) throws {
    try machine.post(Request.unmapBlob(id))
    #expect(machine.answer() == nil)
    _ = try request()
    try acknowledge(Self.unmapCode)
    #expect(machine.answer()?.type == ResponseType.ok)
  }

  private var free: [Range<UInt64>] { machine.device.hostRegion?.region.free ?? [] }
  private var whole: [Range<UInt64>] { [0..<16 * page] }

  @Test("the front end learns the number and the size of the region") func theFrontEndIsToldOfTheRegion()
    throws
  {
    #expect(
      machine.frontEnd.offeredFeatures & 0xffffff == 0b11_1111,
      "VIRTIO_GPU_F_VIRGL and _CONTEXT_INIT beside those of the other profile")
    let answer = try machine.frontEnd.ask(FrontEnd.getSharedMemoryConfig)
    #expect(answer.count == 8 + 256 * 8)
    #expect(answer.value(at: 0) as UInt32 == 1)
    for id in 0..<256 {
      #expect(answer.value(at: 8 + 8 * id) as UInt64 == (id == 1 ? 16 * page : 0))
    }
  }

  @Test("a device without a region does not offer its question, and refuses it")
  func aDeviceWithoutARegionHasNoneToTell() throws {
    let other = try Machine(.slots, udmabuf: .failure(.noSuchFileOrDirectory))
    #expect(try other.frontEnd.askWord(FrontEnd.getProtocolFeatures) & 1 << 22 == 0)
    #expect(throws: FrontEndError.closed) { try other.frontEnd.ask(FrontEnd.getSharedMemoryConfig) }
  }

  @Test("a blob of the host's memory is mapped and unmapped") func isMappedAndUnmapped() throws {
    try ok(create(1), create(2, 6))
    try machine.post(Request.mapBlob(1, at: 4 * page, fence: 77))
    var asked = try request()
    #expect(asked.code == Self.mapCode && asked.needsReply && asked.inode == files[0].status.inode)
    #expect(asked.payload == mapping(at: 4 * page, 2 * page, writable: 1))
    // Until the front end has done it, the device goes on with all else, and serves what the front end asks.
    #expect(machine.answer() == nil)
    #expect(try machine.frontEnd.config(size: 4) == [0, 0, 0, 0])
    #expect(try machine.ask(Request.displayInfo()).type == ResponseType.displayInfo)
    try acknowledge(Self.mapCode)
    let answer = try #require(machine.answer())
    #expect(answer.type == ResponseType.mapInfo && answer.fence == 77 && answer.written == 32)
    #expect(answer.bytes.value(at: 24) as UInt32 == 1, "VIRTIO_GPU_MAP_CACHE_CACHED")
    #expect(free == [0..<4 * page, 6 * page..<16 * page])

    try machine.post(Request.mapBlob(2, at: 6 * page))
    asked = try request()
    #expect(asked.inode == files[1].status.inode)
    #expect(asked.payload == mapping(at: 6 * page, page, writable: 0), "what may only be read is mapped so")
    try acknowledge(Self.mapCode)
    #expect(machine.answer()?.type == ResponseType.mapInfo)

    try machine.post(Request.unmapBlob(1))
    asked = try request()
    #expect(asked.code == Self.unmapCode && asked.needsReply && asked.inode == nil)
    #expect(asked.payload == mapping(at: 4 * page, 2 * page, writable: 0))
    #expect(machine.answer() == nil)
    try acknowledge(Self.unmapCode)
    #expect(machine.answer()?.type == ResponseType.ok)
    try unmap(2)
    #expect(free == whole)
    try ok(Request.unref(1), Request.unref(2))
    #expect(machine.device.statistics.protocolErrors.isEmpty)
  }

  @Test("after two hundred mappings and unmappings the whole region is free") func twoHundredMappings() throws
  {
    try ok(create(1))
    for round: UInt64 in 0..<200 {
      try map(1, at: round % 15 * page)
      try unmap(1)
    }
    #expect(free == whole)
  }

  /// The front end says no: the guest is told, and the place is free again.
  @Test(
    "if the front end refuses a mapping or unmapping, the guest gets an error, and the place is free",
    arguments: [1, .max, 0xffff_ffff] as [UInt64]) func theFrontEndRefuses(_ word: UInt64) throws
  {
    try ok(create(1))
    try machine.post(Request.mapBlob(1, at: 0))
    _ = try request()
    try acknowledge(Self.mapCode, word)
    #expect(machine.answer()?.type == ResponseType.unspecified && free == whole)
    try map(1, at: 0)
    try machine.post(Request.unmapBlob(1))
    _ = try request()
    try acknowledge(Self.unmapCode, word)
    #expect(machine.answer()?.type == ResponseType.unspecified && free == whole)
    try map(1, at: 0)
  }

  /// The resource goes while its mapping is made, is there, or is taken away.
  @Test("a resource that goes at any step of its mapping leaves its place free") func theResourceGoesBefore()
    throws
  {
    try ok(create(1))
    try machine.post(Request.mapBlob(1, at: 0))
    _ = try request()
    try machine.post(Request.unref(1))
    #expect(machine.answer() == nil, "the guest would use the place for another mapping")
    #expect(try machine.channel.next().isEmpty, "what is not there cannot be taken away")
    try acknowledge(Self.mapCode)
    #expect(machine.answer()?.type == ResponseType.unspecified)
    #expect(try request().code == Self.unmapCode && machine.answer() == nil)
    try acknowledge(Self.unmapCode)
    #expect(machine.answer()?.type == ResponseType.ok && free == whole)

    try ok(create(1))
    try map(1, at: 0)
    try machine.post(Request.unref(1))
    #expect(try request().code == Self.unmapCode && free != whole && machine.answer() == nil)
    // That the front end could not does not matter to a guest that has no such resource any more.
    try acknowledge(Self.unmapCode, 1)
    #expect(machine.answer()?.type == ResponseType.ok && free == whole)

    try ok(create(1))
    try map(1, at: 0)
    try machine.post(Request.unmapBlob(1))
    try machine.post(Request.unref(1))
    #expect(machine.answer() == nil)
    #expect(try request().code == Self.unmapCode, "once")
    try acknowledge(Self.unmapCode)
    #expect(machine.answer()?.type == ResponseType.ok && machine.answer()?.type == ResponseType.ok)
    #expect(free == whole)
    #expect(machine.device.hostRegion!.offers[5]?.uses == 0)
  }

  @Test("a stop does not wait for a mapping; a late one is taken away when the queue runs again")
  func theQueueStopsBefore() throws {
    try ok(create(1))
    try machine.post(Request.mapBlob(1, at: 0))
    _ = try request()
    _ = try machine.frontEnd.stop()
    #expect(machine.answer()?.type == ResponseType.unspecified)
    try acknowledge(Self.mapCode)
    #expect(try machine.channel.next().isEmpty, "QEMU would end")
    try machine.start()
    try unmapping()
    try map(1, at: 0)
  }

  @Test("a queue that ends without a stop answers nothing, and a late mapping goes with the device's reset")
  func theQueueEndsBefore() throws {
    try ok(create(1))
    try machine.post(Request.mapBlob(1, at: 0))
    _ = try request()
    machine.device.drop(0)
    try acknowledge(Self.mapCode)
    #expect(try machine.channel.next().isEmpty && machine.answer() == nil)
    #expect(free != whole)
    _ = try machine.frontEnd.stop()
    try machine.replaceDriver()
    #expect(try machine.channel.next().isEmpty && free == whole)
  }

  /// The front end is asked to take the only mapping away, and does.
  private func unmapping() throws {
    #expect(free != whole)
    #expect(try request().code == Self.unmapCode)
    try acknowledge(Self.unmapCode)
    #expect(free == whole)
  }

  /// The front end has taken it away by itself, and QEMU ends when it is asked for a mapping that is gone.
  @Test(
    "a new driver finds no mappings of the old one, and the front end is not asked to unmap",
    arguments: [true, false])
  func aNewDriver(reset: Bool) throws {
    try ok(create(1), Request.createContext(3))
    try map(1, at: 0)
    if reset {
      try machine.frontEnd.tell(FrontEnd.resetDevice)
    } else {
      _ = try machine.frontEnd.stop()
    }
    try machine.replaceDriver()
    #expect(try machine.channel.next().isEmpty && free == whole)
    #expect(machine.device.resources.isEmpty && machine.device.hostRegion!.offers[5]?.uses == 0)
    try ok(create(1), Request.createContext(3))
    try map(1, at: 0)
  }

  /// A hundred things that the front end does one after the other take it longer than one.
  @Test("each answer of the front end gives a waiting request its whole time again") func theFrontEndIsSlow()
  {
    let start = Instant.now
    let errand = Errand(ifAbandoned: .ok, by: .frontEnd, patience: .nanoseconds(50))
    let header = ControlHeader(type: 0, flags: 0, fenceID: 0, contextID: 0, ringIndex: 0)
    let waiting = PendingResponse(
      head: 0, writable: [], header: header, response: .ok, deadline: start, errand: errand)
    waiting.waitLonger(start + .nanoseconds(1000))
    let deadline = start + .nanoseconds(1050)
    #expect(waiting.deadline == deadline)
    waiting.waitLonger(start)
    #expect(waiting.deadline == deadline)
    waiting.finish(.mapInfo)
    waiting.waitLonger(start + .nanoseconds(5000))
    #expect(waiting.deadline == deadline && waiting.isReady)
  }

  enum Break: CaseIterable { case closed, anotherCode, anotherSize, aRequest, cutOff }

  /// The front end's channel breaks, in one of the ways in which it can: the guest is told, and goes on.
  @Test("if the front end's channel breaks, mappings fail, and the device goes on", arguments: Break.allCases)
  func theChannelBreaks(_ way: Break) throws {
    try ok(create(1))
    try machine.post(Request.mapBlob(1, at: 0))
    _ = try request()
    switch way {
    case .closed: machine.channel.hangUp()
    case .anotherCode: try machine.channel.acknowledge(Self.unmapCode)
    case .anotherSize: try machine.channel.acknowledge(Self.mapCode, size: 12)
    case .aRequest: try machine.channel.acknowledge(Self.mapCode, flags: 1)
    case .cutOff:
      try machine.channel.send([9, 0, 0, 0, 5, 0, 0, 0])
      machine.channel.hangUp()
    }
    try machine.link.settle()
    #expect(machine.answer()?.type == ResponseType.unspecified && free == whole)
    #expect(try machine.ask(Request.mapBlob(1, at: 0)).type == ResponseType.unspecified)
    #expect(free == whole && machine.link.end == nil)
    try ok(Request.unref(1))
  }

  /// It breaks just when it is asked to take something away.
  @Test(
    "if the channel breaks before an unmapping, the command is answered, and the place is free",
    arguments: [true, false]) func theChannelIsGone(unref: Bool) throws
  {
    try ok(create(1))
    try map(1, at: 0)
    machine.channel.hangUp()
    try machine.post(unref ? Request.unref(1) : Request.unmapBlob(1))
    try machine.link.settle()
    #expect(machine.answer()?.type == (unref ? ResponseType.ok : ResponseType.unspecified) && free == whole)
  }

  /// Tells the front end more than its socket has room for.
  /// - Returns: how much.
  private func fillChannel() throws -> Int {
    var sent = 0
    while machine.device.statistics.protocolErrors["lostNews"] == nil {
      machine.device.tell(.configChanged)
      sent += 1
      try #require(sent < 1_000_000)
    }
    return sent
  }

  /// The socket is full: what must reach the front end does, later, and nothing overtakes it.
  @Test("with a full socket an unmapping waits for its turn, and a new mapping is refused")
  func theSocketIsFull() throws {
    try ok(create(1), create(2))
    try map(1, at: 0)
    let sent = try fillChannel()
    try machine.post(Request.unmapBlob(1))
    #expect(machine.answer() == nil && free != whole, "it is mapped still")
    #expect(try machine.ask(Request.mapBlob(2, at: 4 * page)).type == ResponseType.unspecified)
    try machine.post(Request.unref(1))
    #expect(
      machine.answer() == nil && machine.device.hostRegion!.offers[5]?.uses == 1, "the next blob may come")
    var asked: [RequestChannel.Asked] = []
    while asked.last?.code != Self.unmapCode {
      asked += try machine.channel.next()
      try machine.link.settle()
    }
    #expect(
      asked.count == sent && asked.dropLast().allSatisfy { $0.code == 2 }, "all but the one that was lost")
    try acknowledge(Self.unmapCode)
    #expect(machine.answer()?.type == ResponseType.ok && machine.answer()?.type == ResponseType.ok)
    #expect(free == whole && machine.device.hostRegion!.offers[5]?.uses == 1)
    try map(2, at: 0)
  }

  /// QEMU has room for a certain number of regions of memory.
  @Test("a mapping beyond the limit is refused, until another one goes") func mappingsAreBounded() throws {
    let file = try Memfd.create(name: "offer", size: page)
    let limit = HostRegion.maxMappings
    let memory = HostMemory(size: 300 * page, offers: [try Self.offer(5, file, limit: 300)])
    let machine = try Machine(
      .slots, udmabuf: .failure(.noSuchFileOrDirectory), backing: .auto, profile: .share, hostMemory: memory)
    for id in 1...UInt32(limit + 1) {
      let blob = Request.createBlob(id, size: page, memory: 2, flags: 1, blobID: 5)
      #expect(try machine.ask(blob).type == ResponseType.ok)
      try machine.post(Request.mapBlob(id, at: UInt64(id) * page))
      if id > limit { break }
      _ = try machine.channel.next()
      try machine.channel.acknowledge(Self.mapCode)
      try machine.link.settle()
      #expect(machine.answer()?.type == ResponseType.mapInfo)
    }
    #expect(machine.answer()?.type == ResponseType.outOfMemory)
    try machine.post(Request.unmapBlob(1))
    _ = try machine.channel.next()
    try machine.channel.acknowledge(Self.unmapCode)
    try machine.link.settle()
    #expect(machine.answer()?.type == ResponseType.ok)
    try machine.post(Request.mapBlob(UInt32(limit + 1), at: 0))
    #expect(try machine.channel.next().count == 1)
  }

  // MARK: Taken back

  private var offer: HostOffer {
    get throws { try #require(machine.device.hostRegion?.offers[5]) }
  }

  @Test("a withdrawn offer gives no new blobs, stays mapped, and is over with its last blob")
  func withdrawn() throws {
    let offer = try offer
    try ok(create(1))
    try map(1, at: 0)
    machine.device.withdraw(offer)
    #expect(try machine.ask(create(2)).type == ResponseType.invalidParameter)
    #expect(!offer.isOver && offer.uses == 1)
    try unmap(1)
    #expect(!offer.isOver, "the guest may map it again")
    try map(1, at: 4 * page)
    try machine.post(Request.unref(1))
    _ = try request()
    #expect(!offer.isOver && offer.uses == 0, "QEMU has it mapped")
    try acknowledge(Self.unmapCode)
    #expect(offer.isOver && machine.answer()?.type == ResponseType.ok && free == whole)
  }

  @Test("an offer without blobs is over as soon as it is withdrawn, and its token closes")
  func unused() throws {
    var reading: FD?
    let token = try makePipe { reading = consume $0 }
    let fd = try files[0].withDescriptor { fd throws(Errno) in try fd.duplicate() }
    let buffer = try offer.buffer
    let another = HostOffer(
      id: 9, fd, try #require(buffer), isWritable: true, limit: 1, token: token)
    machine.device.add(another)
    try ok(Request.createBlob(1, size: 2 * page, memory: 2, flags: 1, blobID: 9), Request.unref(1))
    try reading?.setNonblocking()
    let error = #expect(throws: Errno.self) { _ = try reading?.read(upTo: 1) }
    #expect(error == .wouldBlock)
    machine.device.withdraw(another)
    let end = try reading?.read(upTo: 1)
    #expect(another.isOver && end == [])
  }

  /// Takes it back while it is mapped. The front end is asked for both at once.
  private func cutOff(_ offer: HostOffer) throws {
    machine.device.withdraw(offer)
    machine.device.cutOff(offer)
    let asked = try machine.channel.next()
    #expect(asked.map(\.code) == [Self.unmapCode, Self.mapCode])
    #expect(
      asked.map(\.payload) == [mapping(at: 0, 2 * page, writable: 0), mapping(at: 0, 2 * page, writable: 1)])
  }

  @Test("zeros take the place of memory that is cut off, until the guest unmaps it")
  func zeros() throws {
    let offer = try offer
    try ok(create(1))
    try map(1, at: 0)
    try cutOff(offer)
    #expect(!offer.isOver && offer.uses == 0)
    try acknowledge(Self.unmapCode)
    #expect(offer.isOver && free != whole)
    try acknowledge(Self.mapCode)
    // It is the guest's as before, but for what is in it.
    #expect(try machine.ask(Request.mapBlob(1, at: 4 * page)).type == ResponseType.unspecified)
    try unmap(1)
    #expect(free == whole)
    #expect(
      try machine.ask(Request.mapBlob(1, at: 0)).type == ResponseType.unspecified, "nothing is there to map")
    try ok(Request.unref(1))
  }

  @Test("if the guest lets go while zeros are on their way, they are unmapped too", arguments: [true, false])
  func letGoMeanwhile(unref: Bool) throws {
    let offer = try offer
    try ok(create(1))
    try map(1, at: 0)
    try cutOff(offer)
    try machine.post(unref ? Request.unref(1) : Request.unmapBlob(1))
    #expect(machine.answer() == nil)
    try acknowledge(Self.unmapCode)
    try acknowledge(Self.mapCode)
    #expect(machine.answer() == nil && free != whole && offer.isOver)
    #expect(try request().code == Self.unmapCode)
    try acknowledge(Self.unmapCode)
    #expect(machine.answer()?.type == ResponseType.ok && free == whole)
  }

  @Test("memory that is cut off on its way into the guest is replaced once it is there")
  func onItsWay() throws {
    let offer = try offer
    try ok(create(1))
    try machine.post(Request.mapBlob(1, at: 0))
    _ = try request()
    machine.device.withdraw(offer)
    machine.device.cutOff(offer)
    #expect(try machine.channel.next().isEmpty)
    try acknowledge(Self.mapCode)
    #expect(machine.answer()?.type == ResponseType.mapInfo)
    #expect(try machine.channel.next().map(\.code) == [Self.unmapCode, Self.mapCode])
    try acknowledge(Self.unmapCode)
    try acknowledge(Self.mapCode)
    #expect(offer.isOver)
    try machine.post(Request.unref(1))
    _ = try request()
    try acknowledge(Self.unmapCode)
    #expect(machine.answer()?.type == ResponseType.ok && free == whole)
  }

  @Test("if the front end maps no zeros, the place is free, and the log says so")
  func noZeros() throws {
    let offer = try offer
    try ok(create(1))
    try map(1, at: 0)
    try cutOff(offer)
    try acknowledge(Self.unmapCode)
    try acknowledge(Self.mapCode, 1)
    #expect(offer.isOver && free == whole)
    #expect(machine.log.warnings.contains { $0.contains("no zeros") })
    try ok(Request.unref(1))
  }

  @Test("if zeros cannot be requested, the offer lasts until the front end has unmapped it")
  func hole() throws {
    let offer = try offer
    try ok(create(1))
    try map(1, at: 0)
    _ = try fillChannel()
    machine.device.withdraw(offer)
    machine.device.cutOff(offer)
    #expect(machine.log.warnings.contains { $0.contains("no zeros take the place") })
    try machine.post(Request.unref(1))
    var asked: [RequestChannel.Asked] = []
    while asked.last?.code != Self.unmapCode {
      #expect(!offer.isOver && free != whole && machine.answer() == nil)
      asked += try machine.channel.next()
      try machine.link.settle()
    }
    #expect(!offer.isOver && free != whole)
    try acknowledge(Self.unmapCode)
    #expect(offer.isOver && free == whole && machine.answer()?.type == ResponseType.ok)
    #expect(try machine.channel.next().allSatisfy { $0.code == 2 })
  }

  @Test("memory that is cut off while the guest is stopped stays mapped until it goes on")
  func stopped() throws {
    let offer = try offer
    try ok(create(1), create(2))
    try map(1, at: 0)
    _ = try machine.frontEnd.stop()
    machine.device.withdraw(offer)
    machine.device.cutOff(offer)
    try machine.link.settle()
    #expect(try machine.channel.next().isEmpty && !offer.isOver && offer.uses == 1)
    try machine.start()
    #expect(try machine.channel.next().map(\.code) == [Self.unmapCode, Self.mapCode])
    try acknowledge(Self.unmapCode)
    #expect(offer.isOver)
    try acknowledge(Self.mapCode)
    try unmap(1)
    #expect(free == whole)
  }

  @Test("memory of the host that is cut off goes off the screen")
  func offTheScreen() throws {
    let offer = try offer
    try ok(create(1))
    try ok(Request.setScanoutBlob(0, 1, 32, 32, offset: 512), Request.flush(1, Rectangle(0, 0, 32, 32)))
    machine.screen.flipAll()
    #expect(machine.screen.shown() != nil)
    machine.device.withdraw(offer)
    machine.device.cutOff(offer)
    machine.screen.flipAll()
    try machine.link.settle()
    #expect(machine.screen.shown() == nil && offer.isOver)
    #expect(
      try machine.ask(Request.setScanoutBlob(0, 1, 32, 32, offset: 512)).type != ResponseType.ok,
      "there is nothing to show")
    try ok(Request.unref(1))
  }

  @Test("without a channel a mapping is refused, and the log names the QEMU that has one")
  func withoutAChannel() throws {
    let other = try Self.machine(files, hasChannel: false)
    #expect(try other.ask(create(1)).type == ResponseType.ok)
    #expect(try other.ask(Request.mapBlob(1, at: 0)).type == ResponseType.unspecified)
    #expect(other.log.warnings.contains { $0.contains("QEMU") && $0.contains("11.1") })
  }

  /// It is shown as any other blob.
  @Test("memory of the host is shown as any other blob, and pins nothing") func isShown() throws {
    try ok(create(1))
    let file = try files[0].withDescriptor { fd throws(Errno) in
      try Mapping(fd, offset: 0, length: Int(2 * page), writable: true)
    }
    for offset in stride(from: 0, to: Int(2 * page), by: 4) { file.store(UInt32(offset &* 77), at: offset) }
    try ok(Request.setScanoutBlob(0, 1, 32, 32, offset: 512), Request.flush(1, Rectangle(0, 0, 32, 32)))
    machine.screen.flipAll()
    let pixels = try #require(machine.screen.shown()).pixels()
    for (index, pixel) in pixels.enumerated() {
      #expect(pixel == UInt32((512 + index * 4) &* 77).bytes)
    }
    #expect(machine.device.statistics.shadows == ["udmabuf": 1])
    #expect(machine.device.statistics.pinnedBytes == 0)
    try machine.post(Request.unref(1))
    machine.screen.flipAll()
    try machine.link.settle()
    #expect(machine.answer()?.type == ResponseType.ok)
    #expect(machine.device.statistics.pinnedBytes == 0 && machine.device.hostRegion!.offers[5]?.uses == 0)
  }

  // MARK: What is refused

  struct Refused: CustomTestStringConvertible {
    let testDescription: String
    let request: [UInt8]
    let error: UInt32
    init(_ name: String, _ request: [UInt8], _ error: UInt32 = ResponseType.invalidParameter) {
      (testDescription, self.request, self.error) = (name, request, error)
    }
  }

  private static func host(
    _ id: UInt32, size: UInt64, offer: UInt64, flags: UInt32 = 1, count: UInt32? = nil
  ) -> [UInt8] {
    Request.createBlob(id, size: size, memory: 2, flags: flags, blobID: offer, count: count)
  }

  /// Blob 1 is of offer 5 and mapped at page 4; 2 is of offer 5, not mapped; 3 is of offer 6, not mappable; 4 is of
  /// guest memory, 5 an image; context 9 is there.
  static let refused: [Refused] = {
    let page = UInt64(systemPageSize)
    let (none, unspecified) = (ResponseType.invalidResource, ResponseType.unspecified)
    var all = [
      Refused("an offer that is not there", host(8, size: page, offer: 7)),
      Refused("offer 0", host(8, size: page, offer: 0)),
      Refused("too small", host(8, size: page, offer: 5)),
      Refused("too large", host(8, size: 3 * page, offer: 5)),
      Refused("no size", host(8, size: 0, offer: 5)),
      Refused("with entries", host(8, size: 2 * page, offer: 5, count: 1)),
      Refused("once more than it may be used", host(8, size: 2 * page, offer: 5), ResponseType.outOfMemory),
      Refused("an unknown flag", host(8, size: 2 * page, offer: 5, flags: 9)),
      Refused("host and guest memory", Request.createBlob(8, size: page, memory: 3, blobID: 5)),
      Refused("map nothing", Request.mapBlob(8, at: 0), none),
      Refused("map 0", Request.mapBlob(0, at: 0), none),
      Refused("map what is mapped", Request.mapBlob(1, at: 0), unspecified),
      Refused("map what is not mappable", Request.mapBlob(3, at: 0), unspecified),
      Refused("map guest memory", Request.mapBlob(4, at: 0), unspecified),
      Refused("map an image", Request.mapBlob(5, at: 0), unspecified),
      Refused("unmap nothing", Request.unmapBlob(8), none),
      Refused("unmap what is not mapped", Request.unmapBlob(2), unspecified),
      Refused("unmap an image", Request.unmapBlob(5), unspecified),
      Refused("detach host memory", Request.detach(1), unspecified),
      Refused("attach to host memory", Request.attach(1, [(0x1000, 0x2000)]), unspecified),
      Refused("a context twice", Request.createContext(9), ResponseType.invalidContext),
      Refused("context 0", Request.createContext(0), ResponseType.invalidContext),
      Refused("destroy no context", Request.destroyContext(8), ResponseType.invalidContext),
      Refused("attach to no context", Request.attachToContext(8, 1), ResponseType.invalidContext),
      Refused("attach nothing to a context", Request.attachToContext(9, 8), none),
      Refused("detach nothing from it", Request.attachToContext(9, 8, detach: true), none),
      Refused("3D", Request.submit(9, size: 4), unspecified),
      Refused("no 3D in no context", Request.submit(8, size: 0), ResponseType.invalidContext),
    ]
    for offset in [3 * page, 4 * page, 5 * page, 15 * page, 16 * page, 1, 512, 0 &- page, .max, 1 << 63] {
      all.append(Refused("mapped at \(hex(offset))", Request.mapBlob(2, at: offset)))
    }
    return all
  }()

  @Test("a wrong command about the host's memory is refused", arguments: refused) func isRefused(
    _ command: Refused
  ) throws {
    try ok(
      create(1), create(2), create(3, 6, flags: 2), Request.createBlob(4, size: page), Request.create(5),
      Request.createContext(9))
    try map(1, at: 4 * page)
    let (before, uses) = (free, machine.device.hostRegion!.offers.values.map(\.uses))
    #expect(try machine.ask(command.request).type == command.error)
    #expect(free == before && machine.device.hostRegion!.offers.values.map(\.uses) == uses)
    #expect(try machine.channel.next().isEmpty && machine.link.end == nil)
    #expect(machine.device.resources.count == 5 && machine.device.contexts.ids == [9])
    #expect(machine.device.statistics.protocolErrors.values.reduce(0, +) == 1)
    #expect(machine.log.warnings.count == 1)
    // The device goes on.
    try ok(
      Request.attachToContext(9, 1), Request.attachToContext(9, 1, detach: true), Request.submit(9, size: 0))
    try map(2, at: 0)
  }

  @Test("a 3D context beyond the limit is refused, until another one goes") func contextsAreBounded() throws {
    let limit = UInt32(Quotas().resources)
    for id in 1...limit { try ok(Request.createContext(id)) }
    #expect(try machine.ask(Request.createContext(limit + 1)).type == ResponseType.outOfMemory)
    try ok(Request.destroyContext(7), Request.createContext(limit + 1))
  }
}
