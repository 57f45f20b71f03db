import Foundation
import Glibc
import Libvirt
import Linux
import Programs
import SystemPackage
import TestSupport
import Testing

@testable import udmabridge

/// `udmabridge doctor --mend` changes a host, and takes that back; here on files of its own.
@Suite final class MendTests {
  private let root: FilePath
  private var commands: [[String]] = []
  private var host: ChangedHost { ChangedHost(root: root) { [self] in commands.append($0) } }

  init() throws {
    root = try makeTemporaryDirectory()
    for directory in ["etc", "var/lib", "proc"] { try makePath(directory) }
  }
  deinit { _ = try? FileManager.default.removeItem(atPath: root.string) }

  private func makePath(_ path: String) throws {
    try FileManager.default.createDirectory(
      atPath: root.appending(path).string, withIntermediateDirectories: true)
  }

  private func write(_ path: String, _ text: String) throws {
    try makePath(FilePath(path).removingLastComponent().string)
    try writeText(root.appending(path), text)
  }

  /// Everything that is there: a text for each file, its mode, and nil for a directory.
  private func everything() throws -> [String: String] {
    let all = FileManager.default.enumerator(atPath: root.string)?.allObjects as? [String] ?? []
    return try Dictionary(
      uniqueKeysWithValues: all.map { path in
        let access = try FileAccess(of: root.appending(path))
        return (path, "\((try? readText(root.appending(path))) ?? "") \(access.mode) \(access.group)")
      })
  }

  /// Every Debian has it; kvm comes with udev.
  private let group = "daemon"

  private func needed(_ user: Account? = nil) -> [Remedy] {
    Remedies(host: host, user: user, usesCards: true, deviceGroup: group).needed
  }

  /// Mends, expects that nothing is left to be mended, takes it back, and expects everything to be what it was.
  private func thereAndBack(_ user: Account? = nil, meanwhile: () throws -> Void) throws {
    let before = try everything()
    var said: [String] = []
    let mending = Mending(host: host)
    #expect(try mending.perform(needed(user)) { said.append($0) }, "\(said)")
    try meanwhile()
    #expect(try mending.undo { said.append($0) }, "\(said)")
    #expect(try everything() == before)
    #expect(try mending.changes() == [])
    #expect(!said.contains { $0.hasPrefix("left") }, "\(said)")
  }

  private static let limit = "sys/module/udmabuf/parameters/list_limit"

  @Test("a low limit is raised now and at each boot, and comes back when that is undone")
  func limits() throws {
    #expect(needed() == [], "without udmabuf there is nothing to mend")
    try write(Self.limit, "1024")
    #expect(needed().map(\.name) == ["limits"])
    try thereAndBack {
      #expect(try readText(root.appending(Self.limit)) == "16384")
      let lines = try readText(root.appending("etc/tmpfiles.d/udmabridge-limits.conf")).split(separator: "\n")
      #expect(lines.last == "w- /\(Self.limit) - - - - 16384")
      #expect(needed() == [])
    }
  }

  @Test(
    "a limit that others set at each boot gets no file of ours, and a higher one stays",
    arguments: [
      ("etc/tmpfiles.d/a.conf", "w- /\(limit) - - - - 9000"),
      ("usr/local/lib/tmpfiles.d/a.conf", "# all\nw- /\(limit) - - - - 9000"),
      ("proc/cmdline", "quiet udmabuf.list_limit=9000\n"),
    ])
  func others(_ path: String, _ text: String) throws {
    try write(Self.limit, "1024\n")
    try write(path, text)
    #expect(needed().flatMap(\.changes) == [.value("/\(Self.limit)", new: "16384", old: "1024")])
    try write(Self.limit, "20000\n")
    #expect(needed() == [])
  }

  @Test("comments, and files that nothing reads, do not count as set at each boot")
  func comments() throws {
    try write(Self.limit, "1024")
    try write("etc/tmpfiles.d/a.conf", "  # w- /\(Self.limit) - - - - 16384\n")
    try write("etc/tmpfiles.d/a.conf.old", "w- /\(Self.limit) - - - - 16384\n")
    // The value, and a file in a directory that is there.
    #expect(needed().flatMap(\.changes).count == 2)
  }

  @Test("a limit that others set at each boot too stays when mending is undone")
  func installed() throws {
    try write(Self.limit, "1024")
    let mending = Mending(host: host)
    try mending.perform(needed()) { _ in }
    try write(
      "usr/local/lib/tmpfiles.d/udmabridge.conf",
      readText(repository.appending("packaging/udmabridge.tmpfiles")))
    var said: [String] = []
    #expect(try mending.undo { said.append($0) })
    #expect(try readText(root.appending(Self.limit)) == "16384")
    #expect(said.filter { $0.hasPrefix("left: ") }.count == 1, "\(said)")
    #expect(try mending.changes() == [])
  }

  @Test("undoing leaves out what a boot has undone")
  func boot() throws {
    try write(Self.limit, "1024")
    try makePath("sys/kernel/debug")
    try write("proc/sys/kernel/random/boot_id", "a\n")
    let mending = Mending(host: host)
    try mending.perform(needed()) { _ in }
    let all = try mending.changes()
    try write("proc/sys/kernel/random/boot_id", "b\n")
    #expect(try mending.changes() == all.filter { !$0.endsAtBoot })
    #expect(all.count == 4)
    #expect(try mending.undo { _ in })
    #expect(try readText(root.appending(Self.limit)) == "16384")
    #expect(commands.map(\.[0]) == ["mount"])
    #expect(!host.isThere("/etc/tmpfiles.d") && !host.isThere("/var/lib/udmabridge"))
  }

  static let settings: [(name: String, text: String, devices: [String])] = [
    (
      "nothing", "",
      ["/dev/null", "/dev/full", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/ptmx", "/dev/userfaultfd"]
    ),
    (
      "a comment", "# cgroup_device_acl:\n#cgroup_device_acl = [\n#    \"/dev/null\", \"/dev/full\",\n#]\n",
      ["/dev/null", "/dev/full"]
    ),
    ("one line", "user = \"root\"\ncgroup_device_acl = [ \"/dev/a\" ]\ngroup = \"root\"\n", ["/dev/a"]),
    ("no end of line", "cgroup_device_acl=[\"/dev/a\",'/dev/b']", ["/dev/a", "/dev/b"]),
    (
      "many lines",
      "cgroup_device_acl = [ # ]\n  \"/dev/a\",\n\n  # \"/dev/x\" ]\n  \"/dev/b\"\n]\nnamespaces = [ ]\n",
      ["/dev/a", "/dev/b"]
    ),
  ]

  @Test(
    "the device joins the list in libvirt's file, which comes back byte for byte",
    arguments: settings.indices)
  func cgroup(_ index: Int) throws {
    let (_, text, devices) = Self.settings[index]
    let file = root.appending("etc/libvirt/qemu.conf")
    try write("etc/libvirt/qemu.conf", text)
    try setMode(file, 0o600)
    let files = HostFiles(root: root)
    try #require(files.account() != nil, "root, at least, runs QEMU")
    let (user, namespaces) = (files.setting("user"), files.setting("namespaces"))
    try thereAndBack {
      #expect(files.allowedDevices() == devices + ["/dev/udmabuf"])
      let access = try FileAccess(of: file)
      #expect(access.mode == 0o600)
      #expect(files.setting("user") == user && files.setting("namespaces") == namespaces)
      #expect(needed() == [])
    }
  }

  @Test("libvirt is left alone if it guards no devices, allows this one or has the hook")
  func allowed() throws {
    for text in ["cgroup_controllers = [ \"cpu\" ]", "cgroup_device_acl = [ \"/dev/udmabuf\" ]"] {
      try write("etc/libvirt/qemu.conf", text)
      #expect(needed() == [])
    }
    try write("etc/libvirt/qemu.conf", "")
    #expect(needed().map(\.name) == ["cgroup"])
    try write("etc/libvirt/hooks/qemu.d/udmabridge-libvirt-hook", "")
    #expect(needed() == [])
  }

  @Test("a setting that was mended twice comes back as it was before both")
  func twice() throws {
    let text = "cgroup_device_acl = [ \"/dev/a\" ]\n"
    let once = MarkedText.set("cgroup_device_acl", ["/dev/a", "/dev/b"], in: text)
    let twice = MarkedText.set("cgroup_device_acl", ["/dev/c"], in: once)
    #expect(MarkedText.unset("cgroup_device_acl", in: twice) == text)
    #expect(MarkedText.unset("cgroup_device_acl", in: text) == text)
    try write("etc/libvirt/qemu.conf", text)
    let mending = Mending(host: host)
    for device in ["/dev/b", "/dev/c"] {
      let change = Change.setting("/etc/libvirt/qemu.conf", name: "cgroup_device_acl", values: [device])
      try mending.perform([Remedy(name: "x", what: "", changes: [change])]) { _ in }
      #expect(try mending.changes().count == 1)
      #expect(HostFiles(root: root).allowedDevices() == [device])
    }
    try mending.undo { _ in }
    #expect(try readText(root.appending("etc/libvirt/qemu.conf")) == text)
  }

  @Test("a settings file is replaced as a whole, behind a link too, and left if it cannot be read")
  func replaced() throws {
    let (file, link) = (root.appending("real"), root.appending("etc/libvirt/qemu.conf"))
    try makePath("etc/libvirt")
    try makeLink(link, to: file)
    try write("real", "# old\n")
    let old = try FD.open(file, writable: false)
    try thereAndBack {
      let text = try readText(file)
      #expect(text.hasSuffix("# old\n") && text.contains("/dev/udmabuf"))
      #expect(linkTarget(link) == file.string)
    }
    let bytes = try old.read(upTo: 100)
    #expect(bytes == Array("# old\n".utf8), "nothing was written into it")

    for bytes in [Array("# caf".utf8) + [0xe9, 0x0a], [UInt8](repeating: 0x0a, count: 1 << 20)] {
      try Data(bytes).write(to: URL(fileURLWithPath: file.string))
      var said: [String] = []
      #expect(try !Mending(host: host).perform(needed()) { said.append($0) })
      #expect(said.count == 1 && said[0].contains("by hand"), "\(said)")
      #expect(try Data(contentsOf: URL(fileURLWithPath: file.string)) == Data(bytes))
      #expect(try Mending(host: host).changes() == [])
    }
  }

  // Only root gives files to other groups.
  @Test(
    "a user joins the group of each device once, never root's, and leaves when that is undone",
    .enabled(if: geteuid() == 0, "needs root"))
  func groups() throws {
    let alice = Account(name: "alice", user: 4711, group: 4711)
    for (device, group, mode) in [
      ("udmabuf", 1, 0o660), ("kvm", 1, 0o660), ("dri/card0", 2, 0o660), ("dri/card1", 0, 0o660),
      ("dri/card2", 3, 0o600), ("dri/card3", 4711, 0o660), ("dri/card4", 4, 0o666),
    ] as [(String, UInt32, UInt32)] {
      try write("dev/\(device)", "")
      try setOwner(root.appending("dev/\(device)"), user: 0, group: group)
      try setMode(root.appending("dev/\(device)"), mode)
    }
    let names = [1, 2].map { groupName(of: $0) }
    #expect(needed() == [])
    #expect(needed(alice).flatMap(\.changes) == names.map { .member("alice", group: $0) })
    let caller = Remedies(host: host, user: alice).needed
    #expect(caller.flatMap(\.changes) == [.member("alice", group: names[0])], "no cards")
    #expect(needed(Account(name: "+4711", user: 4711, group: 4711)) == [], "it has no name")
    let nameless: UInt32 = 4_000_000_000
    try #require(groupName(of: nameless) == "\(nameless)")
    for device in ["dri/card2", "dri/card4"] {
      try setOwner(root.appending("dev/\(device)"), user: 0, group: nameless)
      try setMode(root.appending("dev/\(device)"), 0o660)
    }
    try thereAndBack(alice) { #expect(commands == names.map { ["gpasswd", "--add", "alice", $0] }) }
    #expect(Array(commands.dropFirst(2)) == names.reversed().map { ["gpasswd", "--delete", "alice", $0] })
    // By hand since.
    try Mending(host: host).perform(needed(alice)) { _ in }
    commands = []
    try write("etc/group", "\(names[0]):x:1:\n\(names[1]):x:2:bob,alice\n")
    #expect(try Mending(host: host).undo { _ in })
    #expect(commands == [["gpasswd", "--delete", "alice", names[1]]])
  }

  @Test(
    "a device that is root's alone gets a group, now and at each boot, until that is undone",
    .enabled(if: geteuid() == 0, "needs root"))
  func device() throws {
    let path = root.appending("dev/udmabuf")
    try write("dev/udmabuf", "")
    try setMode(path, 0o666)
    #expect(needed() == [], "it is everybody's")
    try setMode(path, 0o600)
    #expect(needed().map(\.name) == ["device"])
    // As systemd 257 has it: for who sits there, and no group.
    try write(
      "usr/lib/udev/rules.d/70-uaccess.rules",
      """
      SUBSYSTEM=="misc", KERNEL=="udmabuf", TAG+="uaccess"
      # KERNEL=="udmabuf", GROUP="kvm"

      """)
    try thereAndBack {
      let access = try FileAccess(of: path)
      #expect(access.mode == 0o660 && access.group == groupNumber(of: group))
      let rule = try readText(root.appending("etc/udev/rules.d/60-udmabridge-device.rules"))
      let installed = try readText(repository.appending("packaging/60-udmabridge.rules"))
      #expect(
        rule.split(separator: "\n").last.map { String($0).replacing("\"\(group)\"", with: "\"kvm\"") }
          == installed.split(separator: "\n").last.map(String.init))
      #expect(needed() == [])
    }
  }

  @Test("debugfs is mounted where it is not")
  func debugfs() throws {
    try makePath("sys/kernel/debug")
    #expect(needed().map(\.name) == ["debugfs"])
    let place = root.appending("sys/kernel/debug").string
    try thereAndBack { #expect(commands == [["mount", "-t", "debugfs", "debugfs", place]]) }
    #expect(commands.last == ["umount", place])
    try write("proc/mounts", "proc /proc proc rw 0 0\nnone /sys/kernel/debug debugfs rw 0 0\n")
    #expect(needed() == [])
  }

  @Test("a change that cannot be undone stays recorded until it can be or is gone")
  func kept() throws {
    try write(Self.limit, "1024")
    try makePath("sys/kernel/debug")
    let busy = ChangedHost(root: root) { if $0[0] == "umount" { throw Trouble("busy") } }
    let mending = Mending(host: busy)
    #expect(try mending.perform(needed()) { _ in })
    var said: [String] = []
    #expect(try !mending.undo { said.append($0) })
    #expect(said.filter { $0.hasPrefix("failed: ") && $0.hasSuffix("busy") }.count == 1, "\(said)")
    #expect(try mending.changes() == [.mount("debugfs", place: "/sys/kernel/debug")])
    #expect(try readText(root.appending(Self.limit)) == "1024", "the rest is taken back")
    try write("proc/mounts", "proc /proc proc rw 0 0\n")
    #expect(try mending.undo { said.append($0) })
    #expect(said.last == "left: /sys/kernel/debug is not mounted any more")
    #expect(try mending.changes() == [])
  }

  @Test("a change that others have changed since is left, reported and forgotten")
  func changedSince() throws {
    try write(Self.limit, "1024")
    let mending = Mending(host: host)
    try mending.perform(needed()) { _ in }
    try write(Self.limit, "20000")
    try write("etc/tmpfiles.d/udmabridge-limits.conf", "mine")
    var said: [String] = []
    try mending.undo { said.append($0) }
    #expect(
      said.filter { $0.hasPrefix("left: ") && $0.hasSuffix(" was changed since") }.count == 2, "\(said)")
    #expect(try readText(root.appending(Self.limit)) == "20000")
    #expect(try readText(root.appending("etc/tmpfiles.d/udmabridge-limits.conf")) == "mine")
    #expect(try mending.changes() == [])
  }

  @Test("a change that fails does not stop the others, which can be undone")
  func failure() throws {
    try write(Self.limit, "1024")
    try makePath("sys/kernel/debug")
    let broken = ChangedHost(root: root) { _ in throw Trouble("no") }
    let mending = Mending(host: broken)
    var said: [String] = []
    #expect(try !mending.perform(needed().reversed()) { said.append($0) })
    #expect(said.map { $0.prefix(12) } == ["failed: debu", "done: limits"])
    let done = try mending.changes()
    // The limit, a directory and a file.
    #expect(done.count == 3, "\(done)")
    try mending.undo { _ in }
    #expect(try readText(root.appending(Self.limit)) == "1024")
  }

  @Test(
    "wrong command lines of doctor have status 64",
    arguments: ["--mend --unmend", "--yes", "--user root", "--mend --json", "--mend --user no-such-user"])
  func usage(_ options: String) throws {
    #expect(try Tool.shell("udmabridge doctor \(options)").status == 64)
  }

  @Test("doctor mends the test host, at its next boot too, and undoes that", .testHost)
  func testHost() throws {
    func fileText(_ path: FilePath) -> String? { try? readText(path) }
    func isMember() throws -> Bool { try Tool.shell("id -nG nobody").output.contains("video") }
    // The device is everybody's there.
    let device: FilePath = "/dev/udmabuf"
    let old = try FileAccess(of: device)
    try setOwner(device, user: 0, group: #require(groupNumber(of: "video")))
    try setMode(device, 0o660)
    defer {
      try? setOwner(device, user: old.user, group: old.group)
      try? setMode(device, old.mode)
    }
    let limit = FilePath("/" + Self.limit)
    let (entry, settings) = (
      FilePath("/etc/tmpfiles.d/udmabridge-limits.conf"), FilePath("/etc/libvirt/qemu.conf")
    )
    let before = fileText(settings)
    try TestHost.withUdmabufLimits(items: 1024) {
      let refused = try Tool.shell("echo n | udmabridge doctor --mend --user nobody")
      #expect(
        refused.status == 0 && refused.output.hasSuffix("make these changes? y or n\nnothing was changed\n"),
        "\(refused)")
      #expect(fileText(limit) == "1024\n" && fileText(entry) == nil)

      let (status, output) = try Tool.shell("echo y | udmabridge doctor --mend --user nobody")
      #expect(status == 0 && output.contains("done: limits") && output.contains("done: groups"), "\(output)")
      #expect(try fileText(limit) == "16384\n" && isMember())
      try TestHost.write("1024", to: limit)
      #expect(try Tool.shell("systemd-tmpfiles --create \(entry)").status == 0)
      #expect(fileText(limit) == "16384\n")
      #expect(
        try Tool.shell("udmabridge doctor --mend --yes --user nobody").output == "nothing needs mending\n")

      let undone = try Tool.shell("udmabridge doctor --unmend --yes")
      #expect(undone.status == 0 && !undone.output.contains("left: "), "\(undone.output)")
      #expect(try fileText(limit) == "1024\n" && fileText(entry) == nil && !isMember())
      #expect(fileText(settings) == before)
      #expect(try Tool.shell("udmabridge doctor --unmend").output.hasPrefix("nothing that "))
    }
  }

  @Test("make install raises a lower limit at once, and leaves a higher one", .testHost)
  func install() throws {
    func install(_ verb: String) throws -> String {
      let (status, output) = try run(
        "/usr/bin/env",
        [
          "DESTDIR=", "PREFIX=\(root)/prefix", "BUILD=\(builtPrograms)",
          repository.appending("packaging/install").string, verb,
        ], withErrors: true)
      #expect(status == 0, "\(output)")
      return output
    }
    defer { _ = try? install("uninstall") }
    let limit = FilePath("/" + Self.limit)
    try TestHost.withUdmabufLimits(items: 1024) {
      let output = try install("install")
      #expect(output.contains("udmabuf lends up to 16384 ranges at once, 1024 until now"), "\(output)")
      #expect(try readText(limit) == "16384\n")
    }
    try TestHost.withUdmabufLimits(items: 20000) {
      let output = try install("install")
      #expect(output.contains("udmabuf lends up to 20000 ranges at once"), "\(output)")
      #expect(try readText(limit) == "20000\n")
    }
    #expect(try readText("/etc/tmpfiles.d/udmabridge.conf").hasSuffix("list_limit - - - - 16384\n"))
  }
}
