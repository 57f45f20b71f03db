import ArgumentParser
import FoundationEssentials
import Glibc
import Linux
import Programs
import SystemPackage

/// What a use of a lent buffer lasts as long as: it goes wherever the dma-buf goes.
final class HoldToken {
  let fd: FD
  init(_ fd: consuming FD) { self.fd = fd }
}

/// What becomes of a descriptor that a command made: a program gets it, or another process, or it is held.
struct HandoverOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Send the descriptor to whoever listens on this Unix stream socket (SCM_RIGHTS), with a line of JSON that says what it is.",
      valueName: "socket"))
  var send: String?

  @Flag(
    help:
      "Hold the descriptor until SIGINT or SIGTERM comes; others can take it by process and number meanwhile (--pid PID --fd N; a memfd also by the path /proc/PID/fd/N). Where ranges came from standard input up to the word end, also no longer than that is open: the status is 1 then."
  )
  var hold = false

  @Option(help: ArgumentHelp("The number under which COMMAND gets the descriptor.", valueName: "number"))
  var asFd: Int32?

  @Option(
    parsing: .remaining,
    help: ArgumentHelp(
      "Written as -- COMMAND ...: become this program, which inherits the descriptor. Its number is in the variable UDMABRIDGE_FD, and stands for each {} in the arguments.",
      valueName: "words"))
  var command: [String] = []

  func validate() throws {
    let given = [send != nil, hold, !command.isEmpty].count { $0 }
    if given != 1 {
      throw ValidationError("say what to do with it, in one way: -- COMMAND, --send SOCKET or --hold")
    }
    if let asFd {
      if command.isEmpty { throw ValidationError("--as-fd is about -- COMMAND") }
      if asFd < 3 { throw ValidationError("--as-fd counts from 3: 0 to 2 are the standard streams") }
    }
  }

  /// Hands `fd` over, and returns once that is done or, with --hold, was enough.
  /// - Parameters:
  ///   - facts: what is said of it.
  ///   - isKept: its memory is somebody's who keeps it up as long as standard input is open.
  ///   - token: goes with it, to whoever gets it.
  func perform(
    _ fd: borrowing FD, _ facts: Facts, _ output: OutputOptions, isKept: Bool = false, token: HoldToken? = nil
  ) throws {
    if let send { return try self.send(fd, to: send, facts, output, token) }
    if hold { return try hold(fd, facts, output, isKept: isKept, token) }
    var (facts, token) = (facts, token)
    // Its number is the dma-buf's from now on.
    if let old = token, old.fd.withRaw({ $0 }) == asFd { token = HoldToken(try old.fd.duplicate()) }
    do throws(Errno) { facts.fd = try fd.hand(as: asFd) } catch {
      throw Trouble("the descriptor cannot have the number \(asFd ?? -1): \(error); ulimit -n bounds them")
    }
    facts.token = try token?.fd.hand()
    let number = "\(facts.fd ?? -1)"
    // Standard output is the program's.
    if output.json { printError(try jsonText(facts, inOneLine: true)) }
    for (name, value) in facts.environment { setEnvironment(name, value) }
    let error = execute(command.map { $0.replacing("{}", with: number) })
    printError("udmabridge: \(command[0]) cannot be executed: \(error)")
    throw ExitCode(error == .noSuchFileOrDirectory ? 127 : 126)
  }

  private func send(
    _ fd: borrowing FD, to path: String, _ facts: Facts, _ output: OutputOptions, _ token: HoldToken?
  ) throws {
    var message = Array(try jsonText(facts, inOneLine: true).utf8) + [0x0a]
    do throws(Errno) {
      let socket = try UnixSocket.connect(FilePath(path))
      // The descriptors go with the first byte; the rest follows if the socket takes it in pieces.
      let numbers = [fd.withRaw { $0 }] + (token.map { [$0.fd.withRaw { $0 }] } ?? [])
      let sent = try unsafe socket.send(message.span.bytes, rawDescriptors: numbers)
      message.removeFirst(sent)
      try unsafe socket.fd.write(message.span.bytes)
    } catch {
      let why =
        switch error {
        case .noSuchFileOrDirectory: "there is no such socket; start the program that listens there first"
        case .connectionRefused: "nobody listens there any more"
        case Errno(rawValue: EPROTOTYPE): "it is no stream socket"
        default: "\(error)"
        }
      throw Trouble("the descriptor cannot be sent to \(path): \(why)")
    }
    try output.print(facts, "sent to \(path): \(facts.text)")
  }

  private func hold(
    _ fd: borrowing FD, _ facts: Facts, _ output: OutputOptions, isKept: Bool, _ token: HoldToken?
  ) throws {
    let loop = try EventLoop()
    let signals = try SignalFD([SIGTERM, SIGINT])
    let signalled = try loop.add(signals.fd) { _ in loop.stop() }
    var facts = facts
    (facts.fd, facts.token) = (fd.withRaw { $0 }, token?.fd.withRaw { $0 })
    facts.pid = getpid()
    var isTaken = false
    let taking = try token.map { token in
      try loop.add(token.fd, []) { _ in
        isTaken = true
        loop.stop()
      }
    }
    defer { if let taking, let token { loop.remove(taking, token.fd) } }
    let input = try isKept ? KeptInput(loop) : nil
    let until = isKept ? "SIGINT, SIGTERM, or the end of standard input" : "SIGINT or SIGTERM"
    try output.print(
      facts, "held as --pid \(getpid()) --fd \(facts.fd ?? -1) until \(until): \(facts.text)")
    if input?.hasEnded != true { try loop.run() }
    loop.remove(signalled, signals.fd)
    if isTaken {
      throw Trouble("buffer \(facts.buffer ?? "") was taken back: its pages are the guest's again")
    }
    if input?.hasEnded == true {
      throw Trouble(
        "standard input was closed: whoever listed the ranges uses that memory for something else from now on, and nothing is held any more"
      )
    }
  }

  /// What is said of a descriptor that is handed over.
  struct Facts: Encodable {
    let kind: FileFacts.Kind
    /// In bytes.
    let size: UInt64
    let inode: UInt64
    var name: String?
    /// Of a dma-buf: ranges as they were given, and as the kernel got them.
    var ranges: Int?
    var items: Int?
    /// Of a lent buffer: its id, and which bytes of the dma-buf are lent.
    var buffer: String?
    var offset: UInt64?
    var length: UInt64?
    /// Its number, in the process `pid` or in the program that is started, and that of a lent buffer's token.
    var fd: Int32?
    var token: Int32?
    var pid: Int32?

    /// What a program is told.
    fileprivate var environment: [(String, String)] {
      let all: [(String, (any BinaryInteger)?)] = [
        ("FD", fd), ("TOKEN", token), ("OFFSET", offset), ("SIZE", length),
      ]
      return all.compactMap { name, value in value.map { ("UDMABRIDGE_\(name)", "\($0)") } }
    }

    var text: String {
      let made =
        items.map { ", of \(counted($0, "item")) (\(counted(ranges ?? $0, "range")) before joining)" } ?? ""
      let lent = length.map { ", of which \(counted($0, "byte")) from \(offset ?? 0) on are lent" } ?? ""
      return "\(kind.rawValue), \(bytes(size)), inode \(inode)\(made)\(lent)"
    }
  }
}

/// Standard input behind a list of ranges, which says how long they are good. What is written there is of no interest.
private final class KeptInput {
  private let fd: FD
  private let loop: EventLoop
  private var token: EventLoop.Token?
  private(set) var hasEnded = false

  /// Stops the loop when it ends.
  init(_ loop: EventLoop) throws(Errno) {
    fd = try FD.copy(ofInherited: 0)
    self.loop = loop
    do throws(Errno) {
      token = try loop.add(fd) { [unowned self] _ in read() }
    } catch {
      // A file, which has ended.
      guard error == .notPermitted else { throw error }
      hasEnded = true
    }
  }

  deinit { if let token { loop.remove(token, fd) } }

  private func read() {
    if let bytes = try? fd.read(upTo: 4096), !bytes.isEmpty { return }
    hasEnded = true
    loop.stop()
  }
}
