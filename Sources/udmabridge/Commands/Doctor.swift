import ArgumentParser
import KMS
import Linux
import SystemPackage
import Udmabuf

/// Looks at this host: can it lend a guest's pages, and show them?
struct Doctor: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Check whether this host can lend guests' memory, and say how to mend what is missing.",
    discussion: """
      The exit status is 1 if a check failed.

      --mend changes the host's settings, as root: udmabuf's limit now and at each boot, /dev/udmabuf for the group kvm, \
      the groups of a user and of libvirt's QEMU, cgroup_device_acl in libvirt's qemu.conf, and debugfs. It shows all \
      changes first, and asks. It notes them in /var/lib/udmabridge/mended.json; --unmend reads that file and takes them \
      back. The exit status is 1 if a change failed; the other changes are made all the same.
      """)

  @Flag(help: "Mend this host, after showing the changes and asking.")
  var mend = false

  @Flag(help: "Take back all that --mend has done.")
  var unmend = false

  @Flag(help: "Make the changes without asking.")
  var yes = false

  @Option(
    help: ArgumentHelp(
      "The user who is to use the devices and the cards. By default the user who called sudo or doas, for the devices alone.",
      valueName: "name"))
  var user: String?

  @OptionGroup var output: OutputOptions

  func validate() throws {
    if mend && unmend { throw ValidationError("give either --mend or --unmend") }
    if !mend && !unmend && yes { throw ValidationError("--yes belongs to --mend or --unmend") }
    if !mend && user != nil { throw ValidationError("--user belongs to --mend") }
    if mend || unmend, output.json { throw ValidationError("--json is not for --mend and --unmend") }
    if let user, Account(user) == nil { throw ValidationError("--user: there is no user \(user)") }
  }

  func run() throws {
    if mend || unmend { return try change() }
    var report = Report()
    let device = checkDevice(&report)
    checkLimits(&report)
    checkMemfds(&report)
    checkHugePages(&report)
    checkKVM(&report)
    checkQEMU(&report)
    checkCards(&report, device)
    checkLooking(&report)
    checkKernelList(&report)
    checkGuests(&report)
    try output.print(report, report.text)
    if report.failed { throw ExitCode(1) }
  }

  // MARK: udmabuf

  /// Opens the device and makes a dma-buf of one page.
  private func checkDevice(_ report: inout Report) -> UdmabufDevice? {
    let name = "udmabuf"
    do throws(Errno) {
      let device = try UdmabufDevice()
      let memfd = try Memfd.create(name: "udmabridge-doctor", size: systemPageSize, seals: [.shrink])
      do throws(UdmabufError) {
        _ = try device.create(MemfdRange(memfd: memfd, offset: 0, length: systemPageSize))
        report.ok(name, "\(UdmabufDevice.path) makes dma-bufs")
        return device
      } catch {
        report.failed(name, "\(UdmabufDevice.path) opens, but \(error)", remedy: "look into the kernel's log")
      }
    } catch .noSuchFileOrDirectory {
      report.failed(
        name, "there is no \(UdmabufDevice.path)",
        remedy: "boot a kernel with CONFIG_UDMABUF (Debian 12: linux-image-amd64 from bookworm-backports)")
    } catch .permissionDenied, .notPermitted {
      report.failed(
        name, "\(UdmabufDevice.path) may not be opened by this user",
        remedy:
          "sudo udmabridge doctor --mend, or join the group that owns it (kvm on most systems); and log in anew"
      )
    } catch {
      report.failed(name, "\(UdmabufDevice.path): \(error)", remedy: "look into the kernel's log")
    }
    return nil
  }

  private func checkLimits(_ report: inout Report) {
    guard (try? FD.open(UdmabufLimits.directory.appending("list_limit"), writable: false)) != nil else {
      return
    }
    let limits = UdmabufLimits.current()
    let sizes: [(width: UInt64, height: UInt64)] = [
      (640, 480), (800, 600), (1024, 768), (1280, 720), (1366, 768), (1920, 1080), (2560, 1440), (3840, 2160),
    ]
    func largest(_ bytes: UInt64) -> String {
      sizes.last { $0.width * $0.height * 4 <= bytes }.map { "\($0.width)x\($0.height)" } ?? "none"
    }
    let scattered = min(limits.bytes, limits.items.multipliedReportingOverflow(by: systemPageSize).0)
    let found =
      "list_limit \(limits.items), size_limit_mb \(limits.bytes >> 20): the largest frame of scattered pages is "
      + "\(largest(scattered)), of joined pages \(largest(limits.bytes))"
    if scattered < 1920 * 1080 * 4 {
      report.limited(
        "limits", found,
        remedy:
          "as root: udmabridge doctor --mend; or echo 16384 > \(UdmabufLimits.directory)/list_limit (or "
          + "udmabuf.list_limit=16384 on the kernel's command line); or huge pages in the guest: "
          + "echo always > /sys/kernel/mm/transparent_hugepage/shmem_enabled")
    } else {
      report.ok("limits", found)
    }
  }

  private func checkHugePages(_ report: inout Report) {
    let directory: FilePath = "/sys/kernel/mm/hugepages"
    let sizes = directoryEntries(directory).compactMap { name -> String? in
      guard name.hasPrefix("hugepages-"), let size = UInt64(name.dropFirst(10).dropLast(2)) else {
        return nil
      }
      let free = (try? readText(directory.appending(name).appending("free_hugepages"))) ?? "?"
      return "\(size >= 1024 ? "\(size >> 10) MiB" : "\(size) KiB") (\(free.prefix { $0.isNumber }) free)"
    }
    report.ok("huge pages", sizes.isEmpty ? "none" : sizes.joined(separator: ", "))
  }

  // MARK: Virtual machines

  private func checkKVM(_ report: inout Report) {
    do throws(Errno) {
      _ = try FD.open("/dev/kvm", writable: true)
      report.ok("KVM", "/dev/kvm opens")
    } catch .noSuchFileOrDirectory {
      report.failed(
        "KVM", "there is no /dev/kvm",
        remedy:
          "enable virtualisation in the firmware and load kvm_intel or kvm_amd; QEMU also runs without, slowly"
      )
    } catch {
      report.failed(
        "KVM", "/dev/kvm may not be opened: \(error)",
        remedy: "sudo udmabridge doctor --mend, or join the group kvm; and log in anew")
    }
  }

  private func checkQEMU(_ report: inout Report) {
    guard let version = try? runShell("qemu-system-x86_64 --version 2>/dev/null"), version.status == 0 else {
      return report.failed("QEMU", "there is no qemu-system-x86_64", remedy: "apt install qemu-system-x86")
    }
    let number =
      version.output.split(separator: "\n").first?.replacing("QEMU emulator version ", with: "") ?? "?"
    let help = (try? runShell("qemu-system-x86_64 -device help 2>/dev/null"))?.output ?? ""
    let devices = ["vhost-user-gpu-pci", "vhost-user-vga", "vhost-user-test-device-pci"].filter {
      help.contains("\"\($0)\"")
    }
    if devices.contains("vhost-user-gpu-pci") {
      report.ok("QEMU", "\(number); devices: \(devices.joined(separator: ", "))")
    } else {
      report.failed(
        "QEMU", "\(number) has no vhost-user-gpu-pci",
        remedy:
          "install the package with its display modules (Debian: qemu-system-gui, qemu-system-modules-opengl)"
      )
    }
  }

  // MARK: Screens

  private func checkCards(_ report: inout Report, _ device: UdmabufDevice?) {
    let probes = KMSProbe.all(device)
    if probes.isEmpty {
      report.failed(
        "KMS", "there is no /dev/dri/card*",
        remedy: "load the graphics card's driver; without a card frames can go to other consumers only")
    }
    for probe in probes {
      let name = "KMS \(probe.path.lastComponent?.string ?? probe.path.string)"
      if let error = probe.error {
        report.failed(
          name, error,
          remedy:
            "sudo udmabridge doctor --mend, or join the group that owns \(probe.path) (video on most systems)"
        )
        continue
      }
      let screens = probe.connectors.filter(\.isConnected).map(\.name)
      let found = """
        \(probe.driver), \(probe.isAtomic ? "atomic" : "legacy"), screens: \
        \(screens.isEmpty ? "none" : screens.joined(separator: ", ")); a udmabuf of \(probe.triedSize): \
        import \(probe.importsUdmabuf), framebuffer \(probe.framebuffer), mode \(probe.commit)
        """
      switch (probe.importsUdmabuf, probe.framebuffer, probe.commit) {
      case (.yes, .yes, .yes): report.ok(name, found)
      case (.no, _, _):
        report.limited(
          name, found, remedy: "this driver cannot show lent pages; a newer kernel's may, or another card")
      case (_, .no, _):
        report.limited(
          name, found, remedy: "this driver cannot make a framebuffer of lent pages; use another card")
      default:
        report.limited(
          name, found, remedy: "end what holds the card (a display server), or run this on a console")
      }
    }
  }
}
