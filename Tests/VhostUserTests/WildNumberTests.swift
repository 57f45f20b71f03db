import Fixtures
import Guest
import Linux
import SystemPackage
import Testing
import VhostUser
import Virtio

/// A message with a number that it must not have.
struct WildCase: CustomTestStringConvertible, Sendable {
  let testDescription: String
  let request: Request
  let payload: [UInt8]
  let descriptors: Int
  /// Words of the sentence that says what is wrong.
  let says: [String]

  init(_ name: String, _ request: Request, _ payload: [UInt8], descriptors: Int = 0, says: String...) {
    testDescription = "\(request): \(name)"
    self.request = request
    self.payload = payload
    self.descriptors = descriptors
    self.says = says
  }
}

@Suite struct WildNumberTests {
  private static func region(
    _ guest: UInt64, _ length: UInt64, _ user: UInt64, _ offset: UInt64
  ) -> [UInt8] { [guest, length, user, offset].flatMap { $0.bytes } }

  private static let queues: [WildCase] = [2, 255, 256, UInt32.max].flatMap { queue in
    [
      WildCase("queue \(queue)", .setVringSize, numbers(queue, 64), says: "queue is \(queue)", "less than 2"),
      WildCase("queue \(queue)", .setVringBase, numbers(queue, 0), says: "queue is \(queue)"),
      WildCase("queue \(queue)", .getVringBase, numbers(queue, 0), says: "queue is \(queue)"),
      WildCase("queue \(queue)", .setVringEnable, numbers(queue, 1), says: "queue is \(queue)"),
      WildCase(
        "queue \(queue)", .setVringAddress, numbers(queue, 0) + [UInt8](repeating: 0, count: 32),
        says: "queue is \(queue)"),
    ]
  }

  private static let lines: [WildCase] = [Request.setVringKick, .setVringCall, .setVringError].flatMap {
    [
      WildCase("queue 2", $0, UInt64(2).bytes, descriptors: 1, says: "queue is 2", "less than 2"),
      WildCase("queue 255", $0, UInt64(255).bytes, descriptors: 1, says: "queue is 255"),
      WildCase("bit 9", $0, UInt64(0x200).bytes, descriptors: 1, says: "payload is 512"),
      WildCase("all bits", $0, UInt64.max.bytes, says: "payload is 18446744073709551615"),
      WildCase("the top bit", $0, ((1 as UInt64) << 63).bytes, descriptors: 1, says: "payload is"),
      WildCase(
        "bit 8 with a descriptor", $0, UInt64(0x100).bytes, descriptors: 1, says: "1 descriptors instead of 0"
      ),
    ]
  }

  private static let regions: [WildCase] = [
    WildCase("nine regions", .setMemoryTable, numbers(9, 0), says: "regions is 9", "at most 8"),
    WildCase("very many regions", .setMemoryTable, numbers(.max, 0), says: "4294967295"),
    WildCase(
      "empty", .addMemoryRegion, numbers(0, 0) + region(0x8000, 0, 0, 0), descriptors: 1,
      says: "0x8000 is empty", "memory-backend-memfd,share=on"),
    WildCase(
      "past the file", .addMemoryRegion, numbers(0, 0) + region(0x8000, 0x1000, 0, 0x2001), descriptors: 1,
      says: "ends at offset 12289 of a file of 12288"),
    WildCase(
      "past the guest's address space", .addMemoryRegion, numbers(0, 0) + region(.max, 0x1000, 0, 0),
      descriptors: 1, says: "exceeds 64 bits"),
    WildCase(
      "past the user address space", .addMemoryRegion, numbers(0, 0) + region(0x8000, 0x1000, .max, 0),
      descriptors: 1, says: "exceeds 64 bits"),
    WildCase(
      "a wild offset", .addMemoryRegion, numbers(0, 0) + region(0x8000, 0x1000, 0, .max - 5), descriptors: 1,
      says: "exceeds 64 bits"),
    WildCase(
      "a wild length", .addMemoryRegion, numbers(0, 0) + region(0x8000, 1 << 62, 0, 0), descriptors: 1,
      says: "0x8000"),
    WildCase(
      "overlap", .addMemoryRegion, numbers(0, 0) + region(0x1fff, 0x1000, 0, 0), descriptors: 1,
      says: "0x1000 and 0x1fff overlap"),
    WildCase(
      "overlap within a table", .setMemoryTable,
      numbers(2, 0) + region(0, 0x1000, 0, 0) + region(0, 0x1000, 0, 0),
      descriptors: 2, says: "overlap"),
    WildCase(
      "not there", .removeMemoryRegion, numbers(0, 0) + region(0x5000, 0x1000, 0, 0),
      says: "no memory region at 0x5000"),
  ]

  static let cases: [WildCase] =
    queues + lines + regions + [
      WildCase("0", .setVringSize, numbers(0, 0), says: "size is 0", "1 to 32768"),
      WildCase("65536", .setVringSize, numbers(0, 65536), says: "size is 65536", "32768"),
      WildCase("2^31", .setVringSize, numbers(0, 1 << 31), says: "size is 2147483648"),
      WildCase("65536", .setVringBase, numbers(0, 65536), says: "index is 65536", "65535"),
      WildCase("state 2", .setVringEnable, numbers(0, 2), says: "state is 2"),
      WildCase(
        "flags", .setVringAddress, numbers(0, 2) + [UInt8](repeating: 0, count: 32), says: "flags is 2",
        "0 or 1"),
      WildCase("no descriptor", .setVringKick, UInt64(0x101).bytes, says: "queue 1", "polling"),
      WildCase("size 0", .getConfig, numbers(0, 0, 0), says: "size is 0", "1 to 256"),
      WildCase("size 257", .getConfig, numbers(0, 257, 0), says: "size is 257"),
      WildCase("all of it twice", .getConfig, numbers(0, .max, 0), says: "size is 4294967295"),
      WildCase("over the end", .getConfig, numbers(253, 4, 0, 0), says: "offset is 253", "at most 252"),
      WildCase("far away", .setConfig, numbers(.max, 4, 0, 0), says: "offset is 4294967295"),
      WildCase("flags", .setConfig, numbers(0, 4, 2, 0), says: "flags is 2"),
      WildCase("a feature too many", .setProtocolFeatures, UInt64(1 << 1).bytes, says: "mask is 2"),
      WildCase("all features", .setProtocolFeatures, UInt64.max.bytes, says: "mask is"),
      WildCase("ACCESS_PLATFORM", .setFeatures, UInt64(1 << 32 | 1 << 33).bytes, says: "iommu_platform=off"),
      WildCase(
        "RING_PACKED", .setFeatures, UInt64(1 << 32 | 1 << 34).bytes, says: "RING_PACKED", "packed=off"),
      WildCase("IN_ORDER", .setFeatures, UInt64(1 << 32 | 1 << 35).bytes, says: "in_order=off"),
      WildCase("ORDER_PLATFORM", .setFeatures, UInt64(1 << 32 | 1 << 36).bytes, says: "ORDER_PLATFORM"),
      WildCase("SR_IOV", .setFeatures, UInt64(1 << 32 | 1 << 37).bytes, says: "SR_IOV"),
      WildCase("NOTIFICATION_DATA", .setFeatures, UInt64(1 << 32 | 1 << 38).bytes, says: "NOTIFICATION_DATA"),
      WildCase("not the device's", .setFeatures, UInt64(1 << 32 | 1 << 5).bytes, says: "virtio feature 5"),
    ]

  @Test("a wrong number ends the session with an error that names it", arguments: cases) func endsTheSession(
    _ item: WildCase
  ) throws {
    let victim = try Victim()
    let error = try victim.end(after: item.request, item.payload, descriptors: item.descriptors)
    let text = try #require(error).description
    #expect(text.contains("\(item.request)"))
    for words in item.says { #expect(text.contains(words), "\(text)") }
    #expect(victim.setup.link.endCount == 1)
  }

  /// What a front end passes on from the driver does not end the session, and the next driver is served.
  struct BadRing: Sendable, CustomTestStringConvertible {
    let testDescription: String
    var features: UInt64 = 0
    var size: UInt32 = 64
    /// What is wrong with the queue's addresses: descriptors, used and available ring.
    var change: @Sendable (inout [UInt64]) -> Void = { _ in }
    /// The error, of the addresses as they are then.
    let error: @Sendable ([UInt64]) -> VhostUserError
  }

  static let ramSize: UInt64 = 1 << 20
  static let parts = [RingPart.descriptors, .used, .available]

  static let badRings: [BadRing] =
    parts.enumerated().flatMap { index, part in
      [0, GuestRAM.userBase - 16, GuestRAM.userBase + ramSize - 32, GuestRAM.userBase + ramSize, .max - 15]
        .map {
          (address: UInt64) in
          BadRing(
            testDescription: "\(part) at 0x\(String(address, radix: 16))", change: { $0[index] = address },
            error: { .ringOutsideMemory(queue: 0, part, userAddress: $0[index]) })
        }
    }
    + [(8, 16), (2, 4), (1, 2)].enumerated().map { index, numbers in
      BadRing(
        testDescription: "\(parts[index]) misaligned", change: { $0[index] += UInt64(numbers.0) },
        error: { _ in .queue(0, .ringMisaligned(parts[index], alignment: numbers.1)) })
    } + [
      BadRing(testDescription: "size 63", size: 63, error: { _ in .queue(0, .size(63)) }),
      BadRing(testDescription: "a legacy driver", features: 1 << 32, error: { _ in .legacyDriver }),
    ]

  @Test("a driver's wrong setup of its ring does not end the session", arguments: badRings)
  func outlivesWhatTheDriverSaysOfItsRing(_ bad: BadRing) throws {
    let setup = try Setup(ram: GuestRAM(size: Self.ramSize))
    let (frontEnd, queue) = (setup.frontEnd, setup.queues[0])
    try frontEnd.realize(memory: .table)
    try frontEnd.send(FrontEnd.setFeatures, (frontEnd.offeredFeatures & ~bad.features).bytes)
    try frontEnd.sendMemory(setup.ram)
    try frontEnd.setUp(0, queue, base: 0)
    var addresses = [queue.descriptors, queue.used, queue.available].map { GuestRAM.userBase + $0 }
    bad.change(&addresses)
    try frontEnd.send(FrontEnd.setVringNum, numbers(0, bad.size))
    try frontEnd.send(FrontEnd.setVringAddress, numbers(0, 0) + (addresses + [0]).flatMap { $0.bytes })
    try frontEnd.enable(0, true)
    try setup.link.settle()
    let events = setup.device.takeEvents()
    #expect(events.contains(.unusable(0, bad.error(addresses))))
    #expect(!events.contains(.started(0, fresh: true, at: 0)))
    #expect(setup.link.end == nil)

    // As after a reset.
    try frontEnd.enable(0, false)
    #expect(try frontEnd.stop() == [0, 0])
    try frontEnd.start(setup.queues)
    #expect(try setup.echo() == [3, 2, 1])
  }

  @Test("the setup of a running ring cannot be changed", arguments: [Request.setVringSize, .setVringBase])
  func refusesToChangeARunningRing(_ request: Request)
    throws
  {
    let setup = try Setup.running()
    try setup.frontEnd.send(request.rawValue, numbers(1, 16))
    try setup.link.settle()
    #expect(setup.error == .ringRunning(request, queue: 1))
  }

  @Test("features cannot be changed while a ring runs") func refusesOtherFeaturesWhileARingRuns() throws {
    let setup = try Setup.running()
    let same = setup.frontEnd.offeredFeatures | setup.frontEnd.extraFeatures
    try setup.frontEnd.send(FrontEnd.setFeatures, same.bytes)
    #expect(try setup.echo() == [3, 2, 1])
    try setup.frontEnd.send(FrontEnd.setFeatures, (same & ~(1 << 29)).bytes)
    try setup.link.settle()
    #expect(setup.error == .ringRunning(.setFeatures, queue: 0))
  }

  @Test("a descriptor of the wrong kind is refused") func refusesDescriptorsOfTheWrongKind() throws {
    let event = try FrontEnd.Line()
    let number = event.event.fd.withRaw { $0 }
    for request in [Request.setDisplaySocket, .setBackendRequestSocket] {
      let victim = try Victim()
      try victim.setup.frontEnd.send(request.rawValue, descriptors: [number])
      try victim.setup.link.settle()
      #expect(victim.setup.error == .notSocket(request))
    }
    let victim = try Victim()
    let form = Form.all.first { $0.request == .addMemoryRegion }!
    try victim.setup.frontEnd.send(form.request.rawValue, form.payload, descriptors: [number])
    try victim.setup.link.settle()
    // Such a descriptor has no bytes.
    #expect(
      victim.setup.error
        == .memory(.addMemoryRegion, .regionPastFile(GuestAddress(0x2000), end: 0x3000, size: 0)))
    // A file cannot be waited for.
    let setup = try Setup.running()
    try setup.frontEnd.send(FrontEnd.setVringKick, UInt64(0).bytes, descriptors: [setup.ram.files[0].number])
    try setup.link.settle()
    #expect(setup.error == .descriptor(.setVringKick, .notPermitted))
  }

  @Test("the session ends when the other end of a kick descriptor is closed")
  func noticesABrokenKickDescriptor() throws {
    let setup = try Setup.running()
    try UnixSocket.pair { mine, theirs in
      try setup.frontEnd.send(FrontEnd.setVringKick, UInt64(1).bytes, descriptors: [theirs.fd.withRaw { $0 }])
      try setup.link.settle()
      #expect(setup.link.end == nil)
      discard(mine)
    }
    try setup.link.settle()
    #expect(setup.error == .kickDescriptor(queue: 1))
  }

  private func discard(_ socket: consuming UnixSocket) {}

  /// Any message at all, well-formed or not, is answered, taken, or ends the session in words.
  @Test("any message is answered, taken, or ends the session with a reason", arguments: 0..<40)
  func survivesNoise(seed: UInt64) throws {
    var random = Xorshift(seed: seed)
    var victim = try Victim()
    for _ in 0..<100 {
      let form = Form.all[Int(random.next() % UInt64(Form.all.count))]
      var payload = form.payload
      for _ in 0..<random.next() % 3 where !payload.isEmpty {
        payload[Int(random.next() % UInt64(payload.count))] = UInt8(truncatingIfNeeded: random.next())
      }
      let error: VhostUserError?
      do {
        error = try victim.end(after: form.request, payload, descriptors: form.descriptors)
      } catch FrontEndError.closed {
        error = victim.setup.error
        #expect(error != nil)
      }
      if error != nil { victim = try Victim() }
      #expect(victim.setup.link.end == nil)
    }
  }
}
