import ArgumentParser
import DomainOptions
import Libvirt
import Linux
import Programs
import SystemPackage

/// The choice of the definition, and how its change is shown.
struct ChangeOptions: ParsableArguments {
  @OptionGroup var connection: ConnectOption

  @Flag(
    help:
      "Read a definition from standard input and write the changed one to standard output, without libvirt. Comments and unknown elements stay."
  )
  var stdin = false

  @Flag(help: "Show the difference, and change nothing.")
  var dryRun = false

  @Argument(help: "The domain.")
  var name: String?

  func validate() throws {
    if stdin == (name != nil) { throw ValidationError("give either the NAME of a domain or --stdin") }
    if stdin && dryRun {
      throw ValidationError("--stdin changes no domain, it only writes a definition: leave --dry-run out")
    }
  }

  /// Changes the definition.
  func perform(_ change: (DomainXML) throws -> Void) throws {
    guard let name else {
      let text = try readDefinition(nil)
      let domain = try DomainXML(text)
      let before = domain.text
      try change(domain)
      // A definition that needs no change is written byte for byte.
      return try writeDefinition(domain.text == before ? text : Array(domain.text.utf8))
    }
    let libvirt = try connection.open()
    let known = try libvirt.domain(name)
    guard known.isPersistent else { throw LibvirtError.transient(name) }
    let domain = try known.definition(isToBeDefined: !dryRun)
    let before = domain.text
    try change(domain)
    let difference = LineDiff(before, domain.text)
    if difference.isEmpty { return print("domain \(name) needs no change") }
    print(difference)
    if dryRun { return }
    try libvirt.define(domain)
    print(
      "domain \(name) has its new definition"
        + (known.isActive ? "; the running guest gets it at its next start" : ""))
  }
}

struct LibvirtEnable: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "enable",
    abstract: "Lend a domain's memory from its next start on.",
    discussion: """
      Changes the persistent definition: the memory becomes a shared memfd, and the first video device a virtio-gpu with \
      the back end vhost-user-udmabuf. The domain's metadata keeps the old state for disable. The difference is shown \
      first. If the domain could not start, the change is refused. A running guest goes on unchanged. A second enable \
      changes nothing.

        udmabridge libvirt enable web --option kms=auto
        udmabridge libvirt enable web --lend --option audience=viewers=group:video
        udmabridge libvirt enable web --share
        virt-install ... --print-xml | udmabridge libvirt enable --stdin
      """)

  @Option(
    name: .customLong("option"),
    help: ArgumentHelp(
      "An option of vhost-user-udmabuf for this domain, such as kms=auto. The options replace those that the domain had. May be repeated. /etc/udmabridge/NAME.conf may have more.",
      valueName: "NAME=VALUE"))
  var options: [String] = []

  @Flag(help: "Remove graphics that would keep QEMU from starting, such as VNC; disable puts them back.")
  var removeGraphics = false

  @Flag(
    help:
      "Let the guest lend any buffer. It gets a port for its agent. With QEMU 10.1 and later, it also gets a second card, which takes buffers of other drivers."
  )
  var lend = false

  @Flag(
    help:
      "Let the guest have memory of the host: a port for its agent, and a card that maps the memory. The domain's QEMU must be 11.1 or later."
  )
  var share = false

  @OptionGroup var change: ChangeOptions

  func validate() throws {
    do { _ = try options.map { try DomainOption($0) } } catch { throw ValidationError("--option: \(error)") }
  }

  func run() throws {
    let chosen = try options.map { try DomainOption($0) }
    try change.perform { domain in
      let scope = lend ? lendingScope(of: domain) : .none
      if share { try checkSharing(domain) }
      try domain.enable(
        options: chosen.isEmpty ? nil : chosen, removingGraphics: removeGraphics, lending: scope,
        sharing: share)
    }
  }

  /// - Throws: why the domain's QEMU cannot map memory of the host.
  private func checkSharing(_ domain: DomainXML) throws {
    guard let emulator = domain.emulator else {
      throw Trouble("the domain names no QEMU: --share needs QEMU 11.1 or later in <emulator>")
    }
    switch mapsHostMemory(emulator) {
    case true?: return
    case false?: throw Trouble("\(emulator) cannot map memory of the host: --share needs QEMU 11.1 or later")
    case nil:
      throw Trouble("\(emulator) cannot be run here to ask its version: --share needs QEMU 11.1 or later")
    }
  }

  private func lendingScope(of domain: DomainXML) -> LendingScope {
    guard let emulator = domain.emulator else {
      printError(
        "udmabridge: the domain names no QEMU: its guest lends what its card makes, and no other buffers")
      return .card
    }
    switch hasGenericDevice(emulator) {
    case true?: return .all
    case false?:
      printError(
        "udmabridge: \(emulator) has no \(DomainXML.genericDevice): the guest lends what its card makes, and no other buffers"
      )
    case nil:
      printError(
        "udmabridge: \(emulator) cannot be run here to ask: the guest lends what its card makes, and no other buffers"
      )
    }
    return .card
  }
}

struct LibvirtDisable: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "disable",
    abstract: "Undo what enable did to a domain, from its next start on.",
    discussion: "The difference is shown first. A domain that was not enabled stays as it is.")

  @OptionGroup var change: ChangeOptions

  func run() throws { try change.perform { try $0.disable() } }
}

/// Whether a QEMU has the device that takes buffers of other drivers; nil if it cannot be run.
func hasGenericDevice(_ emulator: String) -> Bool? {
  guard (try? FileAccess(of: FilePath(emulator)))?.isExecutable == true else { return nil }
  // Asked for the properties of an unknown device, QEMU 7.2 lists none and exits with 0, so the list of devices is asked.
  let script = "\"$0\" -device help 2>/dev/null | grep -qF '\"\(DomainXML.genericDevice)\"'"
  return (try? runToEnd(["/bin/sh", "-c", script, emulator])).map { $0 == 0 }
}

/// Whether a QEMU maps memory of the host when the device asks, as 11.1 and later do; nil if it cannot be run.
func mapsHostMemory(_ emulator: String) -> Bool? {
  guard (try? FileAccess(of: FilePath(emulator)))?.isExecutable == true else { return nil }
  let script = "\"$0\" --version 2>/dev/null | grep -Eq 'version (11\\.[1-9]|1[2-9]\\.|[2-9][0-9]\\.)'"
  return (try? runToEnd(["/bin/sh", "-c", script, emulator])).map { $0 == 0 }
}
