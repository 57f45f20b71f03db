import ArgumentParser
import DomainOptions
import Libvirt
import Linux
import Programs
import SystemPackage

/// Which definition is changed, and how that is told.
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
      throw ValidationError("--stdin changes nothing but what it writes: leave --dry-run out")
    }
  }

  /// Changes the definition.
  func perform(_ change: (DomainXML) throws -> Void) throws {
    guard let name else {
      let text = try readDefinition(nil)
      let domain = try DomainXML(text)
      let before = domain.text
      try change(domain)
      // What needs no change goes through byte for byte.
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
      "domain \(name) is defined anew"
        + (known.isActive ? "; it runs, and has it from its next start on" : ""))
  }
}

struct LibvirtEnable: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "enable",
    abstract: "Have a domain's memory lent from its next start on.",
    discussion: """
      Changes the persistent definition: the memory becomes a shared memfd, and the first video device a virtio-gpu with \
      the back end vhost-user-udmabuf. How it was before is written down in the domain's metadata, for disable. The \
      difference is shown first. A domain that could not start is refused; one that runs goes on as it is. Doing it \
      twice changes nothing.

        udmabridge libvirt enable web --option kms=auto
        udmabridge libvirt enable web --lend --option audience=viewers=group:video
        udmabridge libvirt enable web --share
        virt-install ... --print-xml | udmabridge libvirt enable --stdin
      """)

  @Option(
    name: .customLong("option"),
    help: ArgumentHelp(
      "An option of vhost-user-udmabuf for this domain, such as kms=auto; replaces those that the domain had. May be repeated. Others may be in /etc/udmabridge/NAME.conf.",
      valueName: "NAME=VALUE"))
  var options: [String] = []

  @Flag(help: "Take graphics out with which QEMU would not start, such as VNC; disable puts them back.")
  var removeGraphics = false

  @Flag(
    help:
      "Let the guest lend any buffer: a port for its agent, and a second card that takes buffers of other drivers, where the domain's QEMU has that (10.1 and later)."
  )
  var lend = false

  @Flag(
    help:
      "Let the guest have memory of the host: a port for its agent, and a card that maps it, where the domain's QEMU has that (11.1 and later)."
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

  /// - Throws: why the domain's QEMU maps no memory of the host.
  private func checkSharing(_ domain: DomainXML) throws {
    guard let emulator = domain.emulator else {
      throw Trouble("the domain names no QEMU: --share is for 11.1 and later")
    }
    switch mapsHostMemory(emulator) {
    case true?: return
    case false?: throw Trouble("\(emulator) maps no memory of the host: --share is for QEMU 11.1 and later")
    case nil:
      throw Trouble("\(emulator) cannot be asked here for its version: --share is for QEMU 11.1 and later")
    }
  }

  private func lendingScope(of domain: DomainXML) -> LendingScope {
    guard let emulator = domain.emulator else {
      printError("udmabridge: the domain names no QEMU: its guest lends what its card makes")
      return .card
    }
    switch hasGenericDevice(emulator) {
    case true?: return .all
    case false?:
      printError(
        "udmabridge: \(emulator) has no \(DomainXML.genericDevice): the guest lends what its card makes")
    case nil: printError("udmabridge: \(emulator) cannot be asked here: the guest lends what its card makes")
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
  // Of a device that it does not know, QEMU 7.2 lists no property and ends well.
  let script = "\"$0\" -device help 2>/dev/null | grep -qF '\"\(DomainXML.genericDevice)\"'"
  return (try? runToEnd(["/bin/sh", "-c", script, emulator])).map { $0 == 0 }
}

/// Whether a QEMU maps memory of the host where the device asks for that, which is from 11.1 on; nil if it cannot be run.
func mapsHostMemory(_ emulator: String) -> Bool? {
  guard (try? FileAccess(of: FilePath(emulator)))?.isExecutable == true else { return nil }
  let script = "\"$0\" --version 2>/dev/null | grep -Eq 'version (11\\.[1-9]|1[2-9]\\.|[2-9][0-9]\\.)'"
  return (try? runToEnd(["/bin/sh", "-c", script, emulator])).map { $0 == 0 }
}
