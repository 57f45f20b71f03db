import ArgumentParser
import Glibc
import GuestAgent
import LendingProtocol
import Linux
import Programs
import SystemPackage
import Udmabuf
import Varlink

struct Receive: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "receive",
    abstract: "Take memory that the host offers.",
    discussion: """
      The memory becomes a dma-buf of this guest. Its bytes are the host's own: each side sees at once what the other one writes. \
      Without a command, its number and size are printed, and it is held until SIGINT or SIGTERM. With a command, this process \
      becomes the command, which inherits the dma-buf. After the host has taken the memory back, the guest reads zeros; watch tells \
      of that before.

        udmabridge-guest receive --metadata name=camera -- my-viewer --dmabuf {}
      """)

  @OptionGroup var agent: AgentOptions

  @Option(
    help: ArgumentHelp("Take the newest offer whose metadata has this value.", valueName: "name=value"))
  var metadata: String?

  @Option(
    parsing: .remaining,
    help: ArgumentHelp(
      "Written as -- COMMAND ...: become this program. The dma-buf's number is in the variable UDMABRIDGE_FD, and stands for each {} in the arguments; the offer's number is in UDMABRIDGE_OFFER, its size in UDMABRIDGE_SIZE.",
      valueName: "words"))
  var command: [String] = []

  @Argument(help: ArgumentHelp("The offer's number, from offers or watch.", valueName: "number"))
  var offer: Int?

  func validate() throws {
    if (offer == nil) == (metadata == nil) {
      throw ValidationError("which offer? Its number, or --metadata NAME=VALUE")
    }
    if let metadata, !metadata.contains("=") { throw ValidationError("--metadata is written NAME=VALUE") }
  }

  func run() throws {
    try ignoreWriteSignals()
    let parts = metadata?.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(
      String.init)
    var reply = try agent.connect().call(
      method("Receive"), ReceiveCall(offer: offer, name: parts?[0], value: parts?[1]))
    guard let fd = reply.descriptor.take() else { throw Trouble("the agent's reply has no buffer") }
    let received = try reply.decode(ReceiveReply.self).offer
    if command.isEmpty {
      let signals = try SignalFD([SIGTERM, SIGINT])
      let loop = try EventLoop()
      let token = try loop.add(signals.fd) { _ in loop.stop() }
      try printLine("\(received.offer) \(received.size)")
      try loop.run()
      loop.remove(token, signals.fd)
      // The dma-buf is held until here.
      _ = consume fd
      return
    }
    let number = try fd.hand()
    setEnvironment("UDMABRIDGE_OFFER", "\(received.offer)")
    setEnvironment("UDMABRIDGE_SIZE", "\(received.size)")
    throw becoming(command, with: number)
  }
}

struct ListGuestOffers: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "offers", abstract: "List memory that the host offers to this guest.")

  @OptionGroup var agent: AgentOptions
  @Flag(help: "Print JSON, in one line.") var json = false

  func run() throws {
    let list: GuestOfferList = try agent.connect().call(method("Offers")).decode()
    if json { return try printLine(line(list)) }
    for offer in list.offers {
      let words = offer.metadata.values.sorted { $0.key < $1.key }.map { ", \($0.key)=\($0.value)" }.joined()
      try printLine(
        "\(offer.offer) \(offer.size) bytes\(offer.writable ? "" : ", read-only")\(offer.withdrawing ? ", on its way back" : "")"
          + words)
    }
  }
}

/// Becomes a program, which inherits the dma-buf of this number.
/// - Returns: only if that fails: why.
func becoming(_ command: [String], with number: Int32) -> ExitCode {
  setEnvironment("UDMABRIDGE_FD", "\(number)")
  let error = execute(command.map { $0.replacing("{}", with: "\(number)") })
  printError("udmabridge-guest: \(command[0]) cannot be executed: \(error)")
  return ExitCode(error == .noSuchFileOrDirectory ? 127 : 126)
}

private struct ReceiveCall: JSONWritable {
  let offer: Int?
  let name, value: String?

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("offer", offer)
      json.field("name", name)
      json.field("value", value)
    }
  }
}
