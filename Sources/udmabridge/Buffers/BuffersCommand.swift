import ArgumentParser
import LendingProtocol
import Linux
import Programs
import Scanout
import Varlink

/// The buffers that guests lend.
struct BuffersCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "buffers",
    abstract: "List, import, watch and fill the buffers that a guest lends, and offer memory to it.",
    discussion: """
      The helper of the guest (vhost-user-udmabuf) must have --control, and --port for the guest's agent.

        udmabridge buffers list --control /run/vg.control
        udmabridge buffers import --domain web 0011...eeff -- my-player --dmabuf {}
      """,
    subcommands: [
      ListBuffers.self, ImportBuffer.self, WatchBuffers.self, QueryBuffer.self, FillBuffer.self,
      OfferMemory.self, WithdrawOffer.self, ListOffers.self,
    ])
}

/// Prints what a service says as JSON, in one line.
func printJSON(_ value: some JSONWritable) throws {
  var writer = JSONWriter()
  value.write(to: &writer)
  try printLine(String(decoding: writer.bytes, as: UTF8.self))
}

struct ListBuffers: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "List the buffers that you may import.")

  @OptionGroup var socket: HelperChoice
  @Flag(help: "Print JSON, in one line.")
  var json = false

  func run() throws {
    let reply = try socket.buffers().call("List").decode(BuffersReply.self)
    if json { return try printJSON(reply) }
    var table = Table([
      ("BUFFER", .left), ("SIZE", .right), ("OFFSET", .right), ("USE", .left), ("STATE", .left),
      ("AGE", .right),
      ("USERS", .right), ("INODE", .right),
    ])
    for buffer in reply.buffers {
      table.rows.append([
        "\(buffer.id)", "\(buffer.size)", "\(buffer.offset)", buffer.use.rawValue, buffer.stateText,
        "\(buffer.age / 1000) s", "\(buffer.users)", buffer.inode.map { "\($0)" } ?? "-",
      ])
    }
    let lines = reply.buffers.isEmpty ? "" : table.text + "\n"
    try printLine(lines + counted(reply.buffers.count, "buffer"))
  }
}

struct QueryBuffer: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "query", abstract: "Print everything that is known about a buffer.",
    discussion: "Only root and the helper's user see which processes have imported it.")

  @OptionGroup var socket: HelperChoice
  @Flag(help: "Print JSON, in one line.")
  var json = false

  @Argument(help: "The buffer's id.")
  var id: BufferID

  func run() throws {
    let reply = try socket.buffers().call("Query", BuffersRequest(id: id)).decode(QueryReply.self)
    if json { return try printJSON(reply) }
    let buffer = reply.buffer
    var lines = [
      ("buffer", "\(buffer.id)"), ("state", buffer.stateText), ("use", buffer.use.rawValue),
      ("size", "\(buffer.size) bytes, from \(buffer.offset) on"),
      ("pages", "\(reply.pages), from \(reply.firstOffset) in the first to \(reply.lastLength) of the last"),
      ("items", "\(reply.items)"), ("inode", buffer.inode.map { "\($0)" } ?? "-"),
      ("resource", "\(reply.resource) of device \(reply.device)"), ("age", "\(buffer.age / 1000) s"),
      ("users", "\(buffer.users)"), ("fills", "\(buffer.fills)"),
    ]
    if let access = buffer.access { lines.append(("access", "\(access.rawValue), by its lender")) }
    lines += reply.metadata.lines
    if let filling = reply.filling {
      lines.append(("filled", "\(filling.text)"))
      lines += (filling.metadata?.lines ?? []).map { ("filled " + $0.0, $0.1) }
    }
    for importer in reply.importers ?? [] { lines.append(("importer", importer.text)) }
    let width = lines.map(\.0.count).max() ?? 0
    try printLine(
      lines.map { $0.0 + String(repeating: " ", count: width - $0.0.count + 2) + $0.1 }.joined(
        separator: "\n"))
  }
}

struct WatchBuffers: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "watch",
    abstract: "Print what happens to the buffers that you may import, until the helper ends.",
    discussion:
      "Each event is one line. The exit status is 0 when the helper ends, and 1 if the connection breaks before."
  )

  @OptionGroup var socket: HelperChoice
  @Flag(help: "Print JSON, an object in each line.")
  var json = false
  @Option(help: ArgumentHelp("End after this many events.", valueName: "count"))
  var events: Int?

  func validate() throws {
    if let events, events < 1 { throw ValidationError("--events \(events) is too small: give 1 or more") }
  }

  func run() throws {
    var left = events
    try socket.buffers().watch { event in
      // The reader of the lines wants each at once.
      if json { try printJSON(event) } else { try printLine(event.line) }
      left = left.map { $0 - 1 }
      return left != 0
    }
  }
}

// MARK: Words

extension BufferFacts {
  fileprivate var stateText: String {
    guard let returns else { return state.rawValue }
    return state == .returning
      ? "returning, \(returns) ms left" : "\(state.rawValue), returns in \(returns) ms"
  }
}

extension FillingFacts {
  fileprivate var text: String { counted(bytesUsed, "byte") + (timestamp.map { ", at \($0) ns" } ?? "") }
}

extension ImporterFacts {
  fileprivate var text: String {
    "process \(process) of user \(user)" + (forWriting ? ", for writing" : "")
      + (access.map { ", access \($0.rawValue)" } ?? "") + (filler ? ", fills it" : "")
  }
}

extension BufferMetadata {
  /// The metadata, which the lender wrote, as names and values.
  fileprivate var lines: [(String, String)] {
    var lines: [(String, String)] = []
    if let image {
      let colours = image.colorSpace.map { ", \(printable($0))" } ?? ""
      let time = image.timestamp.map { ", at \($0) ns" } ?? ""
      lines.append(
        (
          "image",
          "\(image.width)x\(image.height) \(image.formatText), stride \(image.stride), offset \(image.offset), "
            + "modifier \(hex(UInt64(bitPattern: Int64(image.modifier))))\(colours)\(time)"
        ))
    }
    return lines
      + values.sorted { $0.key < $1.key }.map { ("value", "\(printable($0.key)) = \(printable($0.value))") }
  }
}

extension ImageMetadata {
  fileprivate var formatText: String {
    UInt32(exactly: fourcc).map { printable(FourCC(rawValue: $0).description) } ?? "\(fourcc)"
  }
}

extension BuffersEvent {
  fileprivate var line: String {
    guard let buffer else { return event.rawValue }
    let what: String? =
      switch event {
      case .lent: "\(counted(buffer.size, "byte")), \(buffer.use.rawValue)" + metadataText
      case .metadata: String(metadataText.dropFirst(2))
      case .filled: (filling?.text ?? "") + (lost.map { $0 > 0 ? ", \($0) lost" : "" } ?? "")
      case .accessBegun: mode?.rawValue
      case .returning: buffer.returns.map { "\($0) ms left" }
      case .revoked: reason?.rawValue
      default: nil
      }
    return "\(event.rawValue) \(buffer.id)" + (what.map { $0.isEmpty ? "" : "  " + $0 } ?? "")
  }

  private var metadataText: String { (metadata?.lines ?? []).map { ", \($0.0) \($0.1)" }.joined() }
}
