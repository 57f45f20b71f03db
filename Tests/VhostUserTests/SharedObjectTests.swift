import Fixtures
import Linux
import SystemPackage
import Testing
import VhostUser
import Virtio

@Suite struct SharedObjectTests {
  private static let (add, remove): (UInt32, UInt32) = (6, 7)

  private let channel: RequestChannel
  private let setup: Setup

  init() throws {
    (channel, setup) = (try RequestChannel(), try Setup())
  }

  private func realize(sharedObjects: Bool = true, channel hasChannel: Bool = true) throws {
    try setup.frontEnd.realize(
      memory: .slots, backendRequests: hasChannel ? channel.number : nil, sharedObjects: sharedObjects)
  }

  @Test("an object is found by its UUID") func isFoundByItsName() throws {
    try realize()
    let (first, second) = (ObjectUUID.random(), ObjectUUID.random())
    setup.device.shared = [
      first: try Memfd.create(name: "first", size: 4096),
      second: try Memfd.create(name: "second", size: 4096),
    ]
    for uuid in [first, second, first] {
      let passed = try #require(try setup.frontEnd.sharedObject(uuid.bytes))
      #expect(try passed.fd.status().inode == setup.device.shared[uuid]?.status.inode)
    }
    #expect(setup.link.end == nil && !setup.frontEnd.hasInput)
  }

  /// Names that nobody has: each differs from one that is there in one byte. QEMU sends no name at all.
  @Test("an object is not found by another UUID, or by none") func isNotFoundByAnother() throws {
    try realize()
    let uuid = ObjectUUID.random()
    setup.device.shared[uuid] = try Memfd.create(name: "shared", size: 4096)
    var others = uuid.bytes.indices.map { index in
      var bytes = uuid.bytes
      bytes[index] ^= 1
      return bytes
    }
    others += [[], [UInt8](repeating: 0, count: 16), [UInt8](repeating: 0xff, count: 16)]
    for name in others {
      #expect(try setup.frontEnd.sharedObject(name) === nil, "\(name)")
    }
    #expect(try setup.frontEnd.sharedObject(uuid.bytes) !== nil, "the session goes on")
  }

  /// Its answer is the only one, with and without a descriptor.
  @Test("GET_SHARED_OBJECT is answered once, also if it asks for an acknowledgement")
  func isNotAcknowledgedTwice() throws {
    try realize()
    let uuid = ObjectUUID.random()
    setup.device.shared[uuid] = try Memfd.create(name: "shared", size: 4096)
    for name in [uuid.bytes, ObjectUUID.random().bytes] {
      try setup.frontEnd.send(FrontEnd.getSharedObject, name, flags: 9)
      #expect(try setup.frontEnd.reply(to: FrontEnd.getSharedObject) == [])
      try setup.link.settle()
      #expect(!setup.frontEnd.hasInput)
    }
  }

  @Test("a new object and its end are announced") func isAnnounced() throws {
    try realize()
    let session = try #require(setup.link.session)
    let uuid = ObjectUUID((1...16).map { $0 })
    #expect(try session.ask(.addSharedObject(uuid)))
    #expect(try session.ask(.removeSharedObject(uuid)))
    #expect(
      try channel.next() == [.init(Self.add, (1...16).map { $0 }), .init(Self.remove, (1...16).map { $0 })])
  }

  @Test(
    "a front end without the feature or without a channel gets no announcement",
    arguments: [(false, true), (true, false), (false, false)])
  func isNotAnnouncedToWhoDoesNotAsk(sharedObjects: Bool, hasChannel: Bool) throws {
    try realize(sharedObjects: sharedObjects, channel: hasChannel)
    let session = try #require(setup.link.session)
    #expect(try !session.ask(.addSharedObject(.random())))
    #expect(try session.ask(.configChanged) == hasChannel)
    #expect(try channel.next() == (hasChannel ? [.init(2)] : []))
  }

  /// A front end that does not read is not waited for; what it reads later are whole messages.
  @Test("a front end that does not read is not waited for, and gets only whole messages")
  func doesNotWaitForASlowFrontEnd() throws {
    try realize()
    let session = try #require(setup.link.session)
    let uuid = ObjectUUID.random()
    var sent = 0
    func fill() throws {
      while sent < 1_000_000 {
        guard try session.ask(.addSharedObject(uuid)) else { return }
        sent += 1
      }
    }
    #expect(throws: VhostUserError.socket(.wouldBlock)) { try fill() }
    #expect(throws: VhostUserError.socket(.wouldBlock)) { try session.ask(.configChanged) }
    #expect(try setup.frontEnd.askWord(FrontEnd.getQueueNum) == 2, "the session goes on")
    let asked = try channel.next()
    #expect(asked.count == sent && asked.allSatisfy { $0 == .init(Self.add, uuid.bytes) })
    #expect(try session.ask(.removeSharedObject(uuid)))
    #expect(try channel.next() == [.init(Self.remove, uuid.bytes)])
  }
}
