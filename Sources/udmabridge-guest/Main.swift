import ArgumentParser
import Programs

@main
struct UdmabridgeGuest: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "udmabridge-guest",
    abstract: "Lends buffers of this guest to its host.",
    version: programVersion, subcommands: [Serve.self])
}
