import ArgumentParser
import DomainOptions
import FoundationEssentials
import Libvirt
import Programs

/// KubeVirt's hook sidecar runs this for each machine.
struct OnDefineDomain: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "onDefineDomain",
    abstract: "Enable a domain of KubeVirt, as its hook sidecar calls it.",
    discussion: """
      Writes the definition to standard output. If the machine has the annotation udmabridge, the definition is changed as \
      by libvirt enable; otherwise it is untouched. The annotation is a list of options for vhost-user-udmabuf, NAME=VALUE \
      with semicolons between them. It may be empty.
      """)

  @Option(help: ArgumentHelp("The machine (VirtualMachineInstance), as JSON.", valueName: "json"))
  var vmi: String

  @Option(help: ArgumentHelp("The domain's definition.", valueName: "xml"))
  var domain: String

  static let annotation = "udmabridge"

  func run() throws {
    let machine: Machine
    do { machine = try JSONDecoder().decode(Machine.self, from: Data(vmi.utf8)) } catch {
      throw Trouble("--vmi does not describe a machine: \(error)")
    }
    guard let wanted = machine.metadata?.annotations?[Self.annotation] else {
      return try writeDefinition(Array(domain.utf8))
    }
    let options = try wanted.split(separator: ";").map { try DomainOption(String($0)) }
    let definition = try DomainXML(domain)
    do { try definition.enable(options: options) } catch {
      guard case .refused(let problems) = error, problems.contains(where: { $0.name == "graphics" }) else {
        throw error
      }
      throw Trouble(
        "\(explained(error))\n  -> or in the machine's definition: autoattachGraphicsDevice: false")
    }
    try writeDefinition(Array(definition.text.utf8))
  }

  private struct Machine: Decodable {
    struct Metadata: Decodable { let annotations: [String: String]? }
    let metadata: Metadata?
  }
}
