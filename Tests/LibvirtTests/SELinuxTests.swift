import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import udmabridge

/// `libvirt check` where SELinux is. The policy is made up, since no machine of the tests has one.
@Suite struct SELinuxTests {
  /// As Fedora's, in the parts that count here.
  struct Policy: SecurityPolicy {
    var isEnforcing = true
    var domainLabels = ["system_u:system_r:svirt_t:s0", "system_u:system_r:svirt_tcg_t:s0"]
    var labels: [String: String] = [:]
    var expected: [String: String] = [:]

    static let rules: [String: Set<String>] = [
      "svirt_t qemu_exec_t file": ["entrypoint", "execute", "read", "map"],
      "svirt_t bin_t file": ["execute", "read", "map"],
      "svirt_t qemu_var_run_t dir": ["search", "write", "add_name"],
      "svirt_t var_run_t dir": ["search"],
      "svirt_t dma_device_t chr_file": ["open", "read", "write", "ioctl"],
      "svirt_tcg_t dma_device_t chr_file": [],
      "virtqemud_t qemu_exec_t file": ["execute", "execute_no_trans"],
      "virtqemud_t bin_t file": ["execute", "execute_no_trans"],
      "virtqemud_t qemu_var_run_t dir": ["search", "write", "add_name"],
      "virtqemud_t var_run_t dir": ["search", "write", "add_name"],
    ]

    private func full(_ type: String?) -> String? { type.map { "system_u:object_r:\($0):s0" } }
    func label(of path: FilePath) -> String? { full(labels[path.string]) }
    func expectedLabel(of path: FilePath) -> String? { full(expected[path.string]) }
    func allows(_ subject: String, to permission: String, on object: String, ofKind kind: String) -> Bool? {
      let types = [subject, object].map(SELinuxCheck.type).joined(separator: " ")
      return Self.rules["\(types) \(kind)", default: []].contains(permission)
    }
  }

  private static let (helper, hook) = (
    FilePath("/usr/local/bin/vhost-user-udmabuf"), FilePath("/usr/local/bin/udmabridge")
  )
  private static let good = [
    helper.string: "qemu_exec_t", hook.string: "bin_t", "/run/udmabridge": "qemu_var_run_t",
    "/dev/udmabuf": "dma_device_t",
  ]

  private func checks(_ policy: Policy, isEmulated: Bool = false) throws -> [Check] {
    let check = try #require(
      SELinuxCheck(policy, isEmulated: isEmulated, daemon: "system_u:system_r:virtqemud_t:s0"))
    var report = Report()
    check.add(SELinuxCheck.uses(helper: Self.helper, hook: Self.hook), to: &report)
    return report.checks
  }

  @Test("files with the policy's labels are ok, and missing files are not reported")
  func good() throws {
    #expect(try checks(Policy(labels: Self.good)).map(\.status) == [.ok, .ok, .ok, .ok])
    #expect(try checks(Policy()) == [])
  }

  @Test(
    "a wrong label is reported with what is refused to whom, and the command that mends it",
    arguments: [
      (helper.string, "bin_t", "svirt_t: entrypoint", "semanage fcontext -a -t qemu_exec_t '\(helper)'"),
      (
        "/run/udmabridge", "var_run_t", "svirt_t: write, svirt_t: add_name",
        "semanage fcontext -a -t qemu_var_run_t '/run/udmabridge(/.*)?'"
      ),
      ("/dev/udmabuf", "device_t", "svirt_t: open", "semanage fcontext -a -t dma_device_t '/dev/udmabuf'"),
      (hook.string, "user_home_t", "virtqemud_t: execute", "semanage fcontext -a -t bin_t '\(hook)'"),
    ])
  func bad(_ path: String, _ type: String, _ refused: String, _ remedy: String) throws {
    var policy = Policy(labels: Self.good)
    policy.labels[path] = type
    let found = try #require(try checks(policy).first { $0.status == .failed })
    #expect(try checks(policy).filter { $0.status != .ok }.count == 1)
    #expect(found.found.contains("\(path) is \(type)") && found.found.contains(refused), "\(found)")
    #expect(found.remedy == "as root: \(remedy) && restorecon -R -v \(path)")
    // Where the policy knows better than the file does.
    policy.expected[path] = Self.good[path]
    #expect(try checks(policy).first { $0.status == .failed }?.remedy == "as root: restorecon -R -v \(path)")
    policy.isEnforcing = false
    #expect(try checks(policy).map(\.status).filter { $0 != .ok } == [.limited])
  }

  @Test("a domain without KVM is checked with its own label")
  func emulated() throws {
    let failed = try checks(Policy(labels: Self.good), isEmulated: true).filter { $0.status == .failed }
    #expect(failed.allSatisfy { $0.found.contains("svirt_tcg_t: ") } && failed.count == 3, "\(failed)")
    #expect(SELinuxCheck(Policy(domainLabels: []), isEmulated: true, daemon: nil) == nil)
  }

  @Test(
    "libselinux reads expected labels from a policy's file, and knows no others",
    .enabled(if: SELinux(contexts: "/dev/null") != nil, "there is no libselinux"))
  func library() throws {
    let directory = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
    let (program, other) = (directory.appending("bin"), directory.appending("sub"))
    let contexts = directory.appending("contexts")
    try writeText(program, "")
    try makeDirectory(other, mode: 0o755)
    try writeText(
      contexts,
      """
      \(directory)/[^/]* -- system_u:object_r:bin_t:s0
      \(directory)/[^/]* -d system_u:object_r:var_run_t:s0

      """)
    let policy = try #require(SELinux(contexts: contexts))
    #expect(policy.expectedLabel(of: program) == "system_u:object_r:bin_t:s0")
    #expect(policy.expectedLabel(of: other) == "system_u:object_r:var_run_t:s0")
    for path in [directory.appending("none"), "/dev/null"] { #expect(policy.expectedLabel(of: path) == nil) }
    #expect(policy.label(of: directory.appending("none")) == nil)
    #expect(policy.allows("a:b:c:s0", to: "fly", on: "a:b:c:s0", ofKind: "no_such_class") == nil)
  }
}
