import Buffers
import Fixtures
import Lending
import LendingProtocol
import Linux
import TestSupport
import Testing

@testable import Port

private func endLender(_ id: Int) -> String {
  #"{"execute":"endLender","arguments":{"lender":1},"id":\#(id)}"#
}

/// What a guest cannot make the helper keep or do.
@Suite struct PortFloodTests {
  @Test("a burst of lines is read at once, and then so many lines a second")
  func rate() throws {
    var limits = PortLimits()
    (limits.linesPerSecond, limits.burst) = (1000, 20)
    let rig = try PortRig(limits: limits)
    let agent = try rig.agent()
    for id in 1...100 { try agent.send(endLender(id)) }
    // The hello is one of the burst.
    var answered = try agent.lines()
    #expect(answered.count == 19)
    for _ in 0..<5 {
      #expect(try agent.lines().isEmpty, "no time passes for the port")
      rig.now = rig.now + .milliseconds(3)
      let target = answered.count + 3
      try rig.loop.turn(until: "three more are answered") {
        answered += try agent.lines()
        return answered.count >= target
      }
      #expect(answered.count == target)
    }
    rig.now = rig.now + .seconds(3600)
    try rig.loop.turn(until: "all are answered, a burst at a time") {
      answered += try agent.lines()
      rig.now = rig.now + .milliseconds(20)
      return answered.count >= 100
    }
    #expect(answered == (1...100).map { #"{"return":{},"id":\#($0)}"# })
    #expect(rig.port.statistics.lines == 101 && rig.port.statistics.throttled > 0)
  }

  @Test("a flood without lines is read no faster")
  func withoutLines() throws {
    var limits = PortLimits()
    (limits.line, limits.linesPerSecond, limits.burst) = (1024, 1000, 20)
    for byte: UInt8 in [0xff, 0x0a, 0x78] {
      let rig = try PortRig(limits: limits)
      let agent = try rig.connect()
      var sent = 0
      for _ in 0..<1000 {
        sent += try agent.sendSome([UInt8](repeating: byte, count: 4096))
        try rig.settle()
        #expect(rig.port.kept.input <= 1024 + 4096)
      }
      #expect(sent < 1000 * 4096, "the guest has to wait")
      #expect(rig.port.statistics.lines == 20)
    }
  }

  @Test("a line that is too long is dropped up to its end, and reported once")
  func long() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    let longest =
      "{" + String(repeating: " ", count: 16383 - endLender(1).utf8.count) + endLender(1).dropFirst()
    #expect(longest.utf8.count + 1 == 16384)
    #expect(try agent.ask(longest) == [#"{"return":{},"id":1}"#])
    for length in [longest.utf8.count + 1, 100_000] {
      let lines = try agent.ask(String(repeating: " ", count: length - longest.utf8.count) + longest)
      #expect(try lines.map { try Reply($0).error } == ["LineTooLong"])
    }
    #expect(try agent.ask(endLender(2)) == [#"{"return":{},"id":2}"#])
  }

  @Test("what waits for a guest that does not read is bounded, and the port reads nothing meanwhile")
  func unread() throws {
    var limits = PortLimits()
    (limits.linesPerSecond, limits.burst) = (1_000_000, 1_000_000)
    let rig = try PortRig(limits: limits)
    let agent = try rig.agent()
    let count = 300
    for resource in 1...UInt32(count) { try rig.devices[0].make(resource) }
    let buffers = try (1...count).map { try agent.lent(UInt32($0)) }
    // Until nothing goes in any more.
    var (sent, rest, idle) = (0, [UInt8](), 0)
    while idle < 10 {
      if rest.isEmpty {
        sent += 1
        rest =
          Array(endLender(1_000_000 + sent).replacing(#""lender":1"#, with: #""lender":2"#).utf8) + [0x0a]
      }
      let taken = try agent.sendSome(rest)
      rest.removeFirst(taken)
      try rig.settle()
      idle = taken == 0 ? idle + 1 : 0
      #expect(rig.port.kept.output <= 64 << 10 && rig.port.kept.input <= (16 << 10) + (4 << 10))
    }
    // The hello and what was lent came before.
    #expect(rig.port.statistics.lines - UInt64(1 + count) < UInt64(sent), "the port does not read")
    // Each buffer is imported and let go many times, and ends.
    for _ in 0..<20 {
      for id in buffers { rig.registry.release(try rig.importBuffer(id)) }
      try rig.settle()
      #expect(rig.port.kept.output <= 64 << 10)
    }
    for case .lendable(let pages) in rig.devices[0].resources.values {
      for borrower in pages.buffer.borrowers { _ = borrower.pagesAreWanted(isReset: false) }
    }
    try rig.settle()
    #expect(rig.port.kept.output <= 64 << 10)
    // All that is read now is there once, in its order.
    var lines: [String] = []
    try rig.loop.turn(until: "all is read") {
      let taken = rest.isEmpty ? 0 : try agent.sendSome(rest)
      rest.removeFirst(taken)
      lines += try agent.lines()
      return lines.count { $0.contains("revoked") } == count
        && lines.count { $0.contains("return\"") } == sent
    }
    #expect(
      lines.filter { $0.hasPrefix(#"{"return""#) }
        == (1...sent).map { #"{"return":{},"id":\#(1_000_000 + $0)}"# })
    #expect(
      Set(lines.filter { $0.contains("revoked") })
        == Set(
          buffers.map { #"{"event":"revoked","data":{"buffer":"\#($0)","reason":"resourceGone"}}"# }))
    #expect(lines.count <= sent + 2 * count, "of what happened to one buffer, what is now was told")
  }

  @Test("the longest event fits into the room for output")
  func longestEvent() throws {
    let rig = try PortRig()
    let agent = try rig.agent()
    try rig.devices[0].make(1)
    let id = try agent.lent(1, lender: 1, #","use":"fill""#)
    let user = try rig.importBuffer(id)
    _ = try agent.lines()
    // Of all texts of so many bytes, these take the most room: as many names as there can be, of bytes that are escaped.
    let bytes = (1..<32).map { Unicode.Scalar(UInt8($0)) }
    var values: [String: String] = [:]
    for byte in bytes { values[String(byte)] = "" }
    for one in bytes { for two in bytes { values[String(one) + String(two)] = "" } }
    var size = values.reduce(0) { $0 + $1.key.utf8.count }
    for one in bytes {
      for two in bytes where size + 3 <= 4096 {
        values[String(one) + String(two) + "\u{1}"] = ""
        size += 3
      }
    }
    let metadata = BufferMetadata(values: values)
    #expect(metadata.size > 4090)
    try rig.registry.beginFill(by: user)
    try rig.registry.endFill(Fill(bytesUsed: 1, metadata: metadata), by: user)
    let line = try #require(agent.lines().first)
    #expect(line.utf8.count > 32 << 10, "it would not fit in the guest's own line")
    #expect(line.utf8.count < 48 << 10)
  }
}
