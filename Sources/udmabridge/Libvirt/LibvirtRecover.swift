import ArgumentParser
import Libvirt

struct LibvirtRecover: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "recover",
    abstract: "Give a running guest a card again after its helper has ended.",
    discussion: """
      A second card with a new helper is plugged in, and the helper serves the domain's control socket. The dead card stays. \
      The command needs root, QEMU 10.1 or later, and a free PCI Express port. libvirt marks the domain as tainted, because \
      the card is plugged in through the monitor.
      """)

  @OptionGroup var connection: ConnectOption

  @Argument(help: "The domain.")
  var name: String

  func run() throws {
    let recovery = try Recovery(connection.open().domain(name))
    try recovery.run { print($0) }
    print("domain \(name) has a card again")
  }
}
