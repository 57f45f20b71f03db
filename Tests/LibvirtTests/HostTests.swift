import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import Libvirt

/// What is read of a host's files.
@Suite final class HostTests {
  private let root: FilePath

  init() throws { root = try makeTemporaryDirectory() }
  deinit { _ = try? FileManager.default.removeItem(atPath: root.string) }

  private func write(_ path: String, _ text: String) throws {
    let file = root.appending(path)
    try FileManager.default.createDirectory(
      atPath: file.removingLastComponent().string, withIntermediateDirectories: true)
    try text.write(toFile: file.string, atomically: false, encoding: .utf8)
  }

  @Test("the descriptions of back ends are read in the order in which libvirt takes them")
  func descriptions() throws {
    let gpu = #"{"description": "x", "type": "gpu", "binary": "/bin/x", "tags": []}"#
    try write("usr/share/qemu/vhost-user/50-b.json", gpu)
    try write("usr/share/qemu/vhost-user/40-off.json", gpu)
    try write("etc/qemu/vhost-user/40-off.json", "")
    try write("etc/qemu/vhost-user/60-c.json", "{")
    try write("etc/qemu/vhost-user/README", "none")
    try write("usr/share/qemu/vhost-user/30-a.json", #"{"type": "fs", "binary": "/bin/y"}"#)
    let found = HostFiles(root: root).descriptions()
    #expect(found.map { $0.file.lastComponent?.string } == ["30-a.json", "50-b.json", "60-c.json"])
    #expect(found.map(\.type) == ["fs", "gpu", nil])
    #expect(found.map(\.binary) == ["/bin/y", "/bin/x", nil])
  }

  @Test(
    "libvirt of another prefix reads its files there",
    arguments: [
      ("etc/NIXOS", ["var/lib/qemu/vhost-user"], "var/lib/libvirt"),
      (
        "usr/local/sbin/virtqemud",
        ["usr/local/share/qemu/vhost-user", "usr/local/etc/qemu/vhost-user"], "usr/local/etc/libvirt"
      ),
    ])
  func prefixes(_ mark: String, _ descriptions: [String], _ configuration: String) throws {
    let gpu = #"{"type": "gpu", "binary": "/bin/x"}"#
    for directory in descriptions + ["usr/share/qemu/vhost-user", "etc/qemu/vhost-user"] {
      try write("\(directory)/\(directory.replacing("/", with: "-")).json", gpu)
    }
    for directory in [configuration, "etc/libvirt"] {
      try write("\(directory)/qemu.conf", "user = \"\(directory)\"")
      try write("\(directory)/hooks/qemu.d/README", "")
    }
    let files = HostFiles(root: root)
    #expect(files.setting("user") == ["etc/libvirt"])
    try write(mark, "")
    #expect(files.setting("user") == [configuration])
    #expect(
      files.descriptions().map { $0.file.removingLastComponent() }
        == descriptions.sorted().map { root.appending($0) })
    #expect(files.descriptionDirectories == descriptions.map { FilePath("/" + $0) })
    #expect(!files.hasHook)
    try write("\(configuration)/hooks/qemu.d/udmabridge", "")
    #expect(files.hasHook)
    // The distribution's own counts more than what was built beside it.
    try write("usr/sbin/libvirtd", "")
    #expect(files.setting("user") == [mark == "etc/NIXOS" ? configuration : "etc/libvirt"])
  }

  @Test("texts, numbers, lists and comments of qemu.conf are read")
  func settings() throws {
    try write(
      "etc/libvirt/qemu.conf",
      """
      # user = "nobody"
      user="+0"  # comment
      dynamic_ownership = 0
      cgroup_device_acl = [
          "/dev/null", "/dev/full",
          # "/dev/zero",
          "/dev/udmabuf"
      ]
      namespaces = [ ]
      """)
    let files = HostFiles(root: root)
    #expect(files.setting("user") == ["+0"])
    #expect(files.setting("dynamic_ownership") == ["0"])
    #expect(files.setting("cgroup_device_acl") == ["/dev/null", "/dev/full", "/dev/udmabuf"])
    #expect(files.setting("namespaces") == [])
    #expect(files.setting("group") == nil)
    #expect(files.account()?.user == 0)
    #expect(files.allowedDevices() == ["/dev/null", "/dev/full", "/dev/udmabuf"])
    try write("etc/libvirt/qemu.conf", "cgroup_controllers = [ \"cpu\" ]\n")
    #expect(files.allowedDevices() == nil)
    try write("etc/libvirt/qemu.conf", "")
    #expect(files.allowedDevices() == [])
  }

  @Test(
    "AppArmor's profile and its mode decide what libvirtd may start, and the hook is found"
  )
  func others() throws {
    let files = HostFiles(root: root)
    let program: FilePath = "/usr/local/bin/vhost-user-udmabuf"
    #expect(!files.isRefusedByAppArmor(program) && !files.hasHook && files.hookProgram == nil)
    try write("sys/module/apparmor/parameters/enabled", "Y\n")
    #expect(!files.isRefusedByAppArmor(program), "there is no profile")
    try write("etc/apparmor.d/usr.sbin.libvirtd", "profile libvirtd { /usr/bin/* PUx, }")
    #expect(files.isRefusedByAppArmor(program) && !files.isRefusedByAppArmor("/usr/bin/vhost-user-udmabuf"))
    try write("sys/kernel/security/apparmor/profiles", "dnsmasq (enforce)\nlibvirtd (complain)\n")
    #expect(!files.isRefusedByAppArmor(program))
    try write("sys/kernel/security/apparmor/profiles", "libvirtd (enforce)\n")
    #expect(files.isRefusedByAppArmor(program))
    try write("etc/apparmor.d/local/usr.sbin.libvirtd", "\(program) PUx,")
    #expect(!files.isRefusedByAppArmor(program))
    try write("etc/libvirt/hooks/qemu.d/README", "")
    let link = root.appending("etc/libvirt/hooks/qemu.d/udmabridge-libvirt-hook")
    try FileManager.default.createSymbolicLink(
      atPath: link.string, withDestinationPath: "/usr/local/bin/udmabridge")
    #expect(files.hasHook && files.hookProgram == "/usr/local/bin/udmabridge")
  }
}
