import ArgumentParser
import Glibc
import Programs

/// The number of this process, which looks at others.
let ownProcess = getpid()

@main
struct Udmabridge: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "udmabridge",
    abstract: "Lends the memory of KVM guests, and of memfds, to the host's graphics stack.",
    discussion: """
      Sizes and addresses are written as 4096, 0x1000 or 64M (powers of 1024).
      The exit status is 0 on success, 1 if the command failed, and 64 for a wrong command line.
      """,
    version: programVersion,
    subcommands: [
      MemfdCommand.self, Create.self, Show.self, Dump.self, Inspect.self, List.self, RAM.self, Plan.self,
      Doctor.self, Present.self, Stream.self, Snapshot.self, Record.self, Watch.self, Stats.self,
      MetricsCommand.self, Top.self,
      BuffersCommand.self, LibvirtCommand.self, OnDefineDomain.self, LibvirtHook.self,
    ])

  /// The commands that hand a descriptor to a program.
  private static let takingCommand = [["create"], ["memfd"], ["buffers", "import"], ["buffers", "offer"]]

  /// Takes `-- COMMAND` for the option `--command COMMAND`: after a list of ranges, whose end it marks, the parser
  /// allows no second list.
  ///
  /// If the program is started under the name of a hook's command, it is that command.
  static func main() {
    var words = Array(CommandLine.arguments.dropFirst())
    let name = CommandLine.arguments.first?.split(separator: "/").last
    switch name {
    case "onDefineDomain": words.insert("onDefineDomain", at: 0)
    case "udmabridge-libvirt-hook": words.insert("libvirt-hook", at: 0)
    default: break
    }
    if words.first == "libvirt-hook", !["--help", "-h"].contains(words.dropFirst().first) || words.count > 2 {
      Glibc.exit(LibvirtHook.perform(Array(words.dropFirst())))
    }
    if takingCommand.contains(where: words.starts(with:)), let end = words.firstIndex(of: "--") {
      words[end] = "--command"
    }
    do {
      var command = try parseAsRoot(words)
      try command.run()
    } catch {
      let text = explained(error)
      exit(withError: text == "\(error)" ? error : Trouble(text))
    }
  }
}
