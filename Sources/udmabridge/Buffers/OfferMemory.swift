import ArgumentParser
import Glibc
import LendingProtocol
import Linux
import Programs
import SystemPackage
import Udmabuf
import Varlink

struct OfferMemory: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "offer",
    abstract: "Offer memory of the host to the guest.",
    discussion: """
      The guest's helper needs a device that shares: --profile share, or --share-socket-path for a second device. In the guest, \
      udmabridge-guest receive takes the memory. Without a command, the number of the offer is printed. The offer lasts until SIGINT \
      or SIGTERM, or until it is withdrawn. With a command, this process becomes the command, which inherits the memory and the \
      connection. The offer then lasts until the command ends. At the end, or when the connection breaks, the guest is cut off at once.

        udmabridge buffers offer --domain web --size 8M --metadata '{"values": {"name": "camera"}}' -- my-camera --memfd {}
      """)

  @OptionGroup var socket: HelperChoice

  @Option(help: ArgumentHelp("Offer new memory of this size, in whole pages.", valueName: "size"))
  var size: Quantity?

  @Option(
    help: ArgumentHelp(
      "Offer this inherited descriptor: a dma-buf, or a memfd that is sealed against shrinking.",
      valueName: "number"))
  var fd: Int32?

  @Option(help: ArgumentHelp("Offer the memfd at this path, such as /proc/PID/fd/N.", valueName: "path"))
  var path: String?

  @Option(
    help: ArgumentHelp("The memory's metadata, as JSON: image, values, or both.", valueName: "json"),
    transform: BufferMetadata.init(json:))
  var metadata: BufferMetadata?

  @Option(
    help: ArgumentHelp(
      "At most this many blobs of the memory may exist in the guest at once.", valueName: "count"))
  var uses = 1

  @Option(
    help: ArgumentHelp(
      "An inherited descriptor that is closed when QEMU has unmapped the memory. To offer another guest's buffer, give the token of its import.",
      valueName: "number"))
  var token: Int32?

  @Flag(help: "Print the offer as JSON, in one line.")
  var json = false

  @Option(
    parsing: .remaining,
    help: ArgumentHelp(
      "Written as -- COMMAND ...: become this program. The memory's number is in the variable UDMABRIDGE_FD, and stands for each {} in the arguments; the offer's number is in UDMABRIDGE_OFFER.",
      valueName: "words"))
  var command: [String] = []

  func validate() throws {
    if [size != nil, fd != nil, path != nil].count(where: { $0 }) != 1 {
      throw ValidationError("which memory? One of --size, --fd and --path")
    }
    if let size, size.value == 0 || size.value % systemPageSize != 0 {
      throw ValidationError("--size \(size) is no multiple of the page size \(Quantity(systemPageSize))")
    }
    if uses < 1 { throw ValidationError("--uses \(uses) is too small: give 1 or more") }
  }

  func run() throws {
    let client = try socket.buffers()
    let memory = try openMemory()
    // This process closes its copies; the helper keeps its own.
    let token = try self.token.map { number in
      do throws(Errno) { return HoldToken(try .inherited(number)) } catch {
        throw Trouble("--token \(number) is not open here: \(error)")
      }
    }
    let request = OfferRequest(
      fileDescriptor: 0, token: token == nil ? nil : 1, uses: uses, metadata: metadata)
    let offer = try Self.offer(request, memory, token, client).decode(OfferReply.self)
    if json { try printJSON(offer) }
    if command.isEmpty { try hold(offer, client) } else { try become(offer, memory, client) }
  }

  private static func offer(
    _ request: OfferRequest, _ memory: borrowing FD, _ token: HoldToken?, _ client: BuffersClient
  ) throws -> VarlinkClient.Reply {
    guard let token else { return try client.offer(request, memory) }
    return try client.offer(request, memory, token: token.fd)
  }

  private func openMemory() throws -> FD {
    do throws(Errno) {
      if let fd { return try .inherited(fd) }
      if let path { return try .open(FilePath(path), writable: true) }
      let memfd = try Memfd.create(
        name: "udmabridge-offer", size: size?.value ?? 0, seals: [.shrink, .grow, .seal])
      return try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }
    } catch {
      let what = fd.map { "descriptor \($0)" } ?? path ?? "a memfd of \(size ?? Quantity(0))"
      throw Trouble("\(what) cannot be opened: \(error)")
    }
  }

  private func hold(_ offer: OfferReply, _ client: BuffersClient) throws {
    let loop = try EventLoop()
    let signals = try SignalFD([SIGTERM, SIGINT])
    let signalled = try loop.add(signals.fd) { _ in loop.stop() }
    let watch = try socket.buffers()
    try watch.beginWatchingOffers()
    var end: Result<Void, any Error>?
    let watching = try watch.withDescriptor { fd in
      try loop.add(fd) { _ in
        do {
          if try watch.nextOffersEvent().ends(offer.id) { end = .success(()) }
        } catch { end = .failure(error) }
        if end != nil { loop.stop() }
      }
    }
    if !json { try printLine("\(offer.id)") }
    try loop.run()
    loop.remove(signalled, signals.fd)
    watch.withDescriptor { loop.remove(watching, $0) }
    try end?.get()
    // The offer lives as long as the connection.
    withExtendedLifetime(client) {}
  }

  private func become(_ offer: OfferReply, _ memory: borrowing FD, _ client: BuffersClient) throws {
    let number = try memory.hand()
    // The connection lives as long as the program that this process becomes.
    _ = try client.withDescriptor { try $0.hand() }
    setEnvironment("UDMABRIDGE_FD", "\(number)")
    setEnvironment("UDMABRIDGE_OFFER", "\(offer.id)")
    let error = execute(command.map { $0.replacing("{}", with: "\(number)") })
    printError("udmabridge: \(command[0]) cannot be executed: \(error)")
    throw ExitCode(error == .noSuchFileOrDirectory ? 127 : 126)
  }
}

struct WithdrawOffer: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "withdraw",
    abstract: "Take an offer back, and wait until the guest has let go of the memory.",
    discussion:
      "If the guest does not let go in time, the memory is taken away: its programs then read zeros.")

  @OptionGroup var socket: HelperChoice

  @Option(help: ArgumentHelp("Wait this long for the guest, in milliseconds.", valueName: "ms"))
  var patience = 1000

  @Argument(help: ArgumentHelp("The offer's number.", valueName: "number"))
  var id: Int

  func run() throws {
    let watch = try socket.buffers()
    try watch.beginWatchingOffers()
    _ = try socket.buffers().call("Withdraw", OfferRequest(id: id, patience: patience))
    while try !watch.nextOffersEvent().ends(id) {}
  }
}

struct ListOffers: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "offers", abstract: "List your offers to the guest; root sees all offers.")

  @OptionGroup var socket: HelperChoice
  @Flag(help: "Print JSON, in one line.")
  var json = false

  func run() throws {
    let reply = try socket.buffers().call("ListOffers").decode(OffersReply.self)
    if json { return try printJSON(reply) }
    var table = Table([
      ("OFFER", .right), ("SIZE", .right), ("USED", .right), ("OF", .right), ("STATE", .left),
    ])
    for offer in reply.offers {
      let left = offer.patience.map { ", \($0) ms left" } ?? ""
      table.rows.append([
        "\(offer.id)", "\(offer.size)", "\(offer.used)", "\(offer.uses)", offer.state.rawValue + left,
      ])
    }
    let lines = reply.offers.isEmpty ? "" : table.text + "\n"
    try printLine(lines + counted(reply.offers.count, "offer"))
  }
}
