import ArgumentParser
import DomainOptions
import KMS
import Libvirt
import Linux
import SystemPackage
import Udmabuf

struct LibvirtCheck: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check",
    abstract: "Say what a domain, and this host, lack for lending its memory, and how to mend that.",
    discussion: "The exit status is 1 if a check failed.")

  @OptionGroup var connection: ConnectOption
  @OptionGroup var output: OutputOptions

  @Argument(help: "A domain, or a file with its definition (with a slash in it, or - for standard input).")
  var domain: String

  func run() throws {
    let definition: DomainXML
    if domain == "-" {
      definition = try DomainXML(readDefinition(nil))
    } else if domain.contains("/") {
      definition = try DomainXML(readDefinition(FilePath(domain)))
    } else {
      definition = try connection.open().domain(domain).definition()
    }
    var report = Report()
    report.add(definition)
    var host = HostCheck(definition)
    // The program that a file names is not run, because anybody may have written the file.
    host.mayRunQEMU = domain != "-" && !domain.contains("/")
    host.add(to: &report)
    try output.print(report, report.text)
    if report.failed { throw ExitCode(1) }
  }
}

extension Report {
  /// Checks the definition by itself.
  fileprivate mutating func add(_ domain: DomainXML) {
    let problems = domain.problems
    for (name, good) in [
      ("type", "QEMU runs it"), ("machine", "has PCI"), ("encryption", "none"), ("memory", "a memfd"),
      ("access", "shared"), ("video", "a virtio-gpu with a back end of its own"),
      ("features", "none that the helper lacks"),
      ("parameters", domain.parameters ?? ""), ("graphics", "nothing that would keep QEMU from starting"),
    ] {
      let found = problems.filter { $0.name == name }
      // Without the video there is nothing to say about its parameters.
      if found.isEmpty, !good.isEmpty { ok(name, good) }
      for problem in found { failed(name, "\(problem)", remedy: problem.remedy) }
    }
  }
}

extension DomainXML {
  fileprivate var parameters: String? {
    guard let reference = try? reference() else { return nil }
    let words = reference.options.map { "\($0.name)=\($0.value)" }
    return "domain \(reference.domain)" + (words.isEmpty ? "" : ", ") + words.joined(separator: " ")
  }
}

/// Checks what a host lacks for a domain.
struct HostCheck {
  private let domain: DomainXML
  private let files: HostFiles
  /// Whether the domain's QEMU may be run to list its devices.
  var mayRunQEMU = true

  init(_ domain: DomainXML, _ files: HostFiles = HostFiles()) { (self.domain, self.files) = (domain, files) }

  func add(to report: inout Report) {
    checkFile(&report)
    checkLending(&report)
    checkSharing(&report)
    checkBackEnd(&report)
    for device in [UdmabufDevice.path] + cards { checkRights(&report, device) }
    checkCgroup(&report)
    checkHolders(&report)
    checkAppArmor(&report)
    checkSELinux(&report)
    if files.hasHook {
      report.ok("hook", "installed")
    } else {
      report.limited(
        "hook",
        "libvirt has no hook of udmabridge: nothing makes the directory of the domain's control socket, or the file that "
          + "rendernode names, without which libvirt cannot start a domain whose devices a cgroup guards",
        remedy: "make install, and restart libvirtd if it had no hooks before")
    }
  }

  private var options: [DomainOption] {
    guard let reference = try? domain.reference() else { return [] }
    return (try? reference.allOptions()) ?? reference.options
  }

  /// The cards that the domain's options name.
  private var cards: [FilePath] {
    options.filter { $0.name == "kms" }.compactMap { option in
      if case .path(let path)? = (try? KMSTarget(option.value))?.card { path } else { nil }
    }
  }

  /// With `kms=auto`, all cards of the host.
  private var choice: [FilePath] {
    guard options.contains(where: { $0.name == "kms" && $0.value == "auto" }) else { return [] }
    return directoryEntries("/dev/dri").filter { $0.hasPrefix("card") }.sorted().map {
      FilePath("/dev/dri").appending($0)
    }
  }

  private func checkFile(_ report: inout Report) {
    guard let reference = try? domain.reference(), let path = try? DomainPlaces(reference.domain).options
    else { return }
    do {
      let all = try reference.allOptions()
      if all != reference.options { report.ok("options", "\(path) is read too") }
    } catch { report.failed("options", "\(error)", remedy: "mend the file") }
  }

  /// Checks which buffers other than pictures the guest can lend: none, some or all.
  private func checkLending(_ report: inout Report) {
    guard let name = domain.name, let places = try? DomainPlaces(name) else { return }
    func path(_ option: String) -> String? {
      options.last { $0.name == option }.map { places.argument($0) }?.split(separator: "=", maxSplits: 1).last
        .map(String.init)
    }
    let (port, socket) = (path("port"), path("lend-socket-path"))
    let remedy = "udmabridge libvirt enable \(name) --lend"
    let scope = domain.lending
    if scope > .none || domain.isSharing, port != domain.lendingPort {
      report.failed(
        "lending",
        "the channel leads to \(domain.lendingPort ?? "nothing"), and the helper listens on \(port ?? "no port")",
        remedy: remedy)
    } else if scope == .none, port != nil {
      report.failed(
        "lending", "there is an option port, but no channel of the guest for it", remedy: remedy)
    } else if (scope == .all) != (socket != nil) {
      report.failed(
        "lending",
        socket == nil
          ? "QEMU has a second card, but the helper serves none: QEMU does not start"
          : "there is an option lend-socket-path, but no second card in <qemu:commandline>", remedy: remedy)
    } else if scope == .none {
      report.ok("lending", "pictures alone (libvirt enable --lend: any buffer)")
    } else if scope == .all {
      if mayRunQEMU, let emulator = domain.emulator, hasGenericDevice(emulator) == false {
        return report.failed(
          "lending", "\(emulator) has no \(DomainXML.genericDevice): QEMU does not start",
          remedy: "use QEMU 10.1 or later; or run libvirt disable, and enable --lend again")
      }
      report.ok(
        "lending",
        "any buffer; for buffers of other drivers than its card's, the guest needs Linux 6.14 or later")
    } else {
      report.ok(
        "lending", "buffers that the guest's card makes; for those of other drivers use QEMU 10.1 or later")
    }
  }

  /// Checks whether the guest can have memory of the host.
  private func checkSharing(_ report: inout Report) {
    guard let name = domain.name else { return }
    let hasSocket = options.contains { $0.name == "share-socket-path" }
    if domain.isSharing != hasSocket {
      report.failed(
        "sharing",
        hasSocket
          ? "there is an option share-socket-path, but no card for it in <qemu:commandline>"
          : "QEMU has a card for memory of the host, but the helper serves none: QEMU does not start",
        remedy: "udmabridge libvirt enable \(name) --share")
    } else if domain.isSharing, mayRunQEMU, let emulator = domain.emulator, mapsHostMemory(emulator) == false
    {
      report.failed(
        "sharing", "\(emulator) cannot map memory of the host: the guest cannot use what it receives",
        remedy: "use QEMU 11.1 or later; or run libvirt disable, and enable again without --share")
    } else if domain.isSharing {
      report.ok("sharing", "memory of the host, once it is offered (udmabridge buffers offer)")
    }
  }

  private func checkBackEnd(_ report: inout Report) {
    let all = files.descriptions()
    if let broken = all.first(where: { $0.type == nil }) {
      report.failed(
        "back end",
        "\(broken.file) does not describe a back end: because of it libvirt finds no back end at all",
        remedy: "mend or remove that file")
    }
    guard let first = all.first(where: { $0.type == "gpu" }), let binary = first.binary else {
      return report.failed(
        "back end",
        "no file in \(files.descriptionDirectories.map(\.string).joined(separator: " or ")) describes a GPU",
        remedy: "make install (NixOS: virtualisation.libvirtd.qemu.vhostUserPackages)")
    }
    guard FilePath(binary).lastComponent?.string == "vhost-user-udmabuf" else {
      return report.failed(
        "back end", "libvirt would start \(binary), as \(first.file) says",
        remedy: "make install; or give that file a name that sorts after vhost-user-udmabuf's")
    }
    do throws(Errno) {
      guard try FileAccess(of: FilePath(binary)).isExecutable else { throw .permissionDenied }
      report.ok("back end", "\(binary), as \(first.file) says")
    } catch { report.failed("back end", "\(binary) cannot be started: \(error)", remedy: "make install") }
  }

  private func checkRights(_ report: inout Report, _ device: FilePath) {
    let name = device == UdmabufDevice.path ? "udmabuf" : "card"
    let access: FileAccess
    do throws(Errno) { access = try FileAccess(of: device) } catch {
      let remedy =
        name == "udmabuf"
        ? "boot a kernel with CONFIG_UDMABUF (Debian 12: linux-image-amd64 from bookworm-backports)"
        : "name a card that exists; udmabridge doctor lists them"
      return report.failed(name, "\(device): \(error)", remedy: remedy)
    }
    guard let account = files.account() else {
      return report.failed(
        name, "the user that runs QEMU does not exist on this host",
        remedy: "set user = in qemu.conf to an existing user")
    }
    if access.allowsWriting(account) {
      report.ok(name, "\(device) may be used by \(account.name), which runs QEMU")
    } else {
      let group = groupName(of: access.group)
      report.failed(
        name, "\(device) may not be used by \(account.name), which runs QEMU",
        remedy: access.mode & 0o060 == 0o060
          ? "as root: udmabridge doctor --mend, or adduser \(account.name) \(group); and restart libvirtd"
          : "as root: chmod g+rw \(device); to keep that after a boot, a udev rule such as make install brings"
      )
    }
  }

  private func checkCgroup(_ report: inout Report) {
    guard let allowed = files.allowedDevices() else {
      return report.ok("cgroup", "qemu.conf: devices are not guarded")
    }
    var missing = files.devicesNotAllowed(([UdmabufDevice.path] + cards).map(\.string))
    if !choice.contains(where: { allowed.contains($0.string) }) { missing += choice.map(\.string) }
    if missing.isEmpty { return report.ok("cgroup", "allows the devices") }
    report.failed(
      "cgroup", "cgroup_device_acl in qemu.conf does not name \(missing.joined(separator: " and "))",
      remedy:
        "as root: udmabridge doctor --mend; or add them to the default ones (qemu.conf lists these in a comment), and "
        + "restart libvirtd: libvirt may put the "
        + "helper into the domain's cgroup before it opens them, and there opening them is refused (EPERM)"
    )
  }

  /// libvirtd starts the helper and the hook.
  private func checkAppArmor(_ report: inout Report) {
    let helper = files.descriptions().first { $0.type == "gpu" }?.binary.map { FilePath($0) }
    let refused = [helper, files.hookProgram].compactMap(\.self).filter(files.isRefusedByAppArmor)
    if refused.isEmpty { return }
    let lines = refused.map { "\($0) PUx," }.joined(separator: " ")
    report.failed(
      "AppArmor",
      "libvirtd's profile does not let it start \(refused.map(\.string).joined(separator: " and "))",
      remedy:
        "make uninstall, then make install PREFIX=/usr; or add «\(lines)» to "
        + "/etc/apparmor.d/local/usr.sbin.libvirtd, and as root: "
        + "apparmor_parser -r /etc/apparmor.d/usr.sbin.libvirtd")
  }

  private func checkSELinux(_ report: inout Report) {
    guard let policy = SELinux(),
      let check = SELinuxCheck(
        policy, isEmulated: domain.isEmulated, daemon: SELinuxCheck.daemonLabel())
    else { return }
    let helper = files.descriptions().first { $0.type == "gpu" }?.binary.map { FilePath($0) }
    check.add(SELinuxCheck.uses(helper: helper, hook: files.hookProgram), to: &report)
  }

  /// A process that has the card open may be DRM master.
  private func checkHolders(_ report: inout Report) {
    for card in cards {
      let device = resolvingLinks(card).string
      let holders = processNumbers().compactMap { pid -> String? in
        guard let process = try? RunningProcess(pid),
          (try? process.openFiles())?.contains(where: { $0.target == device }) == true
        else { return nil }
        return "\((try? process.name()).map(printable) ?? "?") (\(pid))"
      }
      if holders.isEmpty { continue }
      report.limited(
        "master", "\(card) is open in \(holders.joined(separator: ", "))",
        remedy: "a display server must not hold the card: end it, or give the helper a lease")
    }
  }
}
