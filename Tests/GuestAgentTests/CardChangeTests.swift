import LendingProtocol
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import GuestAgent

/// Cards come, go, and are reset.
@Suite struct CardChangeTests {
  private let rig: AgentRig
  private let card = FakeCard()
  private let lender: LenderCaller
  private let memfd: Memfd

  init() throws {
    rig = try AgentRig()
    try rig.begin()
    lender = try rig.connect()
    memfd = try Memfd.create(name: "foreign", size: 8192)
  }

  private var states: [String] { rig.core.table.all.map { "\($0.id) \($0.state.rawValue)" } }

  /// Lends a foreign buffer, and one of the card's.
  private func lendBoth() throws {
    try rig.lend(memfd, #"{"use":"write"}"#, by: lender, as: AgentRig.id(1))
    _ = try lender.ask("Make", #"{"size":4096}"#)
    try rig.lend(lender.takeDescriptor(), by: lender, as: AgentRig.id(2))
  }

  @Test("without a card that the helper serves nothing can be made or lent")
  func none() throws {
    let error = #"{"error":"io.udmabridge.Lender.NoCard""#
    #expect(try lender.ask("Make", #"{"size":4096}"#).hasPrefix(error))
    rig.core.add(card)
    try rig.settle()
    try rig.host.refuse(rig.host.take("prove"), "NoSuchSecret", "no device has it")
    try rig.settle()
    #expect(try lender.ask("Lend", passing: [memfd]).hasPrefix(error))
    #expect(card.closed == [1])
  }

  @Test("a new card gets a foreign buffer under a new id, and the old card's own is revoked")
  func replaced() throws {
    try rig.add(card)
    try lendBoth()
    let watcher = try rig.connect()
    try watcher.send("Watch", more: true)
    _ = try watcher.replies()
    // The helper sees it first.
    try rig.host.send(
      #"{"event":"revoked","data":{"buffer":"\#(AgentRig.id(1))","reason":"resourceGone"}}"# + "\n")
    try rig.settle()
    rig.core.remove(card)
    try rig.settle()
    #expect(states == ["\(AgentRig.id(1)) waiting"])
    #expect(Set(try watcher.replies().map { $0.contains("\(AgentRig.id(1))") }) == [true, false])

    let next = FakeCard(first: 100)
    try rig.add(next, device: 5, epoch: 1)
    let command = try rig.host.take("lend")
    #expect(command.number("device") == 5 && command.number("epoch") == 1)
    #expect(command.number("resource") == 101 && command.text("use") == "write")
    try rig.host.answer(command, "{\"buffer\": \"\(AgentRig.id(3))\"}")
    try rig.settle()
    #expect(states == ["\(AgentRig.id(3)) lent"])
    #expect(
      try watcher.replies() == [
        #"{"parameters":{"event":"lent","buffer":"\#(AgentRig.id(3))","before":"\#(AgentRig.id(1))"},"continues":true}"#
      ])
  }

  @Test(
    "an unplugged card's file stays open while it has a foreign buffer, and closes otherwise"
  )
  func unplugged() throws {
    for isForeign in [true, false] {
      var card: FakeCard? = FakeCard()
      weak let unplugged = card
      try rig.add(#require(card))
      if isForeign {
        try rig.lend(memfd, by: lender, as: AgentRig.id(1))
      } else {
        _ = try lender.ask("Make", #"{"size":4096}"#)
        try rig.lend(lender.takeDescriptor(), by: lender, as: AgentRig.id(2))
      }
      // What the helper says first, of a driver that lets its device go.
      try rig.host.send(
        #"{"event":"revoked","data":{"buffer":"\#(AgentRig.id(isForeign ? 1 : 2))","reason":"deviceReset"}}"#
          + "\n")
      try rig.settle()
      // The proof's handle was the first one.
      #expect((card?.closed == [1]) == isForeign)
      rig.core.remove(try #require(card))
      card = nil
      #expect((unplugged != nil) == isForeign)
      if isForeign { _ = try lender.ask("Return", #"{"buffer":"\#(AgentRig.id(1))"}"#) }
    }
  }

  @Test("a buffer that waits for a card is forgotten at its return, and with its lender")
  func waiting() throws {
    try rig.add(card)
    try lendBoth()
    let other = try rig.connect()
    try rig.lend(Memfd.create(name: "third", size: 4096), by: other, as: AgentRig.id(3))
    rig.core.remove(card)
    try rig.settle()
    #expect(states == ["\(AgentRig.id(1)) waiting", "\(AgentRig.id(3)) waiting"])
    #expect(try lender.ask("Return", #"{"buffer":"\#(AgentRig.id(1))"}"#) == #"{"parameters":{}}"#)
    other.hangUp()
    try rig.settle()
    #expect(states.isEmpty)
  }

  @Test("a foreign buffer waits on if the new card cannot import it")
  func refusing() throws {
    try rig.add(card)
    try rig.lend(memfd, by: lender, as: AgentRig.id(1))
    rig.core.remove(card)
    let flat = FakeCard()
    flat.importsForeign = false
    try rig.add(flat)
    try rig.host.receive()
    #expect(rig.host.waiting.isEmpty)
    #expect(states == ["\(AgentRig.id(1)) waiting"])
  }

  @Test("a device that was reset is proven anew, and its foreign buffers are lent again")
  func reset() throws {
    try rig.add(card)
    try lendBoth()
    try rig.host.send(#"{"event":"deviceReset","data":{"device":3,"epoch":8}}"# + "\n")
    try rig.settle()
    #expect(states == ["\(AgentRig.id(1)) waiting"])
    try rig.prove(card, epoch: 8)
    let command = try rig.host.take("lend")
    #expect(command.number("epoch") == 8)
    try rig.host.answer(command, "{\"buffer\": \"\(AgentRig.id(4))\"}")
    try rig.settle()
    #expect(states == ["\(AgentRig.id(4)) lent"])
  }

  @Test("of two cards, the one that made a buffer lends it")
  func two() throws {
    try rig.add(card)
    let second = FakeCard(first: 50)
    try rig.add(second, device: 4)
    let made = try second.makeBuffer(4096)
    let own = try Memfd(adopting: second.export(made))
    try lender.send("Lend", passing: [own])
    #expect(try rig.host.take("lend").number("device") == 4)
  }

  @Test(
    "a buffer that the card cannot import is refused with the kernel's version, or copied on request")
  func copies() throws {
    card.importsForeign = false
    try rig.add(card)
    let release = try readText("/proc/sys/kernel/osrelease").dropLast()
    let refusal = try lender.ask("Lend", passing: [memfd])
    #expect(refusal.hasPrefix(#"{"error":"io.udmabridge.Lender.CannotImport""#))
    #expect(refusal.contains("kernel \(release) "), "\(refusal)")
    try memfd.withDescriptor { try Mapping($0, offset: 8184, length: 8, writable: true) }.store(
      UInt64(7), at: 0)
    try lender.send("Lend", #"{"copy":true,"offset":4096}"#, passing: [memfd])
    let command = try rig.host.take("lend")
    let resource = UInt32(try #require(command.number("resource")))
    #expect(try card.mapping(of: resource).load(UInt64.self, at: 8184) == 7)
    #expect(command.number("offset") == 4096 && command.number("size") == 4096)
    try rig.host.answer(command, "{\"buffer\": \"\(AgentRig.id(1))\"}")
    #expect(try lender.reply() == #"{"parameters":{"buffer":"\#(AgentRig.id(1))","copied":true}}"#)
    let list = try lender.ask("List")
    #expect(list.contains(#""copies":1"#) && list.contains(#""copied":true"#))
  }

  @Test("the port is found by the name that the host gave it, and render nodes by theirs")
  func paths() throws {
    #expect(AgentDevices.portPath("/nowhere") == nil && AgentDevices.nodePaths("/nowhere").isEmpty)
    let directory = try makeTemporaryDirectory()
    defer { for port in ["vport1p1", "vport1p2", "vport2p1"] { removeDirectory(directory.appending(port)) } }
    for (port, name) in [
      ("vport1p1", "org.qemu.guest_agent.0\n"), ("vport1p2", ""), ("vport2p1", "io.udmabridge.lend.0\n"),
    ] {
      try makeDirectory(directory.appending(port), mode: 0o755)
      if !name.isEmpty { try writeText(directory.appending(port).appending("name"), name) }
    }
    #expect(AgentDevices.portPath(directory) == "/dev/vport2p1")
    for node in ["renderD129", "card0", "renderD128"] { try writeText(directory.appending(node), "") }
    defer { for node in ["renderD129", "card0", "renderD128"] { removeFile(directory.appending(node)) } }
    #expect(
      AgentDevices.nodePaths(directory).map { $0.lastComponent?.string } == ["renderD128", "renderD129"])
  }
}
