import ArgumentParser
import Glibc
import Libvirt
import Linux
import SystemPackage

/// libvirtd's hook. The parser does not see its words, because a domain may be called `--help`.
struct LibvirtHook: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "libvirt-hook",
    abstract: "libvirtd runs this at each step of a domain's life, from /etc/libvirt/hooks/qemu.d.",
    discussion: """
      The domain's definition comes on standard input. The hook refuses the start of a domain that asks for \
      vhost-user-udmabuf and could not work. It makes the directory of the domain's control socket, and removes it at the \
      end. All other domains pass.
      """)

  @Argument(help: "The domain.") var name: String
  @Argument(help: "prepare, start, started, stopped, release, reconnect, migrate or restore.")
  var operation: String
  @Argument(help: "begin or end, and the words that libvirtd adds.") var rest: [String] = []

  func run() throws { Glibc.exit(Self.perform([name, operation] + rest)) }

  /// - Parameter words: those behind `libvirt-hook`.
  /// - Returns: the exit status.
  static func perform(_ words: [String]) -> Int32 {
    guard words.count >= 2 else {
      printError("udmabridge: libvirt-hook NAME OPERATION SUBOPERATION EXTRA is for libvirtd")
      return 64
    }
    let (name, operation) = (words[0], words[1])
    if operation == "migrate" || operation == "restore" {
      // Written whole or not at all: without output libvirt takes its own definition.
      if let text = try? readDefinition(nil), text.count <= XMLDocument.longest { try? writeDefinition(text) }
      return 0
    }
    let outcome = Hook(tell: { "\($0) (\($0.remedy))" }).run(name, operation) { try readDefinition(nil) }
    for message in outcome.messages { printError(message) }
    return outcome.status
  }
}
