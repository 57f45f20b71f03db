import ArgumentParser
import Programs

@main
struct UdmabridgeGuest: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "udmabridge-guest",
    abstract: "Lends buffers of this guest to its host, and takes memory that the host offers.",
    discussion: """
      Sizes are written as 4096, 0x1000 or 64M (powers of 1024).
      The exit status is 0 on success, 1 if the command failed, and 64 for a wrong command line.
      """,
    version: programVersion,
    subcommands: [
      Serve.self, Lend.self, ListLent.self, WatchLent.self, ReturnLent.self, Receive.self,
      ListGuestOffers.self,
      Pages.self,
    ])

  /// Takes `-- COMMAND` for the option `--command COMMAND`.
  static func main() {
    var words = Array(CommandLine.arguments.dropFirst())
    if ["lend", "receive"].contains(words.first), let end = words.firstIndex(of: "--") {
      words[end] = "--command"
    }
    do {
      var command = try parseAsRoot(words)
      try command.run()
    } catch { exit(withError: explained(error)) }
  }
}
