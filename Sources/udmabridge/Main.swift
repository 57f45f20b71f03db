import ArgumentParser

@main
struct Udmabridge: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "udmabridge",
    abstract: "Lends the memory of KVM guests to the host's graphics stack.",
    version: "0.1.0",
    subcommands: [Doctor.self, Snapshot.self, Watch.self, Stats.self])
}
