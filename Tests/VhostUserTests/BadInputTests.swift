import Fixtures
import Guest
import Linux
import SystemPackage
import Testing
import VhostUser
import Virtio

/// A well-formed message of each kind.
struct Form: CustomTestStringConvertible, Sendable {
  let request: Request
  let payload: [UInt8]
  let descriptors: Int
  /// It may also come with one descriptor more.
  var toleratesDescriptor = false

  var testDescription: String { "\(request)" }

  static let all: [Form] = [
    Form(request: .getFeatures, payload: [], descriptors: 0),
    Form(request: .setFeatures, payload: UInt64(1 << 32 | 1 << 30).bytes, descriptors: 0),
    Form(request: .setOwner, payload: [], descriptors: 0),
    Form(request: .resetOwner, payload: [], descriptors: 0),
    Form(
      request: .setMemoryTable,
      payload: numbers(2, 0) + FrontEnd.region(blocks[0]) + FrontEnd.region(blocks[1]), descriptors: 2),
    Form(request: .setVringSize, payload: numbers(0, 64), descriptors: 0),
    Form(
      request: .setVringAddress, payload: numbers(0, 0) + [UInt8](repeating: 0, count: 32), descriptors: 0),
    Form(request: .setVringBase, payload: numbers(0, 0), descriptors: 0),
    Form(request: .getVringBase, payload: numbers(0, 0), descriptors: 0),
    Form(request: .setVringKick, payload: UInt64(0).bytes, descriptors: 1),
    Form(request: .setVringCall, payload: UInt64(0).bytes, descriptors: 1),
    Form(request: .setVringError, payload: UInt64(1).bytes, descriptors: 1),
    Form(request: .getProtocolFeatures, payload: [], descriptors: 0),
    Form(request: .setProtocolFeatures, payload: UInt64(0).bytes, descriptors: 0),
    Form(request: .getQueueCount, payload: [], descriptors: 0),
    Form(request: .setVringEnable, payload: numbers(0, 0), descriptors: 0),
    Form(request: .setBackendRequestSocket, payload: [], descriptors: 1),
    Form(request: .getConfig, payload: numbers(0, 4, 0, 0), descriptors: 0),
    Form(request: .setConfig, payload: numbers(0, 4, 0, 7), descriptors: 0),
    Form(request: .setDisplaySocket, payload: [], descriptors: 1),
    Form(request: .resetDevice, payload: [], descriptors: 0),
    Form(request: .getMaxMemorySlots, payload: [], descriptors: 0),
    Form(request: .addMemoryRegion, payload: numbers(0, 0) + FrontEnd.region(blocks[2]), descriptors: 1),
    Form(
      request: .removeMemoryRegion, payload: numbers(0, 0) + FrontEnd.region(blocks[0]), descriptors: 0,
      toleratesDescriptor: true),
  ]

  static let blocks: [GuestRAM.Block] = [
    .init(at: 0, length: 0x1000), .init(at: 0x1000, length: 0x1000, offset: 0x1000),
    .init(at: 0x2000, length: 0x1000, offset: 0x2000),
  ]
}

func numbers(_ numbers: UInt32...) -> [UInt8] { numbers.flatMap { $0.bytes } }

/// A session past its handshake, with two regions of memory and no ring.
private final class Victim {
  let setup: Setup
  let file: Memfd
  private let spare: Spare

  /// A socket to hand over.
  private final class Spare {
    let socket: UnixSocket
    init(_ socket: consuming UnixSocket) { self.socket = socket }
  }

  init() throws {
    setup = try Setup(ram: GuestRAM(size: 1 << 16))
    var spare: Spare?
    try UnixSocket.pair { mine, _ in spare = Spare(mine) }
    self.spare = spare!
    file = try Memfd.create(name: "victim", size: 0x3000)
    try setup.frontEnd.realize(memory: .slots, backendRequests: self.spare.socket.fd.withRaw { $0 })
    try setup.frontEnd.send(FrontEnd.setFeatures, UInt64(1 << 32 | 1 << 30).bytes)
    try setup.frontEnd.tell(
      FrontEnd.setMemoryTable, Form.all.first { $0.request == .setMemoryTable }!.payload,
      descriptors: [file.number, file.number])
  }

  /// Descriptors of the kind that the message wants.
  func descriptors(for request: Request, _ count: Int) -> [CInt] {
    let number: CInt =
      switch request {
      case .setBackendRequestSocket, .setDisplaySocket: spare.socket.fd.withRaw { $0 }
      case .setVringKick, .setVringCall, .setVringError: setup.frontEnd.line(0).kick.event.fd.withRaw { $0 }
      default: file.number
      }
    return [CInt](repeating: number, count: count)
  }

  /// How the session ends after this message, or nil if it goes on.
  func end(after request: Request, _ payload: [UInt8], descriptors: Int = 0) throws -> VhostUserError? {
    try setup.frontEnd.send(
      request.rawValue, payload, descriptors: self.descriptors(for: request, descriptors))
    try setup.link.settle()
    return setup.error
  }
}

@Suite struct MessageFormTests {
  @Test func coversEveryRequest() {
    #expect(Form.all.map(\.request) == Request.allCases)
  }

  /// Otherwise the tables below prove nothing.
  @Test(arguments: Form.all) func isTakenAsItShouldBe(_ form: Form) throws {
    let victim = try Victim()
    #expect(try victim.end(after: form.request, form.payload, descriptors: form.descriptors) == nil)
    #expect(victim.setup.link.end == nil)
  }

  @Test(arguments: Form.all) func refusesOtherSizes(_ form: Form) throws {
    let size = form.payload.count
    for wrong in Array(0..<size) + [size + 1, size + 4, size + 8, 4096] {
      let victim = try Victim()
      let payload = Array(form.payload.prefix(wrong)) + [UInt8](repeating: 0, count: max(0, wrong - size))
      let error = try victim.end(after: form.request, payload, descriptors: form.descriptors)
      guard case .payloadSize(form.request, size: wrong, let expected) = error else {
        Issue.record("\(wrong) bytes: \(String(describing: error))")
        continue
      }
      // What can be longer or shorter has a fixed part that is asked for first.
      #expect(expected == size || wrong < expected)
      #expect(victim.setup.link.endCount == 1)
    }
  }

  @Test(arguments: Form.all) func refusesOtherNumbersOfDescriptors(_ form: Form) throws {
    for wrong in 0...8 where wrong != form.descriptors {
      if form.toleratesDescriptor && wrong == 1 { continue }
      let victim = try Victim()
      let error = try victim.end(after: form.request, form.payload, descriptors: wrong)
      #expect(error == .descriptorCount(form.request, count: wrong, expected: form.descriptors))
    }
    let victim = try Victim()
    #expect(
      try victim.end(after: form.request, form.payload, descriptors: 9) == .descriptorsLost(form.request))
  }

  @Test func closesADescriptorThatRemoveMemoryRegionBrings() throws {
    let victim = try Victim()
    let form = Form.all.first { $0.request == .removeMemoryRegion }!
    #expect(try victim.end(after: form.request, form.payload, descriptors: 1) == nil)
    #expect(victim.setup.device.memory.regions.count == 1)
  }

  @Test(arguments: Form.all) func noticesACutAnywhere(_ form: Form) throws {
    let message = form.request.rawValue.bytes + numbers(1, UInt32(form.payload.count)) + form.payload
    for length in 1..<message.count {
      let victim = try Victim()
      try victim.setup.frontEnd.sendBytes(
        Array(message.prefix(length)), descriptors: victim.descriptors(for: form.request, form.descriptors))
      try victim.setup.link.settle()
      #expect(victim.setup.link.end == nil, "the rest may come")
      victim.setup.link.hangUp()
      try victim.setup.link.settle()
      let place = length < 12 ? "a header" : "\(form.request)"
      #expect(victim.setup.error == .cutOff(while: "in the middle of \(place)"))
    }
  }

  @Test(arguments: Form.all) func takesDescriptorsWithAnyByte(_ form: Form) throws {
    guard form.descriptors > 0 else { return }
    let message = form.request.rawValue.bytes + numbers(1, UInt32(form.payload.count)) + form.payload
    for place in 0..<message.count {
      let victim = try Victim()
      let descriptors = victim.descriptors(for: form.request, form.descriptors)
      for (index, byte) in message.enumerated() {
        try victim.setup.frontEnd.sendBytes([byte], descriptors: index == place ? descriptors : [])
      }
      #expect(try victim.setup.frontEnd.askWord(FrontEnd.getQueueNum) == 2)
    }
  }

  @Test(arguments: [4097, 65536, UInt32.max]) func refusesLongPayloads(_ size: UInt32) throws {
    for request in Request.allCases {
      let victim = try Victim()
      try victim.setup.frontEnd.sendBytes(request.rawValue.bytes + numbers(1, size))
      try victim.setup.link.settle()
      #expect(victim.setup.error == .payloadTooLong(request, size: size, limit: 4096))
    }
  }

  @Test(arguments: [0, 2, 3, 0xffff_fffe] as [UInt32]) func refusesOtherVersions(_ flags: UInt32) throws {
    let victim = try Victim()
    try victim.setup.frontEnd.send(FrontEnd.getFeatures, flags: flags)
    try victim.setup.link.settle()
    #expect(victim.setup.error == .version(flags: flags))
  }

  @Test func refusesAReply() throws {
    let victim = try Victim()
    try victim.setup.frontEnd.send(FrontEnd.getFeatures, flags: 5)
    try victim.setup.link.settle()
    #expect(victim.setup.error == .replyInsteadOfRequest(code: 1))
  }

  @Test(
    arguments: [
      0, 6, 7, 19, 20, 22, 23, 26, 27, 28, 29, 30, 31, 32, 35, 39, 40, 41, 42, 43, 44, 45, 1000, .max,
    ] as [UInt32])
  func refusesOtherRequests(_ code: UInt32) throws {
    let victim = try Victim()
    try victim.setup.frontEnd.send(code, [1, 2, 3])
    try victim.setup.link.settle()
    #expect(victim.setup.error == .unknownRequest(code))
  }

  @Test func refusesWhatWasNotNegotiated() throws {
    let needs: [(Request, String)] = [
      (.getQueueCount, "MQ"), (.setBackendRequestSocket, "BACKEND_REQ"), (.getConfig, "CONFIG"),
      (.setConfig, "CONFIG"), (.resetDevice, "RESET_DEVICE"), (.getMaxMemorySlots, "CONFIGURE_MEM_SLOTS"),
      (.addMemoryRegion, "CONFIGURE_MEM_SLOTS"), (.removeMemoryRegion, "CONFIGURE_MEM_SLOTS"),
    ]
    for (request, feature) in needs {
      let victim = try Victim()
      #expect(try victim.end(after: .setProtocolFeatures, UInt64(0).bytes) == nil)
      let form = Form.all.first { $0.request == request }!
      let error = try victim.end(after: request, form.payload, descriptors: form.descriptors)
      #expect(error == .notNegotiated(request, feature: feature))
    }
  }
}

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
      WildCase("0", .setVringSize, numbers(0, 0), says: "size is 0", "power of two"),
      WildCase("63", .setVringSize, numbers(0, 63), says: "size is 63"),
      WildCase("65536", .setVringSize, numbers(0, 65536), says: "size is 65536", "32768"),
      WildCase("2^31", .setVringSize, numbers(0, 1 << 31), says: "size is 2147483648"),
      WildCase("65536", .setVringBase, numbers(0, 65536), says: "index is 65536", "65535"),
      WildCase("state 2", .setVringEnable, numbers(0, 2), says: "state is 2"),
      WildCase(
        "a log", .setVringAddress, numbers(0, 1) + [UInt8](repeating: 0, count: 32), says: "flags is 1",
        "migration"),
      WildCase("no descriptor", .setVringKick, UInt64(0x101).bytes, says: "queue 1", "polling"),
      WildCase("size 0", .getConfig, numbers(0, 0, 0), says: "size is 0", "1 to 256"),
      WildCase("size 257", .getConfig, numbers(0, 257, 0), says: "size is 257"),
      WildCase("all of it twice", .getConfig, numbers(0, .max, 0), says: "size is 4294967295"),
      WildCase("over the end", .getConfig, numbers(253, 4, 0, 0), says: "offset is 253", "at most 252"),
      WildCase("far away", .setConfig, numbers(.max, 4, 0, 0), says: "offset is 4294967295"),
      WildCase("flags", .setConfig, numbers(0, 4, 2, 0), says: "flags is 2"),
      WildCase("a feature too many", .setProtocolFeatures, UInt64(1 << 1).bytes, says: "mask is 2"),
      WildCase("all features", .setProtocolFeatures, UInt64.max.bytes, says: "mask is"),
      WildCase("a legacy driver", .setFeatures, UInt64(1 << 29).bytes, says: "disable-legacy=on"),
      WildCase("no features", .setFeatures, UInt64(0).bytes, says: "VERSION_1"),
      WildCase("ACCESS_PLATFORM", .setFeatures, UInt64(1 << 32 | 1 << 33).bytes, says: "iommu_platform=off"),
      WildCase(
        "RING_PACKED", .setFeatures, UInt64(1 << 32 | 1 << 34).bytes, says: "RING_PACKED", "packed=off"),
      WildCase("IN_ORDER", .setFeatures, UInt64(1 << 32 | 1 << 35).bytes, says: "in_order=off"),
      WildCase("ORDER_PLATFORM", .setFeatures, UInt64(1 << 32 | 1 << 36).bytes, says: "ORDER_PLATFORM"),
      WildCase("SR_IOV", .setFeatures, UInt64(1 << 32 | 1 << 37).bytes, says: "SR_IOV"),
      WildCase("NOTIFICATION_DATA", .setFeatures, UInt64(1 << 32 | 1 << 38).bytes, says: "NOTIFICATION_DATA"),
      WildCase("a log", .setFeatures, UInt64(1 << 32 | 1 << 26).bytes, says: "LOG_ALL", "migration"),
      WildCase("not the device's", .setFeatures, UInt64(1 << 32 | 1 << 5).bytes, says: "virtio feature 5"),
    ]

  @Test(arguments: cases) func endsTheSession(_ item: WildCase) throws {
    let victim = try Victim()
    let error = try victim.end(after: item.request, item.payload, descriptors: item.descriptors)
    let text = try #require(error).description
    #expect(text.contains("\(item.request)"))
    for words in item.says { #expect(text.contains(words), "\(text)") }
    #expect(victim.setup.link.endCount == 1)
  }

  /// Rings at addresses that are not the guest's.
  @Test func refusesRingsOutsideTheMemory() throws {
    let queue = try DriverQueue(GuestRAM(size: 1 << 20), size: 64)
    let size: UInt64 = 1 << 20
    let good = [queue.descriptors, queue.used, queue.available].map { GuestRAM.userBase + $0 }
    let wild: [UInt64] = [
      0, GuestRAM.userBase - 16, GuestRAM.userBase + size - 32, GuestRAM.userBase + size, .max - 15,
    ]
    for (index, part) in [RingPart.descriptors, .used, .available].enumerated() {
      for address in wild {
        let setup = try Setup(ram: GuestRAM(size: size))
        try setup.frontEnd.realize(memory: .table)
        try setup.frontEnd.send(FrontEnd.setFeatures, setup.frontEnd.offeredFeatures.bytes)
        try setup.frontEnd.sendMemory(setup.ram)
        try setup.frontEnd.setUp(0, setup.queues[0], base: 0)
        var addresses = good
        addresses[index] = address
        try setup.frontEnd.send(
          FrontEnd.setVringAddress, numbers(0, 0) + (addresses + [0]).flatMap { $0.bytes })
        #expect(throws: FrontEndError.closed) { try setup.frontEnd.enable(0, true) }
        #expect(setup.error == .ringOutsideMemory(queue: 0, part, userAddress: address))
      }
    }
  }

  @Test func refusesMisalignedRings() throws {
    let parts: [(RingPart, UInt64, Int)] = [(.descriptors, 8, 16), (.used, 2, 4), (.available, 1, 2)]
    for (index, (part, skip, alignment)) in parts.enumerated() {
      let setup = try Setup()
      try setup.frontEnd.realize(memory: .table)
      try setup.frontEnd.send(FrontEnd.setFeatures, setup.frontEnd.offeredFeatures.bytes)
      try setup.frontEnd.sendMemory(setup.ram)
      try setup.frontEnd.setUp(0, setup.queues[0], base: 0)
      let queue = setup.queues[0]
      var addresses = [queue.descriptors, queue.used, queue.available].map { GuestRAM.userBase + $0 }
      addresses[index] += skip
      try setup.frontEnd.send(
        FrontEnd.setVringAddress, numbers(0, 0) + (addresses + [0]).flatMap { $0.bytes })
      #expect(throws: FrontEndError.closed) { try setup.frontEnd.enable(0, true) }
      #expect(setup.error == .queue(0, .ringMisaligned(part, alignment: alignment)))
    }
  }

  @Test(arguments: [Request.setVringSize, .setVringBase]) func refusesToChangeARunningRing(_ request: Request)
    throws
  {
    let setup = try Setup.running()
    try setup.frontEnd.send(request.rawValue, numbers(1, 16))
    try setup.link.settle()
    #expect(setup.error == .ringRunning(request, queue: 1))
  }

  @Test func refusesOtherFeaturesWhileARingRuns() throws {
    let setup = try Setup.running()
    let same = setup.frontEnd.offeredFeatures | setup.frontEnd.extraFeatures
    try setup.frontEnd.send(FrontEnd.setFeatures, same.bytes)
    #expect(try setup.echo() == [3, 2, 1])
    try setup.frontEnd.send(FrontEnd.setFeatures, (same & ~(1 << 29)).bytes)
    try setup.link.settle()
    #expect(setup.error == .ringRunning(.setFeatures, queue: 0))
  }

  @Test func refusesDescriptorsOfTheWrongKind() throws {
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
    #expect(
      victim.setup.error
        == .memory(.addMemoryRegion, .unmappable(GuestAddress(0x2000), .operationNotSupportedByDevice)))
    // A file cannot be waited for.
    let setup = try Setup.running()
    try setup.frontEnd.send(FrontEnd.setVringKick, UInt64(0).bytes, descriptors: [setup.ram.files[0].number])
    try setup.link.settle()
    #expect(setup.error == .descriptor(.setVringKick, .notPermitted))
  }

  @Test func noticesABrokenKickDescriptor() throws {
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
  @Test(arguments: 0..<40) func survivesNoise(seed: UInt64) throws {
    var random = Noise(state: seed &* 0x9e37_79b9_7f4a_7c15 | 1)
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

/// Numbers that are the same in every run (xorshift).
private struct Noise {
  var state: UInt64
  mutating func next() -> UInt64 {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state >> 11
  }
}
