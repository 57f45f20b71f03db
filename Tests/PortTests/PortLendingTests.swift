import Buffers
import Fixtures
import Lending
import LendingProtocol
import Linux
import TestSupport
import Testing
import Udmabuf

@testable import Port

private let unknownBuffer = String(repeating: "0", count: 32)

/// What the commands do.
@Suite struct PortLendingTests {
  @Test("a resource is lent with all that its lender asks for")
  func lending() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    try rig.devices[1].make(7, pages: 2)
    let id = try #require(
      BufferID(
        try agent.lend(
          7, device: 1, lender: 1 << 53, offset: 5, size: 8187,
          #","use":"fill","to":["mine"],"metadata":{"values":{"a":"b"}}"#
        ).text("buffer") ?? ""))
    let buffer = try rig.registry.find(id, for: PortRig.root)
    #expect(buffer.place == ResourcePlace(device: 1, epoch: 1, resource: 7))
    #expect(buffer.owner.number == 1 << 53)
    #expect(
      buffer.request
        == LendingRequest(
          offset: 5, size: 8187, use: .fill, audiences: ["mine"], metadata: BufferMetadata(values: ["a": "b"])
        ))
  }

  struct Refused: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let error: String
    var resource: UInt32 = 1
    var device = 0
    var epoch: UInt64 = 3
    var offset = 0
    var size = 4096
    var more = ""
    var lender = 1
  }

  /// There are resource 1, of a page, which may be lent, 2, which is copied, 3 of the host, and 4, which lender 9 has lent: all
  /// of device 0, whose epoch is 3.
  static let refused: [Refused] = [
    Refused(testDescription: "no such device", error: "NoSuchDevice", device: 2),
    Refused(testDescription: "far from any device", error: "NoSuchDevice", device: 1 << 53),
    Refused(testDescription: "an old epoch", error: "StaleDevice", epoch: 2),
    Refused(testDescription: "an epoch to come", error: "StaleDevice", epoch: 4),
    Refused(testDescription: "the first epoch", error: "StaleDevice", epoch: 0),
    Refused(testDescription: "no such resource", error: "NoSuchResource", resource: 5),
    Refused(testDescription: "the last number", error: "NoSuchResource", resource: .max),
    Refused(testDescription: "another device's", error: "NoSuchResource", device: 1),
    Refused(testDescription: "copied", error: "NotLent", resource: 2),
    Refused(testDescription: "the host's", error: "MemoryOfHost", resource: 3),
    Refused(testDescription: "lent to another", error: "AlreadyLent", resource: 4),
    Refused(testDescription: "lent by this one", error: "AlreadyLent", resource: 4, lender: 9),
    Refused(testDescription: "a byte too many", error: "OutOfRange", size: 4097),
    Refused(testDescription: "a byte too far", error: "OutOfRange", offset: 1),
    Refused(testDescription: "behind the end", error: "OutOfRange", offset: 4096, size: 1),
    Refused(testDescription: "as far as can be", error: "OutOfRange", offset: 1 << 53, size: 1 << 53),
    Refused(
      testDescription: "an unknown audience", error: "NoSuchAudience", more: #","to":["mine","other"]"#),
    Refused(testDescription: "an empty name", error: "NoSuchAudience", more: #","to":[""]"#),
    Refused(
      testDescription: "too much metadata", error: "MetadataTooLong",
      more: #","metadata":{"values":{"":"\#(String(repeating: "x", count: 4097))"}}"#),
    Refused(
      testDescription: "a name that fills a line", error: "NoSuchAudience",
      more: #","to":["\#(String(repeating: "\\u0001", count: 2500))"]"#),
  ]

  @Test("a resource that cannot be lent is refused by name, and changes nothing", arguments: refused)
  func refusals(_ this: Refused) throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    for device in rig.devices { device.epoch = 3 }
    try rig.devices[0].make(1)
    rig.devices[0].resources[2] = .copied
    rig.devices[0].resources[3] = .ofHost
    try rig.devices[0].make(4)
    #expect(try agent.lend(4, epoch: 3, lender: 9).error == nil)
    let reply = try agent.lend(
      this.resource, device: this.device, epoch: this.epoch, lender: this.lender, offset: this.offset,
      size: this.size, this.more)
    #expect(reply.error == this.error)
    #expect(reply.line.utf8.count < 16384)
    #expect(rig.registry.statistics.buffers == 1)
    #expect(try agent.lend(epoch: 3).error == nil, "the session goes on")
  }

  @Test("the refusal of a resource that can only be copied says the cause")
  func copied() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    rig.devices[0].resources[1] = .copied
    #expect(
      try agent.lend().line
        == #"{"error":{"class":"NotLent","desc":"listLimit: 2000 items, 1024 at most"},"id":1}"#)
  }

  @Test("a buffer beyond the limit is refused, until another one returns")
  func tooMany() throws {
    var lending = LendingLimits()
    lending.buffers = 2
    let rig = try PortRig(lending: lending)
    let agent = try rig.agent()
    for resource: UInt32 in 1...3 { try rig.devices[0].make(resource) }
    let first = try agent.lent(1)
    _ = try agent.lent(2)
    #expect(try agent.lend(3).error == "TooManyBuffers")
    _ = try agent.ask(#"{"execute":"return","arguments":{"buffer":"\#(first)","lender":1},"id":9}"#)
    #expect(try agent.lend(3).error == nil)
  }

  @Test("a lend that comes before its resource waits for the device's queue")
  func queue() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    rig.devices[0].queueIsFull = true
    let lend =
      #"{"execute":"lend","arguments":{"device":0,"epoch":1,"resource":1,"lender":1,"offset":0,"size":1},"id":1}"#
    #expect(try agent.ask(lend) == [])
    try rig.devices[0].make(1)
    rig.devices[0].takeQueue()
    #expect(try Reply(#require(agent.lines().first)).error == nil)
    // One that is reset meanwhile.
    rig.devices[0].queueIsFull = true
    #expect(try agent.ask(lend) == [])
    rig.devices[0].epoch = 2
    try rig.devices[0].make(1)
    rig.devices[0].takeQueue()
    #expect(try Reply(#require(agent.lines().first)).error == "StaleDevice")
  }

  @Test("the end of the connection drops a lend that waits")
  func end() throws {
    let rig = try PortRig()
    try rig.devices[0].make(1)
    do {
      let agent = try rig.agent()
      rig.devices[0].queueIsFull = true
      _ = try agent.ask(
        #"{"execute":"lend","arguments":{"device":0,"epoch":1,"resource":1,"lender":1,"offset":0,"size":1},"id":1}"#
      )
    }
    try rig.loop.turn(until: "the connection ends") { rig.book.lines.contains { $0.text.contains("ended") } }
    let next = try rig.agent()
    rig.devices[0].takeQueue()
    #expect(try next.lines() == [] && rig.registry.statistics.lent == 0)
  }

  @Test("a buffer that is unknown, another lender's, returned or revoked gets one answer")
  func wrongBuffers() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    for resource: UInt32 in 1...3 { try rig.devices[0].make(resource) }
    let (others, returned, revoked) = (try agent.lent(1, lender: 2), try agent.lent(2), try agent.lent(3))
    _ = try agent.ask(#"{"execute":"return","arguments":{"buffer":"\#(returned)","lender":1},"id":1}"#)
    if case .lendable(let pages) = rig.devices[0].resources[3] {
      for borrower in pages.buffer.borrowers { _ = borrower.pagesAreWanted(isReset: false) }
    }
    _ = try agent.lines()
    #expect(rig.registry.statistics.buffers == 1)
    var answers: Set<String> = []
    for buffer in [unknownBuffer, "\(others)", "\(returned)", "\(revoked)"] {
      for (command, more) in [
        ("setMetadata", #","metadata":{}"#), ("return", ""), ("beginAccess", #","mode":"read""#),
        ("endAccess", ""),
      ] {
        let line = #"{"execute":"\#(command)","arguments":{"buffer":"\#(buffer)","lender":1\#(more)},"id":1}"#
        answers.formUnion(try agent.ask(line))
      }
    }
    #expect(answers == [#"{"error":{"class":"NoSuchBuffer","desc":"there is no such buffer"},"id":1}"#])
  }

  @Test("metadata is replaced as a whole, within its limit")
  func metadata() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    try rig.devices[0].make(1)
    let id = try agent.lent(1, lender: 1, #","metadata":{"values":{"a":"b"}}"#)
    let buffer = try rig.registry.find(id, for: PortRig.root)
    func set(_ metadata: String) throws -> Reply {
      try agent.ask("setMetadata", #""buffer":"\#(id)","lender":1,"metadata":\#(metadata)"#)
    }
    #expect(try set(#"{"image":{"width":1,"height":2,"fourcc":3,"stride":4}}"#).isOK)
    #expect(
      buffer.request.metadata
        == BufferMetadata(image: ImageMetadata(width: 1, height: 2, fourcc: 3, stride: 4)))
    let full = #"{"values":{"a":"\#(String(repeating: "x", count: 4095))"}}"#
    #expect(try set(full).isOK && buffer.request.metadata.size == 4096)
    #expect(try set(full.replacing("xx", with: "xxx", maxReplacements: 1)).error == "MetadataTooLong")
    #expect(buffer.request.metadata.size == 4096)
  }

  @Test("lend again cancels a return of the same part, and the buffer keeps its id")
  func again() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    try rig.devices[0].make(1)
    let id = try agent.lent()
    let used = try rig.importBuffer(id)
    _ = try agent.lines()
    for delay in [0, 1000] {
      #expect(
        try agent.ask("return", #""buffer":"\#(id)","lender":1,"delay":\#(delay),"patience":5000"#).isOK)
      #expect(
        used.buffer.state
          == (delay == 0
            ? .returning(until: rig.now + .seconds(5)) : .lent(returns: rig.now + .seconds(1))))
      #expect(try agent.lend(1, lender: 2).error == "AlreadyLent", "another lender's")
      #expect(try agent.lend(1, size: 4095).error == "AlreadyLent", "another part")
      let reply = try agent.lend(
        1, lender: 1, offset: 0, size: 4096, #","metadata":{"values":{"n":"\#(delay)"}}"#)
      #expect(reply.text("buffer") == "\(id)")
      #expect(used.buffer.state == .lent(returns: nil))
      #expect(used.buffer.request.metadata.values == ["n": "\(delay)"])
    }
  }

  @Test("the end of a lender returns its buffers, and no others")
  func endLender() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    for resource: UInt32 in 1...3 { try rig.devices[0].make(resource) }
    let mine = [try agent.lent(1), try agent.lent(2)]
    _ = try agent.lent(3, lender: 2)
    let lines = try agent.ask(#"{"execute":"endLender","arguments":{"lender":1},"id":5}"#)
    #expect(lines.first == #"{"return":{},"id":5}"#)
    #expect(
      Set(lines.dropFirst())
        == Set(mine.map { #"{"event":"returned","data":{"buffer":"\#($0)","cutOff":0,"reading":false}}"# }))
    #expect(rig.registry.statistics.buffers == 1)
  }
}

/// What the helper tells by itself.
@Suite struct PortEventTests {
  private func event(_ name: String, _ id: BufferID, _ more: String = "") -> String {
    #"{"event":"\#(name)","data":{"buffer":"\#(id)"\#(more)}}"#
  }

  @Test("the agent hears how many importers a buffer has, once for each change")
  func importers() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    try rig.devices[0].make(1)
    let id = try agent.lent()
    let first = try rig.importBuffer(id)
    #expect(try agent.lines() == [event("importers", id, #","count":1"#)])
    let second = try rig.importBuffer(id)
    rig.registry.release(first)
    #expect(try agent.lines() == [event("importers", id, #","count":1"#)], "told once, as it is now")
    rig.registry.release(second)
    #expect(try agent.lines() == [event("importers", id, #","count":0"#)])
  }

  @Test("the agent hears of several importers' accesses as one")
  func accesses() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    try rig.devices[0].make(1)
    let id = try agent.lent()
    let (one, two) = (try rig.importBuffer(id), try rig.importBuffer(id))
    _ = try agent.lines()
    rig.registry.beginAccess(.read, by: one)
    #expect(try agent.lines() == [event("accessBegun", id, #","mode":"read""#)])
    rig.registry.beginAccess(.write, by: two)
    #expect(try agent.lines() == [event("accessBegun", id, #","mode":"readWrite""#)])
    rig.registry.endAccess(by: one)
    #expect(try agent.lines() == [], "the other one goes on")
    rig.registry.endAccess(by: two)
    #expect(try agent.lines() == [event("accessEnded", id)])
    rig.registry.beginAccess(.write, by: one)
    rig.registry.endAccess(by: one)
    #expect(try agent.lines() == [event("accessEnded", id)], "it is over before it is told")
  }

  @Test("the agent hears of a fill with all that its filler said, and how many it missed")
  func fills() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    try rig.devices[0].make(1)
    let id = try agent.lent(1, lender: 1, #","use":"fill""#)
    let user = try rig.importBuffer(id)
    _ = try agent.lines()
    func fill(_ fill: Fill) throws {
      try rig.registry.beginFill(by: user)
      try rig.registry.endFill(fill, by: user)
    }
    try fill(Fill(bytesUsed: 4096))
    #expect(try agent.lines() == [event("filled", id, #","bytesUsed":4096"#)])
    for count: UInt64 in 1...3 {
      try fill(
        Fill(bytesUsed: count, timestamp: -5, metadata: BufferMetadata(values: ["\u{1}\"": "ü"])))
    }
    #expect(
      try agent.lines() == [
        event(
          "filled", id,
          #","bytesUsed":3,"timestamp":-5,"metadata":{"values":{"\u0001\"":"ü"}},"lost":2"#)
      ])
    try rig.registry.beginFill(by: user)
    rig.registry.release(user)
    #expect(
      Set(try agent.lines()) == [event("fillAborted", id), event("importers", id, #","count":0"#)])
  }

  @Test("a return is over when nobody has the buffer, or when patience is over")
  func returns() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    try rig.devices[0].make(1)
    let first = try agent.lent()
    let used = try rig.importBuffer(first)
    _ = try agent.lines()
    #expect(try agent.ask("return", #""buffer":"\#(first)","lender":1"#).isOK)
    #expect(try agent.lines() == [])
    rig.registry.release(used)
    #expect(
      try agent.lines() == [
        event("returned", first, #","cutOff":0,"reading":false"#)
      ])
    let second = try agent.lent()
    _ = (try rig.importBuffer(second), try rig.importBuffer(second))
    _ = try agent.lines()
    #expect(try agent.ask("return", #""buffer":"\#(second)","lender":1,"delay":10,"patience":0"#).isOK)
    rig.now = rig.now + .milliseconds(10)
    rig.registry.expire()
    rig.registry.expire()
    #expect(
      try agent.lines() == [
        event("returned", second, #","cutOff":2,"reading":false"#)
      ])
  }

  @Test("the agent hears of revoked buffers, and of a device's new epoch")
  func revocation() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    let pages = try rig.devices[0].make(1)
    try rig.devices[1].make(1)
    let (one, two) = (try agent.lent(), try #require(BufferID(agent.lend(device: 1).text("buffer") ?? "")))
    for borrower in pages.buffer.borrowers { _ = borrower.pagesAreWanted(isReset: false) }
    #expect(try agent.lines() == [event("revoked", one, #","reason":"resourceGone""#)])
    rig.devices[1].reset()
    rig.port.deviceWasReset(1)
    #expect(
      try agent.lines() == [
        #"{"event":"deviceReset","data":{"device":1,"epoch":2}}"#,
        event("revoked", two, #","reason":"deviceReset""#),
      ])
    #expect(try agent.lend(device: 1).error == "StaleDevice")
    for _ in 0..<2 {
      rig.devices[1].reset()
      rig.port.deviceWasReset(1)
    }
    #expect(try agent.lines() == [#"{"event":"deviceReset","data":{"device":1,"epoch":4}}"#])
    rig.devices[1].reset()
    rig.port.deviceWasReset(1)
    #expect(
      try agent.ask(PortAgent.hello) == [
        #"{"event":"deviceReset","data":{"device":1,"epoch":5}}"#, PortAgent.welcome,
      ])
    rig.port.deviceWasReset(0)
    #expect(try agent.lines() == [#"{"event":"deviceReset","data":{"device":0,"epoch":1}}"#])
  }

  @Test("a delayed return begins and ends by the timer alone")
  func time() throws {
    let rig = try PortRig()
    let timer = try LendingTimer(rig.registry, loop: rig.loop)
    let agent = try rig.agent()
    try rig.devices[0].make(1)
    let id = try agent.lent()
    _ = try rig.importBuffer(id)
    _ = try agent.lines()
    #expect(try agent.ask("return", #""buffer":"\#(id)","lender":1,"delay":3,"patience":2"#).isOK)
    let start = rig.now
    var lines: [String] = []
    try rig.loop.turn(until: "the buffer is returned") {
      // The registry's clock is the test's: it goes on as fast as the loop turns.
      rig.now = rig.now + .milliseconds(1)
      lines += try agent.lines()
      return !lines.isEmpty
    }
    withExtendedLifetime(timer) {}
    #expect(lines == [event("returned", id, #","cutOff":1,"reading":false"#)])
    #expect(rig.now - start >= .milliseconds(5))
  }
}
