import Fixtures
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import Varlink

/// The protocol of varlink, as callers of all kinds see it.
@Suite struct ProtocolTests {
  struct Case: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let message: String
    /// Nil: the connection ends without an answer.
    let reply: String?
    init(_ name: String, _ message: String, _ reply: String?) {
      (testDescription, self.message, self.reply) = (name, message, reply)
    }
  }

  static func error(_ name: String, _ field: String, _ value: String) -> String {
    #"{"error":"org.varlink.service.\#(name)","parameters":{"\#(field)":"\#(value)"}}"#
  }

  static let calls: [Case] = [
    .init(
      "a call", #"{"method":"org.example.Test.Echo","parameters":{"text":"x","count":3}}"#,
      #"{"parameters":{"text":"x","count":3}}"#),
    .init(
      "blanks, an order of its own, fields that nobody knows",
      #" { "more" : false, "x": [1, {}], "parameters": {"text": "x", "count": null}, "method": "org.example.Test.Echo" } "#,
      #"{"parameters":{"text":"x"}}"#),
    .init(
      "characters of all kinds",
      #"{"method":"org.example.Test.Echo","parameters":{"text":"\"\\\u0001é\ud83d\ude00/"}}"#,
      #"{"parameters":{"text":"\"\\\u0001é😀/"}}"#),
    .init(
      "info", #"{"method":"org.varlink.service.GetInfo"}"#,
      #"{"parameters":{"vendor":"v","product":"p \"quoted\"\u000a","version":"1","url":"","interfaces":["org.varlink.service","org.example.Test"]}}"#
    ),
    .init(
      "a description",
      #"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"org.example.Test"}}"#,
      #"{"parameters":{"description":"interface org.example.Test\u000a"}}"#),
    .init(
      "a description of what is not there",
      #"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"org.example.Other"}}"#,
      error("InterfaceNotFound", "interface", "org.example.Other")),
    .init(
      "no such interface", #"{"method":"org.example.Other.Echo"}"#,
      error("InterfaceNotFound", "interface", "org.example.Other")),
    .init("no interface", #"{"method":"Echo"}"#, error("InterfaceNotFound", "interface", "Echo")),
    .init("no name", #"{"method":""}"#, error("InterfaceNotFound", "interface", "")),
    .init("dots", #"{"method":"..."}"#, error("InterfaceNotFound", "interface", "..")),
    .init(
      "no such method", #"{"method":"org.example.Test.Other"}"#,
      error("MethodNotFound", "method", "org.example.Test.Other")),
    .init(
      "no such method of the service", #"{"method":"org.varlink.service.Other"}"#,
      error("MethodNotFound", "method", "org.varlink.service.Other")),
    .init(
      "a missing parameter", #"{"method":"org.example.Test.Echo","parameters":{}}"#,
      error("InvalidParameter", "parameter", "text")),
    .init(
      "no parameters", #"{"method":"org.example.Test.Echo"}"#, error("InvalidParameter", "parameter", "text")),
    .init(
      "null parameters", #"{"method":"org.example.Test.Echo","parameters":null}"#,
      error("InvalidParameter", "parameter", "text")),
    .init(
      "parameters that are no object", #"{"method":"org.example.Test.Echo","parameters":[1]}"#,
      error("InvalidParameter", "parameter", "parameters")),
    .init(
      "an unknown parameter", #"{"method":"org.example.Test.Echo","parameters":{"text":"x","sinc":1}}"#,
      error("InvalidParameter", "parameter", "sinc")),
    .init(
      "a parameter of the wrong type", #"{"method":"org.example.Test.Echo","parameters":{"text":5}}"#,
      error("InvalidParameter", "parameter", "text")),
    .init(
      "a fraction for a number", #"{"method":"org.example.Test.Echo","parameters":{"text":"x","count":1.5}}"#,
      error("InvalidParameter", "parameter", "parameters")),
    .init(
      "a number that is too large",
      #"{"method":"org.example.Test.Echo","parameters":{"text":"x","count":99999999999999999999}}"#,
      error("InvalidParameter", "parameter", "parameters")),
    .init(
      "several replies, not asked for", #"{"method":"org.example.Test.Stream"}"#,
      #"{"error":"org.varlink.service.ExpectedMore","parameters":{}}"#),
    .init(
      "another protocol", #"{"method":"org.example.Test.Echo","upgrade":true}"#,
      error("MethodNotImplemented", "method", "org.example.Test.Echo")),
  ]

  @Test("each call gets its answer, and the connection goes on", arguments: calls)
  func answers(_ one: Case) throws {
    let service = try Service()
    let caller = try service.connect()
    #expect(try caller.ask(one.message) == [one.reply])
    #expect(try caller.ask(Self.calls[0].message) == [Self.calls[0].reply])
    #expect(!caller.isClosed)
  }

  static let broken: [Case] = [
    .init("nothing", "", nil), .init("no JSON", "hello", nil), .init("half of it", #"{"method":"a.b""#, nil),
    .init("something behind it", #"{"method":"a.b"} {}"#, nil), .init("an array", "[]", nil),
    .init("null", "null", nil), .init("no method", "{}", nil),
    .init("a number for the method", #"{"method":1}"#, nil),
    .init("text for a truth", #"{"method":"a.b","more":"yes"}"#, nil),
    .init("a reply", #"{"parameters":{}}"#, nil),
    .init("very deep", String(repeating: "[", count: 30_000), nil),
    .init("very deep in a call", #"{"method":"a.b","x":"# + String(repeating: #"{"x":"#, count: 10_000), nil),
    .init("too long", #"{"method":"a.b","x":""# + String(repeating: "x", count: 70_000) + #""}"#, nil),
    .init("a line feed for the end", "{\"method\":\"org.varlink.service.GetInfo\"}\n{}", nil),
  ]

  @Test("a message that is no call ends its connection, and no other", arguments: broken)
  func noCall(_ one: Case) throws {
    let service = try Service()
    let (other, caller) = (try service.connect(), try service.connect())
    try caller.send(one.message)
    #expect(try caller.lastReplies() == [])
    #expect(service.server.connectionCount == 1)
    #expect(try other.ask(Self.calls[0].message) == [Self.calls[0].reply])
  }

  @Test("bytes that are no UTF-8 end the connection")
  func noText() throws {
    let service = try Service()
    let caller = try service.connect()
    try caller.send(Array(#"{"method":""#.utf8) + [0xff, 0xfe] + Array(#".b"}"#.utf8) + [0])
    #expect(try caller.lastReplies() == [])
    #expect(service.interface.called.isEmpty)
  }

  @Test("a message without an end ends the connection at the limit")
  func endless() throws {
    let service = try Service()
    let caller = try service.connect()
    try caller.send([UInt8](repeating: 0x20, count: VarlinkConnection.longestMessage + 8192))
    #expect(try caller.lastReplies() == [])
  }

  @Test("a message may come in pieces, and several in one piece")
  func pieces() throws {
    let service = try Service()
    let caller = try service.connect()
    let message = Array(Self.calls[0].message.utf8) + [0]
    for byte in message {
      #expect(try caller.replies() == [])
      try caller.send([byte])
    }
    #expect(try caller.replies() == [Self.calls[0].reply])
    try caller.send([[UInt8]](repeating: message, count: 300).flatMap { $0 })
    #expect(try caller.replies().count == 300)
  }

  @Test("a oneway call gets neither an answer nor an error")
  func oneway() throws {
    let service = try Service()
    let caller = try service.connect()
    for method in ["Echo", "Other", "Stream", "Give"] {
      #expect(
        try caller.ask(#"{"method":"org.example.Test.\#(method)","oneway":true,"parameters":{"text":"x"}}"#)
          == [])
    }
    #expect(service.interface.called == ["Echo", "Other", "Stream", "Give"])
    #expect(try caller.ask(Self.calls[0].message) == [Self.calls[0].reply])
  }

  @Test("a descriptor comes with the reply that names its index")
  func descriptor() throws {
    let service = try Service()
    let caller = try service.connect()
    #expect(
      try caller.ask(#"{"method":"org.example.Test.Give"}"#) == [#"{"parameters":{"fileDescriptor":0}}"#])
    guard let fd = caller.descriptors.take(0) else { throw TroubleInTest("no descriptor came") }
    #expect(try fd.status().inode == service.interface.memfd.status.inode)
  }

  @Test("a caller that does not read gets few answers made, and delays nobody else")
  func neverReads() throws {
    let service = try Service()
    let (lazy, other) = (try service.connect(), try service.connect())
    let ask = #"{"method":"org.example.Test.Long","parameters":{"text":"x","count":100000}}"#
    try lazy.send(Array([String](repeating: ask + "\0", count: 60).joined().utf8))
    let answered = service.interface.called.count
    #expect(answered > 0 && answered < 20, "\(answered) of 60")
    #expect(try other.ask(Self.calls[0].message) == [Self.calls[0].reply])
    // It reads after all.
    #expect(try lazy.replies().count >= answered)
    #expect(service.server.connectionCount == 2)
  }

  @Test("a caller that has closed its sending half is answered")
  func halfClosed() throws {
    let service = try Service()
    let caller = try service.connect()
    try caller.send(Self.calls[0].message)
    caller.socket.fd.withRaw { _ = shutdown($0, CInt(SHUT_WR)) }
    #expect(try caller.lastReplies() == [Self.calls[0].reply])
    #expect(service.server.connectionCount == 0)
  }

  @Test("a call that a caller sends just before it goes is executed")
  func lastWords() throws {
    let service = try Service()
    do {
      let caller = Caller(try UnixSocket.connect(service.socket), service)
      let message = #"{"method":"org.example.Test.Echo","oneway":true,"parameters":{"text":"x"}}"# + "\0"
      _ = unsafe try caller.socket.send(Array(message.utf8).span.bytes)
    }
    try service.waitUntil("its end is known") { service.interface.gone == 1 }
    #expect(service.interface.called == ["Echo"])
    #expect(service.server.connectionCount == 0)
  }

  // MARK: Streams

  @Test("a stream's replies come before its last one, and other calls after that")
  func stream() throws {
    let service = try Service()
    let caller = try service.connect()
    #expect(try caller.ask(#"{"method":"org.example.Test.Stream","more":true}"#) == [])
    let connection = try #require(service.interface.streams.first)
    connection.stream(Example.Text(text: "one"))
    // It waits for its turn.
    try caller.send(Self.calls[0].message)
    connection.stream(Example.Text(text: "two"))
    #expect(
      try caller.replies() == [
        #"{"parameters":{"text":"one"},"continues":true}"#,
        #"{"parameters":{"text":"two"},"continues":true}"#,
      ])
    connection.endStream(Example.Text(text: "three"))
    #expect(try caller.replies() == [#"{"parameters":{"text":"three"}}"#, Self.calls[0].reply])
  }

  @Test("the end of a stream's caller is noticed")
  func streamGone() throws {
    let service = try Service()
    do {
      let caller = try service.connect()
      _ = try caller.ask(#"{"method":"org.example.Test.Stream","more":true}"#)
    }
    try service.waitUntil("its end is known") { service.interface.gone == 1 }
    #expect(service.server.connectionCount == 0)
  }

  // MARK: Another protocol

  static let upgrade = #"{"method":"org.example.Test.Raw","upgrade":true}"#

  @Test("after an upgrade the socket is the method's, and the connection counts until it is closed")
  func upgraded() throws {
    let service = try Service(limit: 1)
    let caller = try service.connect()
    var connection: VarlinkConnection?
    service.interface.whenCalled = { connection = $0 }
    #expect(try caller.ask(Self.upgrade) == [#"{"parameters":{}}"#])
    // Not a call any more.
    try caller.send(Self.calls[0].message)
    #expect(try caller.replies() == [])
    let socket = try service.interface.takeAdopted()
    var bytes: [UInt8] = []
    var descriptors = ReceivedDescriptors()
    let count = try socket.receive(into: &bytes, upTo: 1000, descriptors: &descriptors)
    #expect(count == Self.calls[0].message.utf8.count + 1)
    _ = unsafe try socket.send(([1, 2, 0] as [UInt8]).span.bytes)
    #expect(try caller.replies() == ["\u{1}\u{2}"])
    #expect(service.server.connectionCount == 1)
    #expect(service.interface.gone == 0)
    connection?.close()
    #expect(service.server.connectionCount == 0)
    #expect(service.interface.gone == 1)
  }

  @Test("a method with its own protocol needs upgrade, and bytes behind the call end the connection")
  func badUpgrade() throws {
    let service = try Service()
    let caller = try service.connect()
    #expect(
      try caller.ask(#"{"method":"org.example.Test.Raw"}"#) == [
        Self.error("InvalidParameter", "parameter", "upgrade")
      ])
    try caller.send(Array("\(Self.upgrade)\0\(Self.calls[0].message)\0".utf8))
    #expect(try caller.lastReplies() == [#"{"parameters":{}}"#])
    #expect(throws: TroubleInTest.self) { _ = try service.interface.takeAdopted() }
    #expect(service.server.connectionCount == 0)
  }

  // MARK: Who may call

  @Test("a connection beyond the limit is closed at once, and a free place is given again")
  func tooMany() throws {
    let service = try Service(limit: 2)
    let first = try service.connect()
    do {
      let (second, third) = (try service.connect(), try service.connect())
      try third.send(Self.calls[0].message)
      #expect(try third.lastReplies() == [])
      #expect(try second.ask(Self.calls[0].message) == [Self.calls[0].reply])
    }
    #expect(service.server.refusedCount == 1)
    try service.waitUntil("a place is free") { service.server.connectionCount == 1 }
    #expect(try service.connect().ask(Self.calls[0].message) == [Self.calls[0].reply])
    #expect(try first.ask(Self.calls[0].message) == [Self.calls[0].reply])
  }

  @Test("root and the helper's user always find a place, and the others share the rest")
  func limits() {
    let (own, a, b, c): (UInt32, UInt32, UInt32, UInt32) = (1000, 1, 2, 3)
    let limits = UserShares(32, own: own)
    /// As each of these comes, in this order, again and again until nobody is let in any more.
    func fill(_ users: [UInt32]) -> [UInt32: Int] {
      var present: [UInt32] = []
      var before = -1
      while present.count > before {
        before = present.count
        for user in users where limits.reached(by: user, beside: present) == nil { present.append(user) }
      }
      return Dictionary(present.map { ($0, 1) }, uniquingKeysWith: +)
    }
    #expect(fill([a]) == [a: 12])
    #expect(fill([a, b]) == [a: 12, b: 12])
    #expect(fill([a, b, c]) == [a: 8, b: 8, c: 8])
    #expect(fill([own]) == [own: 32])
    #expect(fill([0, own]) == [0: 16, own: 16])
    for trusted in [0, own] {
      for others in [[a], [a, b], [a, b, c]] {
        let present = fill(others).flatMap { Array(repeating: $0.key, count: $0.value) }
        #expect(limits.reached(by: trusted, beside: present) == nil)
      }
    }
    let full = Array(repeating: own, count: 32)
    for user in [0, own, a] { #expect(limits.reached(by: user, beside: full) == .all(32)) }
    #expect(limits.reached(by: a, beside: Array(repeating: a, count: 12)) == .ofOne(12, a))
    #expect(fill([a, b]).values.reduce(0, +) == 24)
    #expect(
      limits.reached(by: c, beside: Array(repeating: a, count: 12) + Array(repeating: b, count: 12))
        == .ofOthers(24))
    let least = UserShares(UserShares.fewest, own: own)
    #expect(least.reached(by: a, beside: []) == nil)
    #expect(UserShares(UserShares.fewest - 1, own: own).reached(by: a, beside: []) == .ofOne(0, a))
  }

  @Test("a caller that is not admitted is hung up on before its call is read")
  func notAdmitted() throws {
    var asked: [PeerCredentials] = []
    let service = try Service { peer in
      asked.append(peer)
      return false
    }
    var why = ""
    service.server.whenRefused = { why = $0 }
    let caller = try service.connect()
    try caller.send(Self.calls[0].message)
    #expect(try caller.lastReplies() == [])
    #expect(service.interface.called == [])
    #expect(asked.map(\.pid) == [getpid()] && asked.map(\.user) == [geteuid()])
    #expect(asked.allSatisfy { $0.groups.contains(getegid()) })
    #expect(why.contains("user \(geteuid())"))
  }

  @Test(
    "a call may be answered later, and the calls behind it wait")
  func later() throws {
    let service = try Service()
    let caller = try service.connect()
    let later = #"{"method":"org.example.Test.Later"}"#
    let echo = #"{"method":"org.example.Test.Echo","parameters":{"text":"x"}}"#
    try caller.send(later)
    #expect(try caller.ask(echo).isEmpty)
    #expect(service.interface.called == ["Later"])
    let connection = try #require(service.interface.later.first)
    connection.answer(.success(Example.Text(text: "late")))
    // Once is enough.
    connection.answer(.success(Example.Text(text: "later")))
    #expect(try caller.replies() == [#"{"parameters":{"text":"late"}}"#, #"{"parameters":{"text":"x"}}"#])

    try caller.send(later)
    connection.answer(Result<EmptyObject, VarlinkError>.failure(.invalidParameter("text")))
    #expect(try caller.replies() == [Self.error("InvalidParameter", "parameter", "text")])

    // Nobody wants an answer to this one.
    try caller.send(#"{"method":"org.example.Test.Later","oneway":true}"#)
    connection.answer(.success(EmptyObject()))
    #expect(try caller.ask(echo) == [#"{"parameters":{"text":"x"}}"#])

    try caller.send(later)
    caller.socket.shutDown()
    try service.waitUntil("the service notices") { !connection.isOpen }
    connection.answer(.success(EmptyObject()))
    #expect(service.interface.gone == 1)
  }
}
