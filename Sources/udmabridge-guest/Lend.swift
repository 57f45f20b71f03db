import ArgumentParser
import Glibc
import GuestAgent
import LendingProtocol
import Linux
import Programs
import SystemPackage
import Varlink

struct Lend: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Lend a buffer to the host.",
    discussion: """
      Without a command, the buffer's id is printed, and the buffer is lent until SIGINT or SIGTERM. With a command, this \
      process becomes the command, which inherits the dma-buf and the connection to the agent. The buffer is lent until the \
      command ends.

        udmabridge-guest lend --file picture.raw --metadata '{"values": {"name": "picture"}}'
        udmabridge-guest lend --size 8M --use write -- my-renderer --dmabuf {}

      The exit status is 1 if nothing is lent or the agent went away, and 64 for a wrong command line. It is 126 if the command \
      cannot be executed, and 127 if it does not exist. Otherwise it is the command's own.
      """)

  @OptionGroup var agent: AgentOptions

  @Option(help: ArgumentHelp("The number of bytes to lend, of a new buffer or of --fd.", valueName: "size"))
  var size: Quantity?

  @Option(help: ArgumentHelp("The offset of these bytes in the buffer.", valueName: "offset"))
  var offset = Quantity(0)

  @Option(help: ArgumentHelp("Lend a new buffer with the content of this file.", valueName: "path"))
  var file: String?

  @Option(help: ArgumentHelp("Lend this inherited dma-buf.", valueName: "number"))
  var fd: Int32?

  @Option(
    help: ArgumentHelp(
      "Make the buffer in this dma-heap, such as system. By default the card makes it.", valueName: "name"))
  var heap: String?

  @Option(
    help: ArgumentHelp("The buffer's metadata, as JSON: image, values, or both.", valueName: "json"),
    transform: BufferMetadata.init(json:))
  var metadata: BufferMetadata?

  @Option(
    help: ArgumentHelp(
      "An audience of the host that may import the buffer. May be repeated. By default every user whom the host admits.",
      valueName: "name"))
  var to: [String] = []

  @Option(help: "What importers will do with the buffer; it is an agreement, not a protection.")
  var use = BufferUse.read

  @Flag(help: "If the card cannot take the dma-buf, lend a copy of its present content.")
  var copy = false

  @Option(
    parsing: .remaining,
    help: ArgumentHelp(
      "Written as -- COMMAND ...: become this program. The dma-buf's number is in the variable UDMABRIDGE_FD, and stands for each {} in the arguments; the buffer's id is in UDMABRIDGE_BUFFER.",
      valueName: "words"))
  var command: [String] = []

  func validate() throws {
    if fd != nil, heap != nil || file != nil {
      throw ValidationError("--fd names an existing buffer: leave --heap and --file out")
    }
    if fd == nil, size == nil, file == nil { throw ValidationError("which buffer? --size, --file or --fd") }
    if size?.value == 0 { throw ValidationError("--size 0 is too small: give 1 or more") }
  }

  func run() throws {
    try ignoreWriteSignals()
    let client = try agent.connect()
    let dmabuf = try buffer(client)
    let request = LendCall(
      offset: offset.value, size: size?.value, metadata: metadata, to: to.isEmpty ? nil : to, use: use,
      copy: copy)
    let lent: Lent = try dmabuf.withDescriptor { fd in
      try client.call(method("Lend"), request, passing: fd).decode()
    }
    if lent.copied {
      printError("udmabridge-guest: the card cannot take the buffer: a copy of its content is lent")
    }
    if command.isEmpty { try hold(lent.buffer, client) } else { try become(lent.buffer, dmabuf, client) }
  }

  private struct Lent: Decodable {
    let buffer: BufferID
    let copied: Bool
  }

  // MARK: The buffer

  private func buffer(_ client: VarlinkClient) throws -> DMABuf {
    if let fd {
      do throws(Errno) { return try DMABuf(adopting: .inherited(fd)) } catch {
        throw Trouble("descriptor \(fd) is not open in this process, or is not a dma-buf: \(error)")
      }
    }
    let content = try file.map { path in
      do throws(Errno) { return try FileContent(FilePath(path)) } catch {
        throw Trouble("\(path) cannot be read: \(error)")
      }
    }
    let (wanted, overflow) = offset.value.addingReportingOverflow(size?.value ?? content?.size ?? 0)
    guard !overflow, wanted > 0 else { throw Trouble("\(file ?? "the buffer") is empty, or too large") }
    let dmabuf = try make(max(wanted, offset.value + (content?.size ?? 0)), client)
    if let content {
      do throws(Errno) { try content.store(in: dmabuf, at: Int(offset.value)) } catch {
        throw Trouble("the content cannot be written into the buffer: \(error)")
      }
    }
    return dmabuf
  }

  private func make(_ size: UInt64, _ client: VarlinkClient) throws -> DMABuf {
    if let heap {
      do throws(Errno) { return try DMABuf(adopting: allocate(size, fromHeap: heap)) } catch {
        throw Trouble("the dma-heap \(heap) gives no \(size) bytes: \(error)")
      }
    }
    guard let size = Int(exactly: size) else { throw Trouble("\(size) bytes are too many") }
    var made = try client.call(method("Make"), MakeCall(size: size))
    guard let fd = made.descriptor.take() else { throw Trouble("the agent's reply has no buffer") }
    return try DMABuf(adopting: fd)
  }

  // MARK: The lent buffer

  private func hold(_ id: BufferID, _ client: VarlinkClient) throws {
    let loop = try EventLoop()
    let signals = try SignalFD([SIGTERM, SIGINT])
    var isGone = false
    let signalled = try loop.add(signals.fd) { _ in loop.stop() }
    let closed = try client.withDescriptor { fd in
      try loop.add(fd) { _ in
        isGone = true
        loop.stop()
      }
    }
    try printLine("\(id)")
    try loop.run()
    loop.remove(signalled, signals.fd)
    client.withDescriptor { loop.remove(closed, $0) }
    if isGone { throw Trouble("the agent went away, and the buffer is not lent any more") }
  }

  private func become(_ id: BufferID, _ dmabuf: DMABuf, _ client: VarlinkClient) throws {
    let number = try dmabuf.withDescriptor { try $0.hand() }
    // The connection lives as long as the program that this process becomes.
    _ = try client.withDescriptor { try $0.hand() }
    setEnvironment("UDMABRIDGE_BUFFER", "\(id)")
    throw becoming(command, with: number)
  }
}

private struct MakeCall: JSONWritable {
  let size: Int
  func write(to json: inout JSONWriter) { json.object { json in json.field("size", size) } }
}

private struct LendCall: JSONWritable {
  let offset: UInt64
  let size: UInt64?
  let metadata: BufferMetadata?
  let to: [String]?
  let use: BufferUse
  let copy: Bool

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("fileDescriptor", 0)
      json.field("offset", Int(clamping: offset))
      json.field("size", size.map { Int(clamping: $0) })
      json.field("metadata", metadata)
      if let to { json.field("to", to) }
      json.field("use", use.rawValue)
      json.field("copy", copy)
    }
  }
}
