import Linux
import SystemPackage
import TestSupport
import Testing

@testable import GuestAgent

/// What the agent takes for the helper's word.
@Suite struct AgentSessionTests {
  @Test("a session begins with 0xff and a hello of 32 digits, which are others each time")
  func hello() throws {
    var sessions: Set<String> = []
    for _ in 0..<2 {
      let rig = try AgentRig()
      let hello = try rig.host.take("hello")
      #expect(rig.host.beginnings == 1)
      #expect(hello.number("version") == 1)
      let session = try #require(hello.text("session"))
      #expect(session.count == 32 && session.allSatisfy { $0.isHexDigit && !$0.isUppercase })
      sessions.insert(session)
    }
    #expect(sessions.count == 2)
  }

  @Test("answers to another session, and the rest of a line, do not open the session")
  func earlier() throws {
    let rig = try AgentRig()
    let hello = try rig.host.take("hello")
    let foreign = String(repeating: "0", count: 32)
    try rig.host.send(
      """
      ": 5}, "id": \(hello.id)}
      {"return": {"session": "\(foreign)"}, "id": \(hello.id)}
      {"return": {}, "id": \(hello.id)}
      {"event": "revoked", "data": {"buffer": "\(foreign)", "reason": "sessionEnded"}}
      {"return": {"session": "\(hello.text("session")!)"}, "id": \(hello.id + 1)}
      zork

      """)
    try rig.settle()
    #expect(!rig.core.session.isOpen)
    try rig.host.answer(
      hello, "{\"session\": \"\(hello.text("session")!)\", \"audiences\": [\"a\"], \"new\": 1}")
    try rig.settle()
    #expect(rig.core.session.isOpen && rig.core.session.audiences == ["a"])
  }

  @Test("a line may come in pieces, and one that is too long is dropped up to its end")
  func pieces() throws {
    let rig = try AgentRig()
    let hello = try rig.host.take("hello")
    for _ in 0...(AgentPort.longestLine / 4096) {
      try rig.host.send(String(repeating: "x", count: 4096))
      try rig.settle()
    }
    let answer = "xyz\n{\"return\": {\"session\": \"\(hello.text("session")!)\"}, \"id\": \(hello.id)}\n"
    for character in answer {
      #expect(!rig.core.session.isOpen)
      try rig.host.send(String(character))
      try rig.settle()
    }
    #expect(rig.core.session.isOpen)
  }

  @Test("one command is with the helper at a time, and each gets the answer with its number")
  func order() throws {
    let rig = try AgentRig()
    try rig.begin()
    var answers: [String] = []
    for lender in 1...3 {
      rig.core.session.send(.endLender(lender)) { result in
        switch result {
        case .success: answers.append("\(lender)")
        case .failure(let refusal): answers.append("\(lender) \(refusal.class)")
        }
      }
    }
    let first = try rig.host.take("endLender")
    #expect(first.number("lender") == 1)
    try rig.host.send("{\"return\": {}, \"id\": \(first.id + 100)}\n")
    try rig.settle()
    #expect(answers.isEmpty)
    try rig.host.answer(first)
    try rig.settle()
    let second = try rig.host.take("endLender")
    try rig.host.refuse(second, "NoSuchBuffer", "why")
    try rig.settle()
    #expect(answers == ["1", "2 NoSuchBuffer"])
    // The third has no answer when the helper goes.
    _ = try rig.host.take("endLender")
    rig.host.hangUp()
    try rig.settle()
    #expect(answers == ["1", "2 NoSuchBuffer", "3 SessionEnded"])
    rig.core.session.send(.endLender(4)) { _ in answers.append("4") }
    #expect(answers.last == "4")
  }

  @Test("the agent refuses a command that is longer than the helper reads")
  func length() throws {
    let rig = try AgentRig()
    let hello = try rig.host.take("hello")
    try rig.host.answer(
      hello,
      "{\"session\": \"\(hello.text("session")!)\", \"limits\": {\"line\": 30, \"buffers\": 1, \"metadata\": 1}}"
    )
    try rig.settle()
    var refusal: String?
    rig.core.session.send(.endLender(1)) { result in
      if case .failure(let error) = result { refusal = error.class }
    }
    #expect(refusal == "LineTooLong")
    try rig.host.receive()
    #expect(rig.host.waiting.isEmpty)
  }

  @Test("a helper that refuses the version gets no session, and the log says why")
  func version() throws {
    let rig = try AgentRig()
    try rig.host.refuse(rig.host.take("hello"), "WrongVersion", "version 2 is spoken here")
    try rig.settle()
    #expect(!rig.core.session.isOpen)
    #expect(rig.logged.contains { $0.contains("version 2 is spoken here") })
  }

  @Test("the loop has nothing to do while nobody says anything, with a helper and without one")
  func idle() throws {
    let rig = try AgentRig()
    try rig.begin(with: FakeCard())
    for _ in 0..<100 { #expect(try rig.loop.turn(waiting: .zero) == 0) }
    // From now on the kernel reports a hangup whenever it is asked.
    rig.host.hangUp()
    try rig.settle()
    #expect(!rig.core.session.isOpen)
    for _ in 0..<100 { #expect(try rig.loop.turn(waiting: .zero) == 0) }
  }

  @Test("another port begins another session, in which the cards are proven anew")
  func again() throws {
    let rig = try AgentRig()
    let card = FakeCard()
    try rig.begin(with: card)
    rig.host.hangUp()
    try rig.settle()
    #expect(rig.core.table.cards.isEmpty)
    try rig.plugPort()
    try rig.host.welcome()
    try rig.settle()
    try rig.prove(card)
    #expect(rig.core.table.cards.count == 1)
    // Each proof's buffer is gone.
    #expect(card.closed == [1, 2])
  }

  @Test("a helper that may be another one is asked whether it is there, and not again at once")
  func question() throws {
    let rig = try AgentRig()
    try rig.begin()
    for round in 1...2 {
      // It answers before it reads, so that to read is all that it does then.
      var isAnswered = false
      rig.core.session.send(.endLender(round)) { _ in isAnswered = true }
      try rig.host.send("{\"return\": {}, \"id\": \(round == 1 ? 2 : 4)}\n")
      try rig.settle()
      #expect(isAnswered)
      try rig.host.receive()
      try rig.settle()
      try rig.host.receive()
      #expect(rig.host.waiting.map { $0.number("lender") } == (round == 1 ? [1, 0] : [2]))
      if round == 1 { try rig.host.answer(rig.host.waiting[1]) }
      try rig.settle()
      rig.host.forget()
    }
  }
}
