import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import GuestAgent

/// The examples are lenders.
@Suite struct LendingExampleTests {
  @Test("the example in Python lends a file's content, and takes it back when its input ends")
  func python() throws {
    let rig = try AgentRig()
    let card = FakeCard()
    try rig.begin(with: card)
    let content = (0..<5000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    let file = rig.directory.appending("content")
    try FD.create(file).write(unsafe content.span.bytes)
    let (child, reader) = try startReading(
      "/usr/bin/python3",
      [
        repository.appending("examples/lend.py").string, file.string,
        rig.directory.appending("lender").string,
      ], withErrors: true)
    defer { child.signal(SIGKILL) }
    func next(_ name: String) throws -> FakeHost.Command {
      try rig.loop.turn(until: "the example's \(name)") {
        try rig.host.receive()
        return !rig.host.waiting.isEmpty || child.poll() != nil
      }
      return try rig.host.take(name)
    }
    let lend = try next("lend")
    #expect(lend.number("size") == 5000)
    let resource = UInt32(try #require(lend.number("resource")))
    #expect(try card.mapping(of: resource).bytes(at: 0, count: 5000) == content)
    try rig.host.answer(lend, "{\"buffer\": \"\(AgentRig.id(1))\"}")
    try rig.host.answer(next("return"))
    try rig.host.send(#"{"event":"returned","data":{"buffer":"\#(AgentRig.id(1))"}}"# + "\n")
    try rig.loop.turn(until: "the example ends") { child.poll() != nil }
    #expect(child.wait() == 0)
    #expect(try reader.readToEnd() == "lent \(AgentRig.id(1))\nreturned \(AgentRig.id(1))\n")
    #expect(rig.core.table.all.isEmpty)
  }
}
