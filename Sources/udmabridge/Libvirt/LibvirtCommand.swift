import ArgumentParser
import FoundationEssentials
import Glibc
import Libvirt
import Linux
import Programs
import SystemPackage

/// The commands for domains of libvirt.
struct LibvirtCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "libvirt",
    abstract: "Prepare domains of libvirt for lending their memory, and look after them.",
    subcommands: [LibvirtCheck.self, LibvirtEnable.self, LibvirtDisable.self, LibvirtRecover.self])
}

/// The choice of libvirtd.
struct ConnectOption: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "libvirt's connection URI; by default that of the variable LIBVIRT_DEFAULT_URI, or qemu:///system.",
      valueName: "uri"))
  var connect: String?

  func open() throws -> LibvirtConnection {
    let variable = unsafe getenv("LIBVIRT_DEFAULT_URI").map { unsafe String(cString: $0) }
    return try LibvirtConnection(connect ?? variable ?? "qemu:///system")
  }
}

/// Reads a file or standard input for libvirt's commands: at most one byte more than XML may have.
func readDefinition(_ path: FilePath?) throws -> [UInt8] {
  func read(_ file: borrowing FD) throws(Errno) -> [UInt8] {
    var text: [UInt8] = []
    while text.count <= XMLDocument.longest {
      let more = try file.read(upTo: 1 << 20)
      if more.isEmpty { break }
      text += more
    }
    return text
  }
  do throws(Errno) {
    guard let path else { return try read(FD.copy(ofInherited: 0)) }
    return try read(FD.open(path, writable: false))
  } catch { throw Trouble("\(path.map { "\($0)" } ?? "standard input") cannot be read: \(error)") }
}

/// Writes a definition to standard output, byte for byte.
func writeDefinition(_ text: [UInt8]) throws {
  do throws(Errno) {
    let output = try FD.copy(ofInherited: 1)
    unsafe try output.write(text.span.bytes)
  } catch { throw Trouble("standard output cannot be written: \(error)") }
}
