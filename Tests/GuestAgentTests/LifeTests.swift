import Foundation
import LendingProtocol
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import GuestAgent

/// The life of a buffer, between a lender, a card and the helper.
@Suite struct LentBufferTests {
  private let rig: AgentRig
  private let card = FakeCard()
  private let lender: LenderCaller
  /// Of somebody else's making.
  private let memfd: Memfd

  init() throws {
    rig = try AgentRig()
    try rig.begin(with: card)
    lender = try rig.connect()
    memfd = try Memfd.create(name: "foreign", size: 8192)
  }

  private func watch() throws -> LenderCaller {
    let watcher = try rig.connect()
    try watcher.send("Watch", more: true)
    #expect(try watcher.reply() == #"{"parameters":{"event":"ready"},"continues":true}"#)
    return watcher
  }

  private func event(_ text: String) -> String { #"{"parameters":{"event":\#(text)},"continues":true}"# }

  private var states: [String] { rig.core.table.all.map { "\($0.id) \($0.state.rawValue)" } }

  @Test("a foreign dma-buf is lent with all that its lender says of it")
  func lend() throws {
    try lender.send(
      "Lend",
      #"{"offset":100,"size":5000,"use":"fill","to":["friends"],"metadata":{"image":{"width":4,"height":3,"fourcc":1,"stride":16},"values":{"a":"\"\u0001"}},"fileDescriptor":0}"#,
      passing: [memfd])
    let command = try rig.host.take("lend")
    #expect(command.number("device") == 3 && command.number("epoch") == 7 && command.number("lender") == 1)
    // The first resource was the proof's.
    #expect(command.number("resource") == 2)
    #expect(command.number("offset") == 100 && command.number("size") == 5000)
    #expect(command.text("use") == "fill" && command.arguments["to"] as? [String] == ["friends"])
    let metadata = try #require(command.arguments["metadata"] as? [String: Any])
    #expect((metadata["image"] as? [String: Any])?["stride"] as? Int == 16)
    #expect((metadata["values"] as? [String: String]) == ["a": "\"\u{1}"])
    #expect(try lender.replies().isEmpty)
    try rig.host.answer(command, "{\"buffer\": \"\(AgentRig.id(1))\"}")
    #expect(try lender.reply() == #"{"parameters":{"buffer":"\#(AgentRig.id(1))","copied":false}}"#)
    let list = try lender.ask("List")
    #expect(
      list.hasPrefix(
        #"{"parameters":{"connected":true,"cards":1,"audiences":["friends"],"copies":0,"buffers":[{"buffer":"\#(AgentRig.id(1))","state":"lent","offset":100,"size":5000,"use":"fill","to":["friends"],"#
      ), "\(list)")
  }

  @Test("a lender that says nothing more lends the whole buffer, for reading")
  func whole() throws {
    try lender.send("Lend", passing: [memfd])
    let command = try rig.host.take("lend")
    #expect(command.number("offset") == 0 && command.number("size") == 8192)
    #expect(command.text("use") == "read")
    #expect(command.arguments["to"] == nil && command.arguments["metadata"] == nil)
  }

  @Test("a buffer that the card makes is known again when it is lent, and the agent has no handle of it")
  func make() throws {
    #expect(try lender.ask("Make", #"{"size":5000}"#) == #"{"parameters":{"fileDescriptor":0,"size":8192}}"#)
    let own = try lender.takeDescriptor()
    // The agent keeps nothing of it: the proof's handle and this one are closed.
    #expect(card.closed == [1, 2])
    try own.withDescriptor { try Mapping($0, offset: 0, length: 8, writable: true) }.store(UInt64(42), at: 0)
    try lender.send("Lend", passing: [own])
    let command = try rig.host.take("lend")
    let resource = UInt32(try #require(command.number("resource")))
    #expect(try card.mapping(of: resource).load(UInt64.self, at: 0) == 42)
  }

  @Test("the handle closes when the helper says that the buffer has returned, and not before")
  func takeBack() throws {
    try rig.lend(memfd, by: lender, as: AgentRig.id(1))
    let watcher = try watch()
    try lender.send("Return", #"{"buffer":"\#(AgentRig.id(1))","delay":5,"patience":0}"#)
    let command = try rig.host.take("return")
    #expect(command.text("buffer") == "\(AgentRig.id(1))" && command.number("lender") == 1)
    #expect(command.number("delay") == 5 && command.number("patience") == 0)
    try rig.host.answer(command)
    #expect(try lender.reply() == #"{"parameters":{}}"#)
    #expect(states == ["\(AgentRig.id(1)) returning"])
    #expect(card.closed == [1])
    try rig.host.send(
      #"{"event":"returned","data":{"buffer":"\#(AgentRig.id(1))","cutOff":2,"reading":true}}"# + "\n")
    try rig.settle()
    #expect(card.closed == [1, 2] && states.isEmpty)
    #expect(
      try watcher.replies() == [
        event(#""returning","buffer":"\#(AgentRig.id(1))""#),
        event(#""returned","buffer":"\#(AgentRig.id(1))","cutOff":2,"reading":true"#),
      ])
  }

  @Test("lending again cancels a return, and replaces the metadata")
  func cancel() throws {
    try rig.lend(memfd, by: lender, as: AgentRig.id(1))
    try lender.send("Return", #"{"buffer":"\#(AgentRig.id(1))"}"#)
    try rig.host.answer(rig.host.take("return"))
    _ = try lender.reply()
    try rig.lend(memfd, #"{"metadata":{"values":{"a":"b"}}}"#, by: lender, as: AgentRig.id(1))
    #expect(states == ["\(AgentRig.id(1)) lent"])
    #expect(rig.core.table[AgentRig.id(1)]?.request.metadata?.values == ["a": "b"])
    #expect(card.closed == [1])
  }

  @Test("a second lender's refusal leaves the shared handle open until the first buffer returns")
  func shared() throws {
    let other = try rig.connect()
    try rig.lend(memfd, by: lender, as: AgentRig.id(1))
    // The helper refuses it, and knows why.
    try other.send("Lend", passing: [memfd])
    let command = try rig.host.take("lend")
    #expect(command.number("lender") == 2 && command.number("resource") == 2)
    try rig.host.refuse(command, "AlreadyLent", "lender 1 has it")
    #expect(
      try other.reply()
        == #"{"error":"io.udmabridge.Lender.AlreadyLent","parameters":{"reason":"lender 1 has it"}}"#)
    #expect(card.closed == [1])
    try rig.host.send(#"{"event":"returned","data":{"buffer":"\#(AgentRig.id(1))"}}"# + "\n")
    try rig.settle()
    #expect(card.closed == [1, 2])
  }

  @Test("the end of a lender's connection returns its buffers, also one that is just being lent")
  func end() throws {
    let watcher = try watch()
    try rig.lend(memfd, by: lender, as: AgentRig.id(1))
    let second = try Memfd.create(name: "second", size: 4096)
    try lender.send("Lend", passing: [second])
    lender.hangUp()
    try rig.settle()
    try rig.host.answer(rig.host.take("lend"), "{\"buffer\": \"\(AgentRig.id(2))\"}")
    try rig.settle()
    let end = try rig.host.take("endLender")
    #expect(end.number("lender") == 1)
    try rig.host.answer(end)
    try rig.settle()
    #expect(states == ["\(AgentRig.id(1)) returning", "\(AgentRig.id(2)) returning"])
    #expect(card.closed == [1])
    for number in [2, 1] as [UInt64] {
      try rig.host.send(#"{"event":"returned","data":{"buffer":"\#(AgentRig.id(number))"}}"# + "\n")
    }
    try rig.settle()
    #expect(card.closed == [1, 3, 2] && states.isEmpty)
    #expect(try watcher.replies().count == 4)
    // A caller that lends nothing is no lender.
    try rig.connect().hangUp()
    try rig.settle()
    try rig.host.receive()
    #expect(rig.host.waiting.isEmpty)
  }

  @Test(
    "the end of a session revokes all buffers, and foreign ones are lent again under new ids")
  func session() throws {
    let watcher = try watch()
    try rig.lend(memfd, by: lender, as: AgentRig.id(1))
    _ = try watcher.replies()
    rig.host.hangUp()
    try rig.settle()
    #expect(
      try watcher.replies() == [
        event(#""revoked","buffer":"\#(AgentRig.id(1))","reason":"sessionEnded""#), event(#""disconnected""#),
      ])
    // To close what others have made, the driver would wait for a device that nobody is behind.
    #expect(states == ["\(AgentRig.id(1)) waiting"] && card.closed == [1])
    #expect(
      try lender.ask("Lend", passing: [memfd]).hasPrefix(#"{"error":"io.udmabridge.Lender.NotConnected""#))
    try rig.plugPort()
    try rig.host.welcome()
    try rig.settle()
    #expect(card.closed == [1], "nobody knows yet whether the card is this helper's")
    try rig.prove(card)
    #expect(card.closed.contains(2))
    let command = try rig.host.take("lend")
    #expect(command.number("lender") == 1 && command.number("size") == 8192)
    try rig.host.answer(command, "{\"buffer\": \"\(AgentRig.id(2))\"}")
    try rig.settle()
    #expect(states == ["\(AgentRig.id(2)) lent"])
    #expect(
      try watcher.replies() == [
        event(#""connected""#), event(#""lent","buffer":"\#(AgentRig.id(2))","before":"\#(AgentRig.id(1))""#),
      ])
  }

  @Test("a buffer on its way back is forgotten when the session ends")
  func sessionEndsReturn() throws {
    try rig.lend(memfd, by: lender, as: AgentRig.id(1))
    try lender.send("Return", #"{"buffer":"\#(AgentRig.id(1))"}"#)
    try rig.host.answer(rig.host.take("return"))
    try rig.settle()
    #expect(states == ["\(AgentRig.id(1)) returning"])
    rig.host.hangUp()
    try rig.settle()
    #expect(states.isEmpty)
  }

  @Test("the helper's events about a known buffer reach watchers, and others do not")
  func events() throws {
    try rig.lend(memfd, by: lender, as: AgentRig.id(1))
    let watcher = try watch()
    let id = AgentRig.id(1)
    let cases = [
      (#""importers","data":{"buffer":"\#(id)","count":2}"#, #""importers","buffer":"\#(id)","count":2"#),
      (
        #""accessBegun","data":{"buffer":"\#(id)","mode":"readWrite"}"#,
        #""accessBegun","buffer":"\#(id)","mode":"readWrite""#
      ),
      (#""accessEnded","data":{"buffer":"\#(id)"}"#, #""accessEnded","buffer":"\#(id)""#),
      (
        #""filled","data":{"buffer":"\#(id)","bytesUsed":9,"timestamp":5,"metadata":{"values":{"a":"b"}},"lost":3}"#,
        #""filled","buffer":"\#(id)","bytesUsed":9,"timestamp":5,"metadata":{"values":{"a":"b"}},"lostFills":3"#
      ),
      (#""fillAborted","data":{"buffer":"\#(id)"}"#, #""fillAborted","buffer":"\#(id)""#),
    ]
    for (told, heard) in cases {
      try rig.host.send("{\"event\":\(told)}\n")
      #expect(try watcher.replies() == [event(heard)])
    }
    for nothing in [
      #""importers","data":{"buffer":"\#(AgentRig.id(9))","count":2}"#, #""importers","data":{}"#,
      #""importers""#,
      #""zork","data":{"buffer":"\#(id)"}"#, #""filled","data":{"buffer":"\#(id)"}"#,
      #""revoked","data":{"buffer":"\#(id)"}"#,
      #""importers","data":{"buffer":"x","count":2}"#, #""deviceReset","data":{"device":3}"#,
    ] {
      try rig.host.send("{\"event\":\(nothing)}\n")
    }
    #expect(try watcher.replies().isEmpty)
    #expect(try lender.ask("List").contains(#""importers":2"#))
  }

  @Test("a slow watcher learns how many events it missed, and hears of the newest")
  func slow() throws {
    try rig.lend(memfd, by: lender, as: AgentRig.id(1))
    let watcher = try watch()
    // More than the socket and the queue hold; nothing is read meanwhile.
    let count = 20_000
    for number in 0..<count {
      try rig.host.send(
        #"{"event":"filled","data":{"buffer":"\#(AgentRig.id(1))","bytesUsed":\#(number)}}"# + "\n")
      if number % 100 == 0 { try rig.settle() }
    }
    try rig.settle()
    var told = 0
    var lost = 0
    var last = ""
    while case let replies = try watcher.replies(), !replies.isEmpty {
      told += replies.count
      for reply in replies {
        if let match = reply.firstMatch(of: /"lost":(\d+)/) { lost += Int(match.1) ?? 0 }
        last = reply
      }
    }
    #expect(lost > 0 && told + lost == count)
    #expect(last.contains("\"bytesUsed\":\(count - 1)"))
  }
}
