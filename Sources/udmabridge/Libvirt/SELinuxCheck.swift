import DomainOptions
import Libvirt
import Linux
import SystemPackage
import Udmabuf

/// Checks whether SELinux, as on Fedora, lets libvirt's daemon and its children use what they need here.
struct SELinuxCheck {
  let policy: any SecurityPolicy
  /// The label of the helper's process.
  let child: String
  /// The label of libvirt's daemon; nil while it does not run.
  let daemon: String?

  /// - Parameter isEmulated: the domain has no KVM.
  init?(_ policy: any SecurityPolicy, isEmulated: Bool, daemon: String?) {
    let labels = policy.domainLabels
    guard let child = isEmulated ? labels.last : labels.first else { return nil }
    (self.policy, self.child, self.daemon) = (policy, child, daemon)
  }

  /// A file, and the accesses that libvirt's processes need.
  struct Use {
    let path: FilePath
    /// The kernel's name for a file of this kind.
    let kind: String
    let byChild: [String]
    var byDaemon: [String] = []
    /// A type for which Fedora's policy allows these accesses.
    let type: String
    /// The path as `semanage` writes it, if all files of a directory are meant.
    var pattern: String?
  }

  static func uses(helper: FilePath?, hook: FilePath?) -> [Use] {
    let programs = ["execute", "execute_no_trans"]
    let helper = helper.map {
      Use(
        path: $0, kind: "file", byChild: ["entrypoint", "execute", "read", "map"], byDaemon: programs,
        type: "qemu_exec_t")
    }
    let hook = hook.map {
      Use(path: $0, kind: "file", byChild: [], byDaemon: programs, type: "bin_t")
    }
    let runtime = DomainPlaces.runtimeDirectory
    return [helper, hook].compactMap(\.self) + [
      Use(
        path: runtime, kind: "dir", byChild: ["search", "write", "add_name"],
        byDaemon: ["search", "write", "add_name"], type: "qemu_var_run_t", pattern: "\(runtime)(/.*)?"),
      Use(
        path: UdmabufDevice.path, kind: "chr_file", byChild: ["open", "read", "write", "ioctl"],
        type: "dma_device_t"),
    ]
  }

  func add(_ uses: [Use], to report: inout Report) {
    for use in uses {
      guard let label = policy.label(of: use.path) else { continue }
      let refused = [(child, use.byChild), (daemon, use.byDaemon)].flatMap { subject, permissions in
        subject.map { subject in
          permissions.filter { policy.allows(subject, to: $0, on: label, ofKind: use.kind) == false }.map {
            "\(Self.type(of: subject)): \($0)"
          }
        } ?? []
      }
      if refused.isEmpty {
        report.ok("SELinux", "\(use.path) is \(Self.type(of: label)), which libvirt's processes may use")
        continue
      }
      let found =
        "\(use.path) is \(Self.type(of: label)), with which the policy does not allow "
        + refused.joined(separator: ", ")
      if policy.isEnforcing {
        report.failed("SELinux", found, remedy: remedy(use, label))
      } else {
        report.limited(
          "SELinux", found + "; SELinux is permissive now, and lets it pass", remedy: remedy(use, label))
      }
    }
  }

  private func remedy(_ use: Use, _ label: String) -> String {
    let restore = "restorecon -R -v \(use.path)"
    let expected = policy.expectedLabel(of: use.path).map(Self.type)
    if let expected, expected != Self.type(of: label), expected == use.type { return "as root: \(restore)" }
    return "as root: semanage fcontext -a -t \(use.type) '\(use.pattern ?? use.path.string)' && \(restore)"
  }

  /// `svirt_t` of `system_u:system_r:svirt_t:s0`.
  static func type(of label: String) -> String {
    let parts = label.split(separator: ":")
    return parts.count > 2 ? String(parts[2]) : label
  }

  /// The label of libvirt's daemon for QEMU, while it runs.
  static func daemonLabel() -> String? {
    for pid in processNumbers() {
      guard let process = try? RunningProcess(pid), let name = try? process.name(),
        ["virtqemud", "libvirtd"].contains(name), let label = try? process.text("attr/current")
      else { continue }
      return String(label.prefix { $0 != "\0" && $0 != "\n" })
    }
    return nil
  }
}
