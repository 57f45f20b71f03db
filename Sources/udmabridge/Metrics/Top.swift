import ArgumentParser
import Glibc
import Linux
import Metrics
import SystemPackage

/// Shows what the helpers of a host do, as it happens.
struct Top: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show what all helpers of this host do, continuously.",
    discussion: """
      On a terminal the command fills one screen; q or ^C ends it. Otherwise it prints a table for each interval, without colours. \
      FRAMES/S, COALESCED/S, FAILED/S and COPIED/S count since the last table, ERRORS since the helper's start.
      """)

  @OptionGroup var helpers: HelperSelection

  @Option(
    help: ArgumentHelp("The time between two tables, at least 0.1.", valueName: "seconds"),
    transform: readInterval)
  var interval: TimeSpan = .seconds(1)

  @Option(help: "The column that sorts the domains; the largest number is first.")
  var sort = TopOrder.frames

  @Option(help: ArgumentHelp("End after this many tables.", valueName: "count"))
  var count: Int?

  static func readInterval(_ text: String) throws -> TimeSpan {
    guard let seconds = Double(text), (0.1...86400).contains(seconds) else {
      throw ValidationError("give a number of seconds from 0.1 to 86400, not \(text)")
    }
    return .milliseconds(Int64((seconds * 1000).rounded()))
  }

  func validate() throws {
    if let count, count < 1 { throw ValidationError("--count \(count) is too small: give 1 or more") }
  }

  func run() throws {
    _ = try? raiseDescriptorLimit()
    try TopScreen(self).run()
  }
}

/// A copy of standard input, which itself stays open.
private final class Keyboard {
  let fd: FD
  init() throws(Errno) { fd = try .copy(ofInherited: 0) }

  /// As bytes.
  var pressed: [UInt8] { (try? fd.read(upTo: 64)) ?? [] }
}

/// The loop of `udmabridge top`.
private final class TopScreen {
  private static let (bold, red, plain) = ("\u{1b}[1m", "\u{1b}[31m", "\u{1b}[m")

  private let options: Top
  private let loop: EventLoop
  private let poll: HelperPoll
  private let signals: SignalFD
  private let terminal = Terminal()
  private let keyboard: Keyboard?
  private var timer: Timer?
  /// The last reading of each domain, and its row in comparison with the reading before.
  private var last: [String: HelperReading]?
  private var rows: [TopRow] = []
  /// When helpers are to be asked again.
  private var next = Instant.now
  private var left: Int?
  private var failure: Errno?

  init(_ options: Top) throws {
    self.options = options
    left = options.count
    loop = try EventLoop()
    poll = try HelperPoll(loop)
    signals = try SignalFD([SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP])
    keyboard = terminal?.hasKeys == true ? try Keyboard() : nil
    timer = try Timer(loop) { [unowned self] in ask() }
  }

  func run() throws {
    _ = try loop.add(signals.fd) { [unowned self] _ in
      while let signal = signals.next() { take(signal) }
    }
    if let keyboard { _ = try loop.add(keyboard.fd) { [unowned self] _ in take(keyboard.pressed) } }
    terminal?.enter()
    defer { terminal?.leave() }
    ask()
    try loop.run()
    if let failure { throw failure }
  }

  private func take(_ signal: CInt) {
    switch signal {
    case SIGWINCH: draw()
    case SIGTSTP:
      terminal?.leave()
      kill(ownProcess, SIGSTOP)
      // The process was continued (SIGCONT).
      terminal?.enter()
      draw()
    default: loop.stop()
    }
  }

  /// - Parameter keys: is empty when the terminal is gone.
  private func take(_ keys: [UInt8]) {
    if keys.isEmpty || keys.contains(UInt8(ascii: "q")) { loop.stop() }
  }

  private func ask() {
    next = .now + options.interval
    poll.ask(options.helpers.places) { [unowned self] in show($0) }
  }

  private func show(_ readings: [HelperReading]) {
    rows = options.sort.sorted(readings.map { TopRow($0, before: last?[$0.place.domain]) })
    let isFirst = last == nil
    last = [:]
    for reading in readings { last?[reading.place.domain] = reading }
    draw()
    timer?.arm(after: next - .now)
    // The first reading has none before it, so it has no rates.
    if isFirst { return }
    if terminal == nil { printTable() }
    if let count = left {
      left = count - 1
      if count == 1 { loop.stop() }
    }
  }

  private func printTable() {
    do throws(Errno) { try printLine(TopTable(rows: rows).lines.joined(separator: "\n") + "\n") } catch {
      failure = error
      loop.stop()
    }
  }

  private func draw() {
    guard let terminal else { return }
    let (height, width) = terminal.size
    let silent = rows.count { $0.silence != nil }
    let title =
      "\(counted(rows.count, "domain"))\(silent > 0 ? ", \(silent) silent" : ""); by \(options.sort.rawValue), every "
      + "\(options.interval); \(terminal.hasKeys ? "q" : "^C") ends"
    var lines = TopTable(rows: rows).lines
    let heading = lines.removeFirst()
    let room = max(0, height - 2)
    let isTooLong = lines.count > room
    let shown = isTooLong ? Array(lines.prefix(max(0, room - 1))) : lines
    // The last column stays empty: after a character in it, the cursor would be in the next line.
    func cut(_ line: String) -> String { String(line.prefix(max(0, width - 1))) }
    let drawn =
      [cut(title), Self.bold + cut(heading) + Self.plain]
      + zip(shown, rows).map { line, row in
        row.silence == nil ? cut(line) : Self.red + cut(line) + Self.plain
      } + (isTooLong ? [cut("and \(lines.count - shown.count) more")] : [])
    terminal.draw(Array(drawn.prefix(height)))
  }
}
