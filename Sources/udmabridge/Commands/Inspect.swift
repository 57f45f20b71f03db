import ArgumentParser
import Linux
import Programs
import SystemPackage

struct Inspect: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract:
      "Say what is behind a descriptor: a memfd and whether it can be lent, or a dma-buf and which processes hold it.",
    discussion: "The exit status is 1 if the descriptor cannot be opened.")

  @OptionGroup var file: FileOptions
  @OptionGroup var output: OutputOptions

  func validate() throws {
    if !file.isGiven { throw ValidationError("which descriptor? --fd N, --path PATH, or --pid PID --fd N") }
  }

  func run() throws {
    let fd = try file.open(writable: false)
    let target = fd.withRaw { linkTarget(FilePath("/proc/self/fd/\($0)")) }
    var facts: FileFacts
    do { facts = try FileFacts(fd, target: target) } catch { throw Trouble("\(file.name): \(error)") }
    if facts.kind == .dmabuf {
      let live = LiveBuffers(only: facts.inode)
      // This process opened the dma-buf only to look at it.
      facts.users = live.buffers.first?.users.filter {
        $0.pid != ownProcess || file.pid == nil && file.path == nil
      }
      facts.unreadableProcesses = live.unreadableProcesses
    }
    try output.print(facts, facts.text)
  }
}
