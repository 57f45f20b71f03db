import ArgumentParser
import Glibc
import LendingProtocol
import Linux
import Programs
import Varlink

struct List: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "List the dma-bufs of this host, with the processes that hold them.",
    discussion: """
      A process holds a dma-buf by a descriptor or by a mapping. A dma-buf that only the kernel holds, such as one in a \
      framebuffer, is listed if debugfs can be read, which takes root. Without root only your own processes are seen.
      """)

  enum Key: String, CaseIterable, ExpressibleByArgument { case size, inode, exporter, name, pid }

  @Option(help: "The order: size (the largest first), inode, exporter, name, or pid of the first holder.")
  var sort = Key.size

  @Option(
    help: ArgumentHelp("List only dma-bufs that this driver made, such as udmabuf.", valueName: "driver"))
  var exporter: String?

  @Option(help: ArgumentHelp("List only dma-bufs that this process holds.", valueName: "pid"))
  var pid: Int32?

  @Option(help: ArgumentHelp("List only dma-bufs whose name contains this text.", valueName: "text"))
  var name: String?

  @Option(help: ArgumentHelp("List only dma-bufs of at least this size.", valueName: "size"))
  var minSize: Quantity?

  @Option(
    help: ArgumentHelp(
      "Show the ids of buffers that a guest lends. This is the control socket of its vhost-user-udmabuf.",
      valueName: "socket"))
  var control: String?

  @Option(help: ArgumentHelp("The same for a running domain of libvirt.", valueName: "name"))
  var domain: String?

  @Option(
    help: ArgumentHelp(
      "Look again after this time, and list again if something has changed; until SIGINT.",
      valueName: "seconds"))
  var watch: Double?

  @OptionGroup var output: OutputOptions

  func validate() throws {
    if control != nil, domain != nil { throw ValidationError("--control SOCKET or --domain NAME, not both") }
    if let watch, !(0.01...86400).contains(watch) {
      throw ValidationError("--watch takes 0.01 to 86400 seconds")
    }
  }

  func run() throws {
    guard let watch else {
      let live = try look()
      return try output.print(live, text(live))
    }
    let signals = try SignalFD([SIGTERM, SIGINT])
    var last: LiveBuffers?
    repeat {
      let live = try look()
      if live != last {
        if output.json {
          print(try jsonText(live, inOneLine: true))
        } else {
          print((last == nil ? "" : "\n") + text(live))
        }
        fflush(nil)
        last = live
      }
    } while try !signals.fd.isReadable(within: .milliseconds(Int64(watch * 1000)))
  }

  private var asksForLent: Bool { control != nil || domain != nil }

  private func look() throws -> LiveBuffers {
    var live = LiveBuffers()
    if asksForLent {
      let client = try BuffersClient(HelperChoice.path(control: control, domain: domain))
      live.tell(try client.call("List").decode(BuffersReply.self).buffers)
    }
    live.keep { buffer in
      (exporter == nil || buffer.exporter == exporter)
        && (pid == nil || buffer.users.contains { $0.pid == pid })
        && (name == nil || buffer.name?.contains(name!) == true) && (buffer.size ?? 0) >= minSize?.value ?? 0
    }
    live.sort { a, b in
      switch sort {
      case .size: (b.size ?? 0, a.inode) < (a.size ?? 0, b.inode)
      case .inode: a.inode < b.inode
      case .exporter: (a.exporter ?? "", a.inode) < (b.exporter ?? "", b.inode)
      case .name: (a.name ?? "", a.inode) < (b.name ?? "", b.inode)
      case .pid: (a.users.first?.pid ?? .max, a.inode) < (b.users.first?.pid ?? .max, b.inode)
      }
    }
    return live
  }

  private func text(_ live: LiveBuffers) -> String {
    var columns: [(String, Table.Alignment)] = [
      ("SIZE", .right), ("INODE", .right), ("EXPORTER", .left), ("NAME", .left), ("HELD BY", .left),
    ]
    if asksForLent { columns.append(("LENT AS", .left)) }
    var table = Table(columns)
    for buffer in live.buffers {
      let devices = (buffer.devices ?? []).map { "device \($0)" }
      let holders = buffer.users.map(\.text) + devices
      table.rows.append([
        buffer.size.map(bytes) ?? "?", "\(buffer.inode)", buffer.exporter ?? "?",
        buffer.name.map(printable) ?? "-",
        holders.isEmpty ? "the kernel" : holders.joined(separator: "; "),
      ])
      if asksForLent {
        table.rows[table.rows.count - 1].append(buffer.lentAs?.joined(separator: " ") ?? "-")
      }
    }
    var lines = live.buffers.isEmpty ? "" : table.text + "\n"
    lines += "\(counted(live.buffers.count, "dma-buf")), \(bytes(LiveBuffer.size(of: live.buffers)))"
    if live.unreadableProcesses > 0 {
      lines +=
        "; \(counted(live.unreadableProcesses, "process", "processes")) could not be looked into (run as root to see all of them)"
    }
    if !live.sawKernel {
      lines += "; dma-bufs that only the kernel holds are not listed (\(KernelBuffers.path) cannot be read)"
    }
    return lines
  }
}
