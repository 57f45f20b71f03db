import ArgumentParser
import Libvirt

struct LibvirtRecover: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "recover",
    abstract: "Give a running guest a card again after its helper has ended.",
    discussion: """
      A second card with a new helper is plugged in, and serves the domain's control socket; the dead one stays. That \
      takes QEMU 10.1 or later and a free PCI Express port, and marks the domain as tainted, since libvirt is passed by. \
      To be run as root on the domain's host.
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
