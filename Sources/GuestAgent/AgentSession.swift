internal import Linux
internal import SystemPackage

/// A session with the helper. Lines from before its begin belong to another one, and do not count.
final class AgentSession {
  typealias Answer = (Result<HostReturn, HostRefusal>) -> Void

  private struct Command {
    let id: Int
    let line: [UInt8]
    let answer: Answer
  }

  private enum State {
    case away
    case greeting(id: Int, session: String)
    case open
  }

  /// The answer to all waiting commands at the end of a session.
  static let ended = HostRefusal(class: "SessionEnded", desc: "the helper went away before it answered")

  private var port: AgentPort?
  private let log: (String) -> Void
  private var state = State.away
  private var nextID = 1
  /// The waiting commands. The helper has the first one.
  private var commands: [Command] = []
  private(set) var limits: HostReturn.Limits?
  private(set) var audiences: [String] = []
  /// Fires when an answer does not come.
  private var patience: Timer?
  private var greetingDelay = firstGreetingDelay
  private var nextQuestion = Instant.now

  private static let firstGreetingDelay = TimeSpan.seconds(2)
  private static let longestGreetingDelay = TimeSpan.seconds(64)
  /// After this time without an answer the helper has lost the session.
  private static let answerDelay = TimeSpan.seconds(60)

  /// The time between two checks that the helper is there.
  private static let questionDelay = TimeSpan.seconds(10)

  var whenOpen: (() -> Void)?
  var whenEnded: (() -> Void)?
  /// The port was unplugged.
  var whenGone: (() -> Void)?
  var whenEvent: ((HostEvent) -> Void)?

  init(loop: EventLoop, log: @escaping (String) -> Void) throws(Errno) {
    self.log = log
    patience = try Timer(loop) { [unowned self] in loseHelper() }
  }

  /// Uses this port from now on.
  func open(_ port: AgentPort) throws(Errno) {
    end()
    self.port = port
    port.whenLine = { [unowned self] in take($0) }
    port.whenChanged = { [unowned self] change in
      switch change {
      case .connected:
        greetingDelay = Self.firstGreetingDelay
        greet()
      case .disconnected: end()
      case .stirred: askWhetherItIsThere()
      case .gone:
        end()
        whenGone?()
      }
    }
    try port.open()
  }

  var isOpen: Bool { if case .open = state { true } else { false } }

  /// Sends a command when all earlier ones are answered.
  func send(_ command: AgentCommand, _ answer: @escaping Answer) {
    guard isOpen else { return answer(.failure(Self.ended)) }
    let id = takeID()
    let line = command.line(id: id)
    if let limit = limits?.line, line.count > limit {
      return answer(
        .failure(
          HostRefusal(
            class: "LineTooLong",
            desc:
              "the command has \(line.count) bytes, but the helper reads lines of at most \(limit) bytes: shorten the metadata"
          )))
    }
    commands.append(Command(id: id, line: line, answer: answer))
    if commands.count == 1 { sendNext() }
  }

  private func takeID() -> Int {
    defer { nextID += 1 }
    return nextID
  }

  private func sendNext() {
    guard let command = commands.first else {
      patience?.disarm()
      return
    }
    patience?.arm(after: Self.answerDelay)
    port?.send(command.line)
  }

  private func greet() {
    let (id, session) = (takeID(), RandomBytes(16).digits)
    state = .greeting(id: id, session: session)
    // The first byte ends a line that an earlier agent may have begun.
    port?.send([0xff] + AgentCommand.hello(session: session).line(id: id))
    patience?.arm(after: greetingDelay)
    greetingDelay = min(greetingDelay * 2, Self.longestGreetingDelay)
  }

  /// A new helper answers nothing before a hello, which `answerDelay` reveals.
  func askWhetherItIsThere() {
    guard isOpen, commands.isEmpty, Instant.now >= nextQuestion else { return }
    nextQuestion = .now + Self.questionDelay
    // No lender has the number 0.
    send(.endLender(0)) { _ in }
  }

  private func end() {
    let wasOpen = isOpen
    state = .away
    patience?.disarm()
    let unanswered = commands
    commands = []
    for command in unanswered { command.answer(.failure(Self.ended)) }
    if wasOpen { whenEnded?() }
  }

  /// No answer came in time: the helper is another one, or its answer went to an earlier agent.
  private func loseHelper() {
    if isOpen { log("the helper does not answer: beginning a new session") }
    end()
    greet()
  }

  private func take(_ bytes: [UInt8]) {
    guard let line = HostLine(bytes) else { return }
    switch (state, line) {
    case (.greeting(let id, let session), .answer(let answered, let result)) where answered == id:
      switch result {
      case .success(let answer): if answer.session == session { open(answer) }
      case .failure(let refusal): log("the helper refuses this agent: \(refusal.desc)")
      }
    case (.open, .answer(let id, let result)):
      guard let command = commands.first, command.id == id else { return }
      commands.removeFirst()
      sendNext()
      command.answer(result)
    case (.open, .event(let event)): whenEvent?(event)
    case (.open, .complaint(let refusal)):
      log("the helper did not understand a line: \(refusal.class): \(refusal.desc)")
    default: break
    }
  }

  private func open(_ answer: HostReturn) {
    patience?.disarm()
    (limits, audiences, state) = (answer.limits, answer.audiences ?? [], .open)
    greetingDelay = Self.firstGreetingDelay
    whenOpen?()
  }
}
