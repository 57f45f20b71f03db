import ArgumentParser
import FoundationEssentials
import Glibc
import Linux
import Programs
import SystemPackage

/// The token of an import, which goes wherever the dma-buf goes. The import lasts as long as any copy of the token.
final class HoldToken {
  let fd: FD
  init(_ fd: consuming FD) { self.fd = fd }
}

/// Where a command's descriptor goes: to a program, to another process, or nowhere while this one holds it.
struct HandoverOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Send the descriptor to whoever listens on this Unix stream socket (SCM_RIGHTS), with a line of JSON that says what it is.",
      valueName: "socket"))
  var send: String?

  @Flag(
    help:
      "Hold the descriptor until SIGINT or SIGTERM. Meanwhile other processes can take it by process and number (--pid PID --fd N; a memfd also by the path /proc/PID/fd/N). If a list on standard input ended with the word end, the command also ends when standard input closes, with status 1."
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
      throw ValidationError(
        "say what to do with the descriptor: give one of -- COMMAND, --send SOCKET and --hold")
    }
    if let asFd {
      if command.isEmpty { throw ValidationError("--as-fd belongs to -- COMMAND") }
      if asFd < 3 {
        throw ValidationError(
          "--as-fd \(asFd) is too small: give 3 or more, as 0 to 2 are the standard streams")
      }
    }
  }

  /// Hands `fd` over. With --hold, returns when the hold ends.
  /// - Parameters:
  ///   - facts: the description of the descriptor.
  ///   - isKept: the memory is valid only as long as standard input is open.
  ///   - token: goes with `fd` to its receiver.
  func perform(
    _ fd: borrowing FD, _ facts: Facts, _ output: OutputOptions, isKept: Bool = false, token: HoldToken? = nil
  ) throws {
    if let send { return try self.send(fd, to: send, facts, output, token) }
    if hold { return try hold(fd, facts, output, isKept: isKept, token) }
    var (facts, token) = (facts, token)
    // From now on the descriptor of that number is the dma-buf.
    if let old = token, old.fd.withRaw({ $0 }) == asFd { token = HoldToken(try old.fd.duplicate()) }
    do throws(Errno) { facts.fd = try fd.hand(as: asFd) } catch {
      throw Trouble(
        "the descriptor cannot have the number \(asFd ?? -1): \(error); ulimit -n limits the numbers")
    }
    facts.token = try token?.fd.hand()
    let number = "\(facts.fd ?? -1)"
    // Standard output belongs to the program.
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
      // The descriptors go with the first byte. The rest may follow in pieces.
      let numbers = [fd.withRaw { $0 }] + (token.map { [$0.fd.withRaw { $0 }] } ?? [])
      let sent = try unsafe socket.send(message.span.bytes, rawDescriptors: numbers)
      message.removeFirst(sent)
      try unsafe socket.fd.write(message.span.bytes)
    } catch {
      let why =
        switch error {
        case .noSuchFileOrDirectory: "there is no such socket; start the program that listens there first"
        case .connectionRefused: "no program listens there any more; start it again"
        case Errno(rawValue: EPROTOTYPE): "it is not a stream socket; let the program listen on one"
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
        "standard input was closed: the ranges are no longer valid, because the writer of the list may use that memory for something else"
      )
    }
  }

  /// The description of a descriptor that is handed over.
  struct Facts: Encodable {
    let kind: FileFacts.Kind
    /// In bytes.
    let size: UInt64
    let inode: UInt64
    var name: String?
    /// For a dma-buf: the number of ranges given, and of items that the kernel got.
    var ranges: Int?
    var items: Int?
    /// For a lent buffer: its id, and which bytes of the dma-buf are lent.
    var buffer: String?
    var offset: UInt64?
    var length: UInt64?
    /// The descriptor's number in the process `pid` or in the started program, and that of a lent buffer's token.
    var fd: Int32?
    var token: Int32?
    var pid: Int32?

    /// The variables for a program.
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

/// Standard input after a list of ranges, which are valid as long as it is open. Its bytes are ignored.
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
      // A regular file, which has ended.
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
