import ArgumentParser
import Guest
import Linux
import QEMU
import Udmabuf

struct RAM: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ram",
    abstract: "Show a running QEMU's memory: its memfds, its blocks, and where the guest sees them.",
    discussion: """
      With --qmp, the monitor says where each guest-physical address is, and the memory map of the process says which \
      memfd is there. With --guest alone, the command line of the process says where the monitor is.

        udmabridge ram --qmp /run/qemu.sock --layout > layout.txt; udmabridge plan --layout layout.txt @pages.txt
      """)

  @OptionGroup(title: "The guest") var guest: GuestOptions

  @Flag(help: "Print the layout in the form that plan --layout reads.")
  var layout = false

  @OptionGroup var output: OutputOptions

  func validate() throws {
    if !guest.isGiven { throw ValidationError("which guest? --qmp SOCKET, --guest PID or --domain NAME") }
    if layout, output.json { throw ValidationError("either --layout or --json") }
  }

  func run() throws {
    let qemu = try guest.open()
    let found = try qemu.layout()
    if layout { return print(LayoutText.write(found), terminator: "") }
    let facts = RAMFacts(qemu, found, blocks: try qemu.blocks(), version: try qemu.monitor?.version())
    try output.print(facts, facts.text)
  }
}

/// The memory of a running QEMU.
private struct RAMFacts: Encodable {
  struct Memory: Encodable {
    let name: String
    let kind: String
    var path: String?
    /// Its number in QEMU.
    var descriptor: Int32?
    var file: FileFacts?
  }
  struct Part: Encodable {
    let address, length: UInt64
    /// Nil for a hole.
    var memory: String?
    /// The offset in the memory.
    var offset: UInt64?
    var isReadOnly: Bool?
  }
  struct Block: Encodable {
    let name: String
    let size, pageSize: UInt64
  }

  let pid: Int32
  let version: String?
  let source: String
  let memories: [Memory]
  /// The parts by address, holes included. There is no memory behind the last.
  let layout: [Part]
  let blocks: [Block]?

  init(_ qemu: RunningQEMU, _ found: GuestLayout, blocks: [RAMBlock]?, version: String?) {
    (pid, self.version, source) = (qemu.process.pid, version, found.source.rawValue)
    memories = found.backings.map { backing in
      switch backing.kind {
      case .memfd(let memfd, let number):
        let file = try? memfd.withDescriptor { fd in try FileFacts(fd.duplicate(), target: "/memfd:") }
        return Memory(name: backing.name, kind: "memfd", descriptor: number, file: file)
      case .file(let path): return Memory(name: backing.name, kind: "file", path: path)
      case .anonymous: return Memory(name: backing.name, kind: "anonymous")
      }
    }
    var layout: [Part] = []
    var next: UInt64 = 0
    for part in found.parts {
      if part.address.rawValue > next {
        layout.append(Part(address: next, length: part.address.rawValue - next))
      }
      layout.append(
        Part(
          address: part.address.rawValue, length: part.length, memory: found.backings[part.backing].name,
          offset: part.offset, isReadOnly: part.isReadOnly))
      next = part.last.rawValue &+ 1
    }
    self.layout = layout
    self.blocks = blocks?.map { Block(name: $0.name, size: $0.used, pageSize: $0.pageSize) }
  }

  var text: String {
    let how = source == GuestLayout.Source.monitor.rawValue ? "its monitor" : "its command line"
    var lines = ["process \(pid)\(version.map { ", QEMU \($0)" } ?? ""), by \(how)", "", "memory"]
    var table = Table([("", .left), ("", .left), ("", .right), ("", .left)])
    for memory in memories {
      let file = memory.file
      let seals = file?.seals.map { $0.isEmpty ? "no seals" : $0.joined(separator: ", ") } ?? ""
      let what =
        memory.descriptor.map { "memfd, fd \($0), inode \(file?.inode ?? 0)" } ?? memory.path ?? "QEMU's own"
      let verdict =
        file?.usable == true ? "can be lent" : "cannot be lent" + (file?.reason.map { ": \($0)" } ?? "")
      let pages = file?.isHuge == true ? ", huge pages of \(bytes(file?.pageSize ?? 0))" : ""
      table.rows.append([
        "  " + memory.name, what, file.map { bytes($0.size) } ?? "",
        (seals.isEmpty ? "" : seals + pages + ": ") + verdict,
      ])
    }
    lines += table.text.split(separator: "\n").map(String.init)
    lines += ["", "guest-physical addresses"] + picture
    if let blocks {
      lines += ["", "blocks"]
      var table = Table([("", .left), ("", .right), ("", .left)])
      for block in blocks {
        table.rows.append(["  " + block.name, bytes(block.size), "pages of \(bytes(block.pageSize))"])
      }
      lines += table.text.split(separator: "\n").map(String.init)
    }
    return lines.joined(separator: "\n")
  }

  /// A line for each part. One more mark stands for twice the length, so that 4 KiB and 4 GiB can both be seen.
  private var picture: [String] {
    let width = layout.map { String($0.address, radix: 16).count }.max() ?? 1
    return layout.map { part in
      let address = String(part.address, radix: 16)
      let marks = max(1, part.length.bitWidth - 12 - part.length.leadingZeroBitCount)
      let isHole = part.memory == nil
      let bar = String(repeating: isHole ? "." : part.isReadOnly == true ? "=" : "#", count: marks)
      let what =
        part.memory.map {
          "\($0) at \(hex(part.offset ?? 0))" + (part.isReadOnly == true ? ", read only" : "")
        } ?? "hole"
      return "  0x" + String(repeating: "0", count: width - address.count) + address + "  " + bar
        + String(repeating: " ", count: max(0, 30 - marks)) + pad(bytes(part.length), 10) + "  " + what
    }
  }

  private func pad(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.count)) + text
  }
}
