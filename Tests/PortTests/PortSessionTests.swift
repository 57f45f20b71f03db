import Fixtures
import Lending
import LendingProtocol
import Linux
import Logging
import TestSupport
import Testing

@testable import Port

private let secret: [UInt8] = (0..<32).map { UInt8(7 * $0 & 0xff) }
private let secretText = secret.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
private let wrongText = String(secretText.dropLast()) + (secretText.hasSuffix("0") ? "1" : "0")
private let unknownBuffer = String(repeating: "0", count: 32)

/// Who may speak, and when a session begins and ends.
@Suite struct PortSessionTests {
  @Test("lines before a hello are dropped without an answer")
  func silence() throws {
    let rig = try PortRig()
    let agent = try rig.connect()
    let lines = [
      "", "nonsense", "{}", #"{"execute":"endLender","arguments":{"lender":1},"id":1}"#,
      #"{"execute":"hell","arguments":{},"id":1}"#, String(repeating: "x", count: 20000),
    ]
    for line in lines { #expect(try agent.ask(line) == []) }
    #expect(try agent.ask(PortAgent.hello) == [PortAgent.welcome])
    #expect(rig.port.statistics.sessions == 1 && rig.port.statistics.errors == [:])
  }

  @Test("0xff drops the line that has begun, wherever it comes")
  func restart() throws {
    let rig = try PortRig()
    let agent = try rig.connect()
    try agent.send(Array(#"{"execute":"hello","argum"#.utf8) + [0xff])
    #expect(try agent.ask(PortAgent.hello) == [PortAgent.welcome])
    let half = Array(#"{"execute":"endLender","arg"#.utf8)
    try agent.send(half + [0xff] + half + [0xff, 0xff])
    #expect(try agent.ask("endLender", #""lender":1"#).isOK)
  }

  @Test("a hello of another version is refused, and ends the session before it")
  func version() throws {
    let rig = try PortRig()
    let agent = try rig.connect()
    let other = PortAgent.hello.replacing(#""version":1"#, with: #""version":2"#)
    #expect(try Reply(#require(agent.ask(other).first)).error == "WrongVersion")
    #expect(try agent.ask(#"{"execute":"endLender","arguments":{"lender":1},"id":1}"#) == [])
    _ = try agent.ask(PortAgent.hello)
    try rig.devices[0].make(1)
    _ = try agent.lent()
    #expect(try Reply(#require(agent.ask(other).first)).error == "WrongVersion")
    #expect(rig.registry.statistics.buffers == 0 && rig.registry.statistics.revoked == 1)
    #expect(try agent.ask(#"{"execute":"endLender","arguments":{"lender":1},"id":1}"#) == [])
  }

  @Test("a guest that says nothing after a fresh start of its device is connected anew, once")
  func silent() throws {
    var limits = PortLimits()
    limits.silence = .milliseconds(1)
    let rig = try PortRig(limits: limits)
    func waitForEnd(of agent: PortAgent) throws {
      while !agent.isClosed {
        try rig.loop.turn()
        _ = try agent.lines()
      }
    }
    // With a session from before its sleep, and without one.
    let spoke = try rig.agent()
    rig.port.deviceWasReset(0)
    try waitForEnd(of: spoke)
    let other = try rig.connect()
    rig.port.deviceWasReset(1)
    try waitForEnd(of: other)

    let last = try rig.agent()
    #expect(!last.isClosed && rig.port.statistics.sessions == 2)
  }

  @Test("a guest that speaks after a fresh start of its device stays connected")
  func spoken() throws {
    var limits = PortLimits()
    limits.silence = .milliseconds(1)
    let rig = try PortRig(limits: limits)
    let agent = try rig.agent()
    // It is there before the time begins, and taken before the time is over.
    _ = try agent.sendSome(Array(#"{"execute":"endLender","arguments":{"lender":1},"id":1}"#.utf8) + [0x0a])
    rig.port.deviceWasReset(0)
    let over = try Timer(rig.loop) {}
    over.arm(after: .milliseconds(20))
    while over.armed { try rig.loop.turn() }
    #expect(try agent.lines().contains(#"{"return":{},"id":1}"#))
    #expect(try agent.ask("endLender", #""lender":1"#).isOK)
    #expect(!agent.isClosed)
  }

  @Test("a malformed hello is refused, and changes nothing")
  func wrongHello() throws {
    let rig = try PortRig()
    let agent = try rig.connect()
    let wrong = #"{"execute":"hello","arguments":{"version":1,"session":"1"},"id":5}"#
    let refused = try Reply(#require(agent.ask(wrong).first))
    #expect(refused.error == "InvalidArgument" && refused.id == 5)
    _ = try agent.ask(PortAgent.hello)
    try rig.devices[0].make(1)
    _ = try agent.lent()
    #expect(try Reply(#require(agent.ask(wrong).first)).error == "InvalidArgument")
    #expect(rig.registry.statistics.buffers == 1)
  }

  @Test("a second hello revokes what was lent, and its agent hears of its own buffers only")
  func secondHello() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    try rig.devices[0].make(1)
    let old = try agent.lent()
    let used = try rig.importBuffer(old)
    #expect(try agent.lines().count == 1)
    #expect(try agent.ask(PortAgent.hello) == [PortAgent.welcome])
    #expect(used.buffer.state == .revoked(.sessionEnded))
    rig.registry.release(used)
    #expect(try agent.lines() == [])
    #expect(try agent.ask("endAccess", #""buffer":"\#(old)","lender":1"#).error == "NoSuchBuffer")
    #expect(try agent.lent() != old)
  }

  @Test("the end of the connection revokes what was lent, also in the middle of a line")
  func end() throws {
    let rig = try PortRig()
    try rig.devices[0].make(1)
    do {
      let agent = try rig.agent()
      _ = try agent.lent()
      try agent.send(Array(#"{"execute":"le"#.utf8))
    }
    try rig.loop.turn(until: "the end is seen") { rig.registry.statistics.revoked == 1 }
    let next = try rig.connect()
    #expect(try next.ask(PortAgent.hello) == [PortAgent.welcome])
    _ = try next.lent()
  }

  @Test("the port's own end revokes what was lent, and closes the connection")
  func otherEnds() throws {
    let rig = try PortRig()
    try rig.devices[0].make(1)
    let agent = try rig.agent()
    _ = try agent.lent()
    rig.port.close()
    #expect(rig.registry.statistics.revoked == 1)
    #expect(try agent.lines() == [] && agent.isClosed)
  }

  @Test("a second connection, and one that is not allowed, are closed and counted")
  func connections() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    for count in 1...3 {
      let other = try rig.connect()
      #expect(try other.lines() == [] && other.isClosed)
      #expect(rig.port.statistics.refused == UInt64(count))
    }
    #expect(try agent.ask("endLender", #""lender":1"#).isOK)
    #expect(rig.book.lines.filter { $0.level == .notice }.count == 1, "it is said rarely")
    agent.socket.shutDown()
    rig.admits = false
    try rig.loop.turn(until: "the connection ends") { rig.book.lines.contains { $0.text.contains("ended") } }
    let stranger = try rig.connect()
    #expect(try stranger.lines() == [] && stranger.isClosed)
    #expect(rig.port.statistics.refused == 4)
    rig.admits = true
    let next = try rig.connect()
    #expect(try next.ask(PortAgent.hello).count == 1)
  }

  @Test("answers come in the order of the commands, each once")
  func order() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    try rig.devices[0].make(1)
    let lend =
      #""arguments":{"device":0,"epoch":1,"resource":1,"lender":1,"offset":0,"size":1}"#
    let commands = [
      #"{"execute":"lend",\#(lend),"id":3}"#, "nonsense", #"{"execute":"other","id":2}"#,
      String(repeating: "x", count: 20000), #"{"execute":"endLender","arguments":{"lender":2},"id":1}"#, "",
    ]
    rig.devices[0].queueIsFull = true
    try agent.send(commands.joined(separator: "\n") + "\n")
    #expect(try agent.lines() == [], "all wait for the first")
    rig.devices[0].takeQueue()
    let replies = try agent.lines().map { try Reply($0) }
    #expect(replies.map(\.id) == [3, nil, 2, nil, 1, nil, nil])
    #expect(
      replies.map(\.error) == [
        nil, "NotACommand", "CommandNotFound", "LineTooLong", nil, "NotACommand", "NotACommand",
      ])
    #expect(
      rig.port.statistics.errors == ["NotACommand": 3, "CommandNotFound": 1, "LineTooLong": 1])
  }
}

/// Which device a render node is.
@Suite struct ProofTests {
  private func prove(_ agent: PortAgent, _ resource: UInt32, _ secret: String) throws -> Reply {
    try agent.ask("prove", #""resource":\#(resource),"secret":"\#(secret)""#)
  }

  @Test("a proof names the device that has the secret in the resource, and its epoch")
  func right() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    rig.devices[1].epoch = 1 << 53
    try rig.devices[0].make(5)
    try rig.devices[1].make(5, secret)
    try rig.devices[0].make(6, secret)
    let reply = try prove(agent, 5, secretText)
    #expect(reply.number("device") == 1 && reply.number("epoch") == 1 << 53)
    #expect(try prove(agent, 6, secretText).number("device") == 0)
    #expect(rig.devices.map(\.reads) == [2, 2], "each device is looked into, whoever has it")
  }

  @Test("wrong guesses are refused, and after eight tries of a session all are")
  func guesses() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    try rig.devices[0].make(1, secret)
    rig.devices[0].resources[2] = .copied
    let tries: [(UInt32, String)] = [
      (1, wrongText), (2, secretText), (3, secretText), (UInt32.max, secretText),
      (1, String(repeating: "0", count: 64)), (1, String(secretText.reversed())), (1, wrongText),
    ]
    for (resource, text) in tries { #expect(try prove(agent, resource, text).error == "NoSuchSecret") }
    #expect(try prove(agent, 1, secretText).number("device") == 0, "the eighth")
    for _ in 0..<3 { #expect(try prove(agent, 1, secretText).error == "TooManyProofs") }
    #expect(rig.devices[0].reads == 8)
    _ = try agent.ask(PortAgent.hello)
    #expect(try prove(agent, 1, secretText).number("device") == 0, "another session has its own")
  }

  @Test("a proof waits until every device has taken its queue")
  func queues() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    for device in rig.devices { device.queueIsFull = true }
    try agent.send(#"{"execute":"prove","arguments":{"resource":1,"secret":"\#(secretText)"},"id":9}"#)
    try rig.devices[1].make(1, secret)
    rig.devices[1].takeQueue()
    #expect(try agent.lines() == [])
    rig.devices[0].takeQueue()
    #expect(try agent.lines() == [#"{"return":{"device":1,"epoch":1},"id":9}"#])
  }

  @Test("the end of the connection drops a proof that waits")
  func end() throws {
    let rig = try PortRig()
    do {
      let agent = try rig.agent()
      rig.devices[0].queueIsFull = true
      try agent.send(#"{"execute":"prove","arguments":{"resource":1,"secret":"\#(secretText)"},"id":9}"#)
    }
    try rig.loop.turn(until: "the connection ends") { rig.book.lines.contains { $0.text.contains("ended") } }
    try rig.devices[0].make(1, secret)
    #expect(rig.devices[0].waitingCount == 1)
    rig.devices[0].takeQueue()
    #expect(rig.devices.map(\.reads) == [0, 0], "nobody looks for it any more")
    _ = try rig.agent()
  }
}
