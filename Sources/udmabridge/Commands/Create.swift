import ArgumentParser
import Linux
import Programs
import SystemPackage
import Udmabuf

struct Create: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Make a dma-buf out of ranges of a memfd, or of a running guest's memory.",
    discussion: """
      The dma-buf consists of the memory's own pages: both sides see each other's writes at once. Whoever holds the dma-buf can \
      read and write these pages, so hand it only to programs that you trust.

        udmabridge create --fd 3 0:8M -- my-player --dmabuf {}
        udmabridge create --guest 4711 0x7f000000:8100K --send /run/viewer.sock
        udmabridge create --qmp /run/qemu.sock @pages.txt --hold
        ssh root@guest udmabridge-guest pages --size 8M | udmabridge create --guest 4711 - --hold

      The exit status is 1 if no dma-buf can be made, and 64 for a wrong command line. It is 126 if the command cannot be \
      executed, and 127 if it does not exist. Otherwise it is the command's own.
      """)

  @OptionGroup var memory: MemoryOptions

  @Option(help: ArgumentHelp("What /proc and debugfs call the dma-buf, at most 31 bytes.", valueName: "name"))
  var name: String?

  @OptionGroup var output: OutputOptions
  @OptionGroup(title: "What becomes of it") var handover: HandoverOptions

  func validate() throws {
    if let name, name.utf8.count > 31 { throw ValidationError("--name has at most 31 bytes") }
  }

  func run() throws {
    let selection = try memory.open(writable: true, whole: true)
    guard case .ranges(let ranges) = selection.content else {
      throw Trouble("\(memory.file.name) is a dma-buf already")
    }
    let dmabuf = try selection.dmabuf()
    if let name { try dmabuf.setName(name) }
    let facts = HandoverOptions.Facts(
      kind: .dmabuf, size: dmabuf.size, inode: dmabuf.inode, name: name, ranges: selection.entries,
      items: ranges.count)
    try dmabuf.withDescriptor { try handover.perform($0, facts, output, isKept: selection.isKept) }
  }
}
