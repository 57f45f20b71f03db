import Foundation
import LendingProtocol
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import GuestAgent

/// Memory that the host offers, as programs of the guest get it.
@Suite struct OfferTests {
  private let rig: AgentRig
  private let card = FakeCard()
  private let caller: LenderCaller
  private let memfd: Memfd

  init() throws {
    rig = try AgentRig()
    try rig.begin(with: card)
    caller = try rig.connect()
    memfd = try Memfd.create(name: "offered", size: 8192)
    card.offered[4_294_967_296] = memfd
  }

  private func tell(_ event: String, _ fields: String) throws {
    try rig.host.send(#"{"event":"\#(event)","data":{\#(fields)}}"# + "\n")
    try rig.settle()
  }

  private func offer(_ id: Int = 4_294_967_296, _ values: String = "{}", device: Int = 3) throws {
    try tell(
      "offered",
      #""offer":\#(id),"device":\#(device),"size":8192,"writable":true,"metadata":{"values":\#(values)}"#)
  }

  private static let received =
    #"{"parameters":{"fileDescriptor":0,"offer":{"offer":4294967296,"size":8192,"writable":true,"metadata":{"values":{"name":"camera"}},"withdrawing":false}}}"#

  @Test("an offer is received by its number or its metadata, and is the host's memory")
  func received() throws {
    try offer(4_294_967_296, #"{"name":"camera"}"#)
    for parameters in [#"{"offer":4294967296}"#, #"{"name":"name","value":"camera"}"#] {
      #expect(try caller.ask("Receive", parameters) == Self.received)
      #expect(try caller.takeDescriptor().status.inode == memfd.status.inode)
    }
    #expect(card.closed.count == 3, "the proof's and both: what the caller has is the kernel's")
  }

  @Test("watchers hear of an offer, its withdrawal and its end, also when the helper changes")
  func events() throws {
    let watcher = try rig.connect()
    try watcher.send("Watch", more: true)
    _ = try watcher.replies()
    func told() throws -> [String] { try watcher.replies() }
    try offer()
    #expect(
      try told() == [
        #"{"parameters":{"event":"offered","offer":4294967296,"size":8192,"writable":true,"metadata":{}},"continues":true}"#
      ])
    try offer()
    #expect(try told().isEmpty, "it is known")
    try tell("withdrawing", #""offer":4294967296,"patience":500"#)
    #expect(
      try told() == [
        #"{"parameters":{"event":"withdrawing","offer":4294967296,"patience":500},"continues":true}"#
      ])
    #expect(try caller.ask("Offers").contains(#""withdrawing":true"#))
    try tell("withdrawn", #""offer":4294967296"#)
    let over = #"{"parameters":{"event":"withdrawn","offer":4294967296},"continues":true}"#
    #expect(try told() == [over])
    #expect(try caller.ask("Offers") == #"{"parameters":{"offers":[]}}"#)
    try offer()
    _ = try told()
    try rig.plugPort()
    #expect(try told().contains(over))
  }

  @Test(
    "an offer that cannot be received is refused by name",
    arguments: [
      (#"{"offer":5}"#, "NoSuchOffer"), (#"{"name":"name","value":"other"}"#, "NoSuchOffer"),
      (#"{"offer":4294967297}"#, "CannotReceive"), (#"{"offer":4294967298}"#, "NoCard"),
      ("{}", "InvalidParameter"), (#"{"offer":0}"#, "InvalidParameter"),
      (#"{"name":"a"}"#, "InvalidParameter"),
      (#"{"value":"a"}"#, "InvalidParameter"), (#"{"offer":1,"name":"a","value":"b"}"#, "InvalidParameter"),
      (#"{"offer":9007199254740993}"#, "InvalidParameter"),
    ])
  func refused(_ parameters: String, _ error: String) throws {
    // The host does not map the second one; the third one is of a device that this guest does not have.
    try offer(4_294_967_297)
    try offer(4_294_967_298, device: 9)
    let answer = try caller.ask("Receive", parameters)
    #expect(answer.hasPrefix(#"{"error":""#) && answer.contains(".\(error)\""), "\(answer)")
  }

  @Test("of two offers with one name the newest is received, and none that is being withdrawn")
  func newest() throws {
    card.offered[5] = memfd
    card.offered[6] = memfd
    for id in [5, 6] { try offer(id, #"{"name":"x"}"#) }
    func number() throws -> Bool {
      try caller.ask("Receive", #"{"name":"name","value":"x"}"#).contains(#""offer":6"#)
    }
    #expect(try number())
    try tell("withdrawing", #""offer":6,"patience":500"#)
    #expect(try !number())
  }

  @Test("events about offers that lack a field, or have a wrong one, are ignored")
  func badEvents() throws {
    for (event, fields) in [
      ("offered", ""), ("offered", #""offer":1,"device":3"#),
      ("offered", #""offer":-1,"device":3,"size":8192"#), ("offered", #""offer":0,"device":3,"size":8192"#),
      ("offered", #""offer":1,"device":3,"size":0"#),
      ("offered", #""offer":"a","device":3,"size":1"#), ("withdrawing", ""), ("withdrawn", ""),
      ("withdrawn", #""offer":1"#),
    ] {
      try tell(event, fields)
    }
    #expect(try caller.ask("Offers") == #"{"parameters":{"offers":[]}}"#)
  }
}
