import Buffers
import Fixtures
import Linux
import Scanout
import SystemPackage
import TestSupport
import Testing
import Udmabuf
import Virtio

@testable import VirtioGPU

/// RESOURCE_ASSIGN_UUID: each resource has one name, of the device's making.
@Suite struct UUIDTests {
  private func uuid(_ id: UInt32, _ rig: Rig, room: Int = 2048) throws -> [UInt8] {
    let answer = try rig.ask(Request.assignUUID(id), room: room)
    try #require(answer.type == ResponseType.resourceUUID, "\(hex(answer.type))")
    // struct virtio_gpu_resp_resource_uuid: header, 16 bytes.
    #expect(answer.written == 40)
    return Array(answer.bytes[24..<40])
  }

  @Test("a resource keeps its UUID, and another one of the same number gets another") func isMadeOnce() throws
  {
    let rig = try Rig()
    try rig.ok(Request.create(1), Request.create(2))
    let (first, second) = (try uuid(1, rig), try uuid(2, rig))
    #expect(first != second)
    for name in [first, second] { #expect(name[6] >> 4 == 4 && name[8] >> 6 == 0b10, "of version 4") }
    for _ in 0..<3 { #expect(try uuid(1, rig, room: 40) == first && uuid(2, rig) == second) }
    // Another resource of the same number is another resource.
    try rig.ok(Request.unref(1), Request.create(1))
    #expect(try uuid(1, rig) != first)
    #expect(rig.errors.isEmpty)
  }

  @Test("the answer keeps its fence") func keepsAFence() throws {
    let rig = try Rig()
    try rig.ok(Request.create(1))
    let answer = try rig.ask(Request.assignUUID(1, fence: 77))
    #expect(answer.type == ResponseType.resourceUUID && answer.flags == 1 && answer.fence == 77)
  }

  @Test("RESOURCE_ASSIGN_UUID without room for its answer is a mistake", arguments: [0, 23, 24, 39])
  func needsRoomForItsAnswer(
    _ room: Int
  ) throws {
    let rig = try Rig()
    try rig.ok(Request.create(1))
    let answer = try rig.ask(Request.assignUUID(1), room: room)
    #expect(answer.written == (room < 24 ? 0 : 24))
    #expect(room < 24 || answer.type == ResponseType.unspecified)
    #expect(rig.errors == ["noRoom": 1])
  }

  /// Nothing is lent, only copied, so nothing is shared.
  @Test("a copied resource is not shared", arguments: [false, true]) func isNotSharedIfCopied(
    namedFirst: Bool
  ) throws {
    let machine = try Machine(.slots, udmabuf: .failure(.noSuchFileOrDirectory), backing: .auto)
    let attach = Request.attach(1, [(0x1000, 0x3000)])
    #expect(try machine.ask(Request.create(1)).type == ResponseType.ok)
    if !namedFirst { #expect(try machine.ask(attach).type == ResponseType.ok) }
    let name = Array(try machine.ask(Request.assignUUID(1)).bytes[24..<40])
    if namedFirst { #expect(try machine.ask(attach).type == ResponseType.ok) }
    #expect(machine.device.resources[ResourceID(1)]?.buffer != nil)
    #expect(try machine.frontEnd.sharedObject(name) === nil)
    #expect(try machine.ask(Request.unref(1)).type == ResponseType.ok)
    #expect(try machine.channel.next() == [])
  }
}

/// A lent buffer is found by its name, as long as the guest has not taken its pages back.
@Suite(.testHost, .serialized) struct UUIDLendTests {
  private static let (add, remove): (UInt32, UInt32) = (6, 7)
  private static let entries: [(address: UInt64, length: UInt32)] = [
    (0x10_2000, 0x1000), (0x10_0000, 0x1000), (0x10_1000, 0x1000),
  ]

  private func machine(_ backing: BackingChoice = .lent) throws -> Machine {
    try Machine(.slots, udmabuf: Result { () throws(Errno) in try UdmabufDevice() }, backing: backing)
  }

  private func ok(_ requests: [UInt8]..., on machine: Machine) throws {
    for request in requests { #expect(try machine.ask(request).type == ResponseType.ok) }
  }

  private func assign(_ id: UInt32, _ machine: Machine) throws -> [UInt8] {
    let answer = try machine.ask(Request.assignUUID(id))
    try #require(answer.type == ResponseType.resourceUUID)
    return Array(answer.bytes[24..<40])
  }

  @Test("the shared dma-buf has the guest's pages", arguments: [false, true]) func isTheGuestsPages(
    namedFirst: Bool
  ) throws {
    let machine = try machine()
    try ok(Request.create(1), on: machine)
    var name = namedFirst ? try assign(1, machine) : []
    #expect(try machine.channel.next() == [], "there is nothing to share yet")
    try ok(Request.attach(1, Self.entries), on: machine)
    if !namedFirst { name = try assign(1, machine) }
    #expect(try machine.channel.next() == [.init(Self.add, name)])
    #expect(try assign(1, machine) == name)
    #expect(try machine.channel.next() == [], "it is announced once")

    let passed = try #require(try machine.frontEnd.sharedObject(name))
    let lent = try #require(machine.device.resources[ResourceID(1)]?.buffer?.dmabuf)
    let dmabuf = try DMABuf(adopting: passed.fd.duplicate())
    #expect(dmabuf.inode == lent.inode && dmabuf.size == 3 * systemPageSize)
    let view = try dmabuf.map()
    for (index, entry) in Self.entries.enumerated() {
      machine.ram.write(UInt32(index) + 40, at: entry.address + 8)
      #expect(view.load(UInt32.self, at: index * 0x1000 + 8) == UInt32(index) + 40)
    }
  }

  enum End: CaseIterable { case unref, detach, reset, newDriver }

  @Test("no resource is shared after its unref, its detach, a reset or a new driver", arguments: End.allCases)
  func isSharedNoMore(_ end: End)
    throws
  {
    let machine = try machine()
    try ok(Request.create(1), Request.attach(1, Self.entries), Request.create(2), on: machine)
    let (name, other) = (try assign(1, machine), try assign(2, machine))
    #expect(try machine.channel.next() == [.init(Self.add, name)])
    switch end {
    case .unref: try ok(Request.unref(1), on: machine)
    case .detach: try ok(Request.detach(1), on: machine)
    case .reset: try machine.frontEnd.tell(FrontEnd.resetDevice)
    case .newDriver:
      _ = try machine.frontEnd.stop()
      try machine.replaceDriver()
    }
    #expect(try machine.channel.next() == [.init(Self.remove, name)])
    for name in [name, other] {
      #expect(try machine.frontEnd.sharedObject(name) === nil)
    }
    #expect(machine.device.objects.count == 0 && machine.device.statistics.liveDMABufs == 0)
    if end == .detach {
      // The name stays, for the next backing.
      try ok(Request.attach(1, [(0x20_0000, 0x3000)]), on: machine)
      #expect(try assign(1, machine) == name)
      #expect(try machine.channel.next() == [.init(Self.add, name)])
      #expect(try machine.frontEnd.sharedObject(name) !== nil)
    }
    #expect(machine.link.end == nil && machine.device.statistics.protocolErrors.isEmpty)
  }

  /// What is seen of the resource is elsewhere than in its pages from then on.
  @Test("a resource is not shared after a transfer into a store") func isSharedNoMoreAfterAnOddTransfer()
    throws
  {
    let machine = try machine(.auto)
    try ok(Request.create(1), Request.attach(1, Self.entries), on: machine)
    let name = try assign(1, machine)
    let row = Rectangle(0, 0, 64, 1)
    try ok(Request.transfer(1), Request.transfer(1, row), on: machine)
    #expect(try machine.channel.next() == [.init(Self.add, name)])
    try ok(Request.transfer(1, row, offset: 256), on: machine)
    #expect(try machine.channel.next() == [.init(Self.remove, name)])
    #expect(try machine.frontEnd.sharedObject(name) === nil)
    try ok(Request.unref(1), on: machine)
    #expect(try machine.channel.next() == [])
  }

  /// A front end that does not read its socket costs the announcements, and nothing else.
  @Test("a front end that does not read loses only announcements") func aFrontEndThatDoesNotRead() throws {
    let machine = try machine()
    try ok(Request.create(1), on: machine)
    let name = try assign(1, machine)
    var count = 0
    while machine.device.statistics.protocolErrors.isEmpty {
      try ok(Request.attach(1, Self.entries), Request.detach(1), on: machine)
      count += 1
      try #require(count < 100_000)
    }
    #expect(machine.device.statistics.protocolErrors.keys.map { $0 } == ["lostNews"])
    #expect(machine.log.warnings.count == 1 && machine.log.warnings[0].contains("front end"))
    try ok(Request.attach(1, Self.entries), on: machine)
    let passed = try #require(try machine.frontEnd.sharedObject(name))
    #expect(try passed.fd.status().inode == machine.device.resources[ResourceID(1)]?.buffer?.dmabuf?.inode)
  }
}
