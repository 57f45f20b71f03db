import Fixtures
import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

/// A libvirtd of its own, as `qemu/libvirtd` runs it, with what `make install` makes.
final class LibvirtHost {
  /// For files that both sides see.
  let directory: FilePath
  /// The guest's kernel and its initial file system, where QEMU may read them.
  private let image: String
  /// The QEMU of domains that do not ask for another one.
  private let emulator: FilePath
  private let child: Child
  private let inside: Int32

  /// This machine's, or Debian stable's.
  enum Release: CaseIterable, Sendable { case own, stable }

  private static let installed: FilePath = "/usr/bin/qemu-system-x86_64"

  /// The newest QEMU, as `qemu/setup` fetches it.
  static var newest: FilePath { cache.appending("qemu/newest/qemu-system-x86_64") }

  static let cache: FilePath = {
    let variables = ProcessInfo.processInfo.environment
    let path =
      variables["UDMABRIDGE_CACHE"] ?? variables["XDG_CACHE_HOME"].map { $0 + "/udmabridge" }
      ?? NSHomeDirectory() + "/.cache/udmabridge"
    return FilePath(path)
  }()

  /// The guest's kernel and its initial file system, beside each other.
  /// - Parameter kernel: a role of `qemu/setup`.
  private static func image(_ kernel: String = "oldest-udmabuf") -> String? {
    let (status, output) =
      (try? TestSupport.run(repository.appending("qemu/guest/build"), ["--kernel", kernel, "--where"]))
      ?? (1, "")
    let path = output.trimmingCharacters(in: .newlines)
    return status == 0 && FileManager.default.fileExists(atPath: path + "/initrd") ? path : nil
  }

  /// Root, libvirtd, and what `qemu/setup --all` fetches.
  static let isPossible =
    geteuid() == 0 && image() != nil
    && ["/usr/sbin/libvirtd", "/usr/bin/virsh", newest.string, "\(cache)/stable/usr/sbin/libvirtd"]
      .allSatisfy {
        FileManager.default.isExecutableFile(atPath: $0)
      }

  /// - Parameters:
  ///   - release: whose libvirtd and QEMU it is; elsewhere than in the test host, domains of the machine's own are
  ///     emulated by the QEMU that `qemu/setup` fetched.
  ///   - user: who runs QEMU.
  ///   - lender: guests have the newest kernel, and the agent.
  init(_ release: Release = .own, user: String = "root", lender: Bool = false) throws {
    guard let image = Self.image(lender ? "newest" : "oldest-udmabuf") else {
      throw TroubleInTest("no guest image")
    }
    emulator =
      TestHost.isActive || release != .own
      ? Self.installed : Self.cache.appending("qemu/stable/qemu-system-x86_64")
    self.image = user == "root" && !lender ? image : "/var/guest"
    let directory = try makeTemporaryDirectory()
    self.directory = directory
    let build = TestHost.isActive ? repository.appending(".build/release") : builtPrograms
    let script = """
      echo $$ >\(directory)/pid.new; mv \(directory)/pid.new \(directory)/pid
      while [ ! -e \(directory)/end ] && kill -0 \(getpid()) 2>/dev/null; do sleep 0.1; done
      """
    let child = try Child(
      "/bin/sh",
      [
        "-c", "BUILD=\(build) exec \"$@\" >\(directory)/log 2>&1", "sh",
        repository.appending("qemu/libvirtd").string, "--user", user,
      ] + (release == .own ? [] : ["--stable"]) + ["--", "/bin/sh", "-c", script])
    self.child = child
    var number: Int32?
    try waitUntil("libvirtd is there", times: 2) {
      number = (try? readText(directory.appending("pid"))).flatMap { Int32($0.filter(\.isNumber)) }
      return number != nil || !child.isRunning
    }
    guard let number else { throw TroubleInTest((try? readText(directory.appending("log"))) ?? "no log") }
    inside = number
    if self.image != image { try run("mkdir -m 755 /var/guest; cp \(image)/* /var/guest/") }
    if lender {
      // Not every release that it sees has cpio.
      let agent = repository.appending(".build/release/udmabridge-guest")
      let script = """
        cd \(directory); install -D -m 755 \(agent) bin/udmabridge-guest
        printf 'bin\\nbin/udmabridge-guest\\n' | cpio --quiet -o -H newc -R 0:0 -F agent.cpio
        """
      let (status, output) = try TestSupport.run("/bin/sh", ["-ec", script], withErrors: true)
      guard status == 0 else { throw TroubleInTest(output) }
      try run("cat agent.cpio >>/var/guest/initrd")
    }
  }

  deinit {
    _ = try? FD.create(directory.appending("end"))
    child.wait()
    _ = try? FileManager.default.removeItem(atPath: directory.string)
  }

  /// Runs a line of the shell beside libvirtd.
  /// - Returns: the exit status, and standard output and error together.
  @discardableResult
  func attempt(_ line: String) throws -> (status: Int32, output: String) {
    let setting = "export LIBVIRT_DEFAULT_URI=qemu:///system PATH=/usr/local/bin:$PATH; cd \(directory); "
    let (status, output) = try TestSupport.run(
      "/usr/bin/nsenter", ["--mount=/proc/\(inside)/ns/mnt", "/bin/bash", "-c", setting + line],
      withErrors: true)
    // What virsh has to say where there is no polkit.
    let lines = output.split(separator: "\n", omittingEmptySubsequences: false)
    return (
      status, lines.filter { !$0.hasPrefix("Authorization not available") }.joined(separator: "\n")
    )
  }

  /// The same, which must end well.
  @discardableResult
  func run(_ line: String) throws -> String {
    // There a test takes minutes, and who says nothing for long is given up.
    if TestHost.isActive { printError("+ \(line)") }
    let (status, output) = try attempt(line)
    guard status == 0 else {
      let logs = try attempt("tail -n 20 /var/log/libvirt/qemu/*.log /var/log/libvirt/libvirtd.log").output
      throw TroubleInTest("status \(status) of «\(line)»: \(output)\n\(logs)")
    }
    return output
  }

  /// Restarts libvirtd.
  func restart() throws { try run("\(repository)/qemu/libvirtd --restart") }

  /// Defines a domain with the tests' guest.
  /// - Parameter devices: beside its first screen and the channel of its shell.
  func define(_ name: String, devices: String = "", emulator: FilePath? = nil) throws {
    let type = TestHost.isActive ? "kvm" : "qemu"
    let text = """
      <domain type='\(type)'>
        <name>\(name)</name>
        <memory unit='MiB'>512</memory>
        <vcpu>1</vcpu>
        <os>
          <type arch='x86_64' machine='q35'>hvm</type>
          <kernel>\(image)/vmlinuz</kernel>
          <initrd>\(image)/initrd</initrd>
          <cmdline>console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off random.trust_cpu=on drm_kms_helper.fbdev_emulation=0 drm_client_lib.active=</cmdline>
        </os>
        <features><acpi/></features>
        <cpu mode='\(TestHost.isActive ? "host-passthrough" : "maximum")'/>
        <devices>
          <emulator>\(emulator ?? self.emulator)</emulator>
          <controller type='usb' model='none'/>
          <channel type='unix'>
            <source mode='bind' path='/run/\(name).shell'/>
            <target type='virtio' name='shell'/>
          </channel>
          \(devices)
          <video><model type='vga' vram='16384'/></video>
          <memballoon model='none'/>
        </devices>
      </domain>
      """
    try text.write(
      toFile: directory.appending("\(name).xml").string, atomically: false, encoding: .utf8)
    try run("virsh -q define --validate \(name).xml")
  }

  /// A domain's definition, in an order of lines that does not depend on libvirt's of controllers.
  func definition(_ name: String) throws -> [Substring] {
    try run("virsh dumpxml --inactive \(name)").split(separator: "\n").sorted()
  }

  /// Runs a command in a domain's guest.
  @discardableResult
  func guest(_ name: String, _ command: String) throws -> String {
    try run("\(repository)/qemu/in-guest --timeout \(Patience.limit.seconds) /run/\(name).shell '\(command)'")
  }

  /// The helpers that run for domains.
  func helpers() -> [Int32] {
    let own = linkTarget(FilePath("/proc/\(inside)/ns/mnt"))
    return processNumbers().filter { pid in
      guard linkTarget(FilePath("/proc/\(pid)/ns/mnt")) == own, let process = try? RunningProcess(pid),
        let words = try? process.arguments()
      else { return false }
      return words.first == "/usr/local/bin/vhost-user-udmabuf"
    }
  }
}
