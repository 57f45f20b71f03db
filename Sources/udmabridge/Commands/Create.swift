import ArgumentParser
import Linux
import Programs
import SystemPackage
import Udmabuf

struct Create: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Make a dma-buf out of ranges of a memfd, or of a running guest's memory.",
    discussion: """
      The dma-buf is made of these very pages: what is written on one side is seen on the other. It is a capability to \
      read and write them for as long as anybody holds it, so hand it to programs that you trust.

        udmabridge create --fd 3 0:8M -- my-player --dmabuf {}
        udmabridge create --guest 4711 0x7f000000:8100K --send /run/viewer.sock
        udmabridge create --qmp /run/qemu.sock @pages.txt --hold
        ssh root@guest udmabridge-guest pages --size 8M | udmabridge create --guest 4711 - --hold

      The exit status is 1 if there is no dma-buf, 64 for a wrong command line, 126 or 127 if the command cannot be \
      executed or is not there, and the command's own after that.
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
