import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing

/// What `make install` does with programs that are built.
@Suite final class InstallTests {
  private let directory: FilePath

  init() throws { directory = try makeTemporaryDirectory() }
  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  private func install(
    _ verb: String, prefix: String, _ variables: String...
  ) throws -> (status: Int32, output: String) {
    try run(
      "/usr/bin/env",
      variables + [
        "DESTDIR=\(directory)/root", "PREFIX=\(prefix)", "BUILD=\(builtPrograms)",
        repository.appending("packaging/install").string, verb,
      ], withErrors: true)
  }

  private func files() -> [String] {
    let all = FileManager.default.enumerator(atPath: directory.appending("root").string)
    return (all?.allObjects as? [String] ?? []).sorted()
  }

  private func text(_ path: String) throws -> String {
    try readText(directory.appending("root").appending(path))
  }

  @Test(
    "an installation leads to its own files, and is removed to the last one",
    arguments: ["/usr", "/opt/x"])
  func roundTrip(_ prefix: String) throws {
    let (status, output) = try install("install", prefix: prefix)
    #expect(status == 0 && output.isEmpty, "\(output)")
    let once = files()
    #expect(try install("install", prefix: prefix).status == 0)
    #expect(files() == once)

    let descriptions = prefix == "/usr" ? "usr/share/qemu/vhost-user" : "etc/qemu/vhost-user"
    let json = try JSONSerialization.jsonObject(
      with: Data(text("\(descriptions)/30-udmabridge-gpu.json").utf8))
    let binary = try #require((json as? [String: Any])?["binary"] as? String)
    #expect(binary == "\(prefix)/bin/vhost-user-udmabuf")
    let place = directory.appending("root").appending(String(binary.dropFirst()))
    let (ended, capabilities) = try run(place, ["--print-capabilities"])
    #expect(ended == 0 && capabilities.contains("\"gpu\""))
    #expect(
      linkTarget(directory.appending("root/etc/libvirt/hooks/qemu.d/udmabridge-libvirt-hook"))
        == "\(prefix)/bin/udmabridge")
    // systemd looks in no other prefix.
    let system = prefix == "/usr" ? "usr/lib" : "etc"
    let unit = "\(system)/systemd/system/udmabridge-present@.service"
    #expect(try text("\(system)/tmpfiles.d/udmabridge.conf").contains("/list_limit - - - - 16384\n"))
    #expect(try text("\(system)/udev/rules.d/60-udmabridge.rules").contains("GROUP=\"kvm\""))
    #expect(try text(unit).contains("\nExecStart=\(prefix)/bin/udmabridge present "))
    let metrics = try text("\(system)/systemd/system/udmabridge-metrics.service")
    #expect(
      metrics.contains(
        "\nExecStart=\(prefix)/bin/udmabridge metrics --output /run/udmabridge-metrics/udmabridge.prom\n"))
    // What writes there is a user of its own without privileges, and the timer starts it.
    #expect(metrics.contains("\nUser=udmabridge-metrics\n") && metrics.contains("\nCapabilityBoundingSet=\n"))
    #expect(metrics.contains("\nRuntimeDirectory=udmabridge-metrics\n"))
    #expect(try text("\(system)/sysusers.d/udmabridge-metrics.conf").contains("\nu udmabridge-metrics - "))
    #expect(
      try text("\(system)/systemd/system/udmabridge-metrics.timer").contains("\nWantedBy=timers.target\n"))

    for interface in ["Display", "Buffers"] {
      let definition = "io.udmabridge.\(interface).varlink"
      #expect(
        try text(String(prefix.dropFirst()) + "/share/varlink/" + definition)
          == readText(repository.appending("docs").appending(definition)))
    }

    // Somebody else's.
    try "x".write(
      toFile: directory.appending("root/etc/udmabridge/web.conf").string, atomically: false, encoding: .utf8)
    #expect(try install("uninstall", prefix: prefix).status == 0)
    #expect(files() == ["etc", "etc/udmabridge", "etc/udmabridge/web.conf"])
    let (again, why) = try install("uninstall", prefix: prefix)
    #expect(again == 1 && why.contains("nothing is installed"))
  }

  @Test("description and hook can go where another libvirt looks, and are removed too")
  func places() throws {
    let places = ["DESCRIPTIONS=/var/lib/qemu/vhost-user", "HOOKS=/var/lib/libvirt/hooks/qemu.d"]
    #expect(try install("install", prefix: "/opt/x", places[0], places[1]).status == 0)
    #expect(try text("var/lib/qemu/vhost-user/30-udmabridge-gpu.json").contains("/opt/x/bin/"))
    let hook = directory.appending("root/var/lib/libvirt/hooks/qemu.d/udmabridge-libvirt-hook")
    #expect(linkTarget(hook) == "/opt/x/bin/udmabridge")
    #expect(!files().contains { $0.hasPrefix("etc/qemu") || $0.hasPrefix("etc/libvirt") })
    let (status, output) = try install("install", prefix: "/opt/y", places[0], places[1])
    #expect(status == 1 && output.contains("belongs to PREFIX=/opt/x"), "\(output)")
    #expect(try install("uninstall", prefix: "/opt/x").status == 0)
    #expect(files() == [])
  }

  @Test(
    "a second prefix is refused until the first is uninstalled",
    arguments: [("/opt/x", "/usr"), ("/usr", "/opt/x")])
  func second(_ first: String, _ second: String) throws {
    #expect(try install("install", prefix: first).status == 0)
    let once = files()
    let (status, output) = try install("install", prefix: second)
    #expect(status == 1 && output.contains("make uninstall PREFIX=\(first) first"), "\(output)")
    #expect(files() == once)
    #expect(try install("uninstall", prefix: first).status == 0)
    #expect(try install("install", prefix: second).status == 0)
  }

  @Test("uninstalling leaves a hook and a description of another installation")
  func others() throws {
    #expect(try install("install", prefix: "/opt/x").status == 0)
    let hook = directory.appending("root/etc/libvirt/hooks/qemu.d/udmabridge-libvirt-hook")
    removeFile(hook)
    try makeLink(hook, to: "/usr/bin/udmabridge")
    let description = "etc/qemu/vhost-user/30-udmabridge-gpu.json"
    try text(description).replacing("/opt/x", with: "/opt/y").write(
      toFile: directory.appending("root").appending(description).string, atomically: false, encoding: .utf8)
    #expect(try install("uninstall", prefix: "/opt/x").status == 0)
    #expect(linkTarget(hook) == "/usr/bin/udmabridge")
    #expect(files().contains(description) && !files().contains { $0.hasPrefix("opt") })
  }

  // As it would be on a host with SELinux: the tools are made up, and write down how they are called.
  @Test("label gives an installation its SELinux labels, and an installation in a DESTDIR has none")
  func labels() throws {
    let (tools, log) = (directory.appending("tools"), directory.appending("log"))
    try makeDirectory(tools, mode: 0o755)
    for tool in ["selinuxenabled", "semanage", "restorecon"] {
      try writeText(tools.appending(tool), "#!/bin/sh\necho \(tool) \"$@\" >>\(log)\n")
      try setMode(tools.appending(tool), 0o755)
    }
    let path = "PATH=\(tools):/usr/bin:/bin"
    #expect(try install("install", prefix: "/opt/x", path).status == 0)
    #expect((try? readText(log)) == nil)
    // The installation of before, on a host whose root is that of DESTDIR.
    let prefix = directory.appending("root/opt/x")
    let manifest = try text("opt/x/share/udmabridge/manifest")
    func label(_ prefix: FilePath) throws -> (status: Int32, output: String) {
      try run(
        "/usr/bin/env",
        [path, "DESTDIR=", "PREFIX=\(prefix)", repository.appending("packaging/install").string, "label"],
        withErrors: true)
    }
    let (status, output) = try label(prefix)
    #expect(status == 0 && output.isEmpty, "\(output)")
    let calls = try readText(log).split(separator: "\n").map(String.init)
    #expect(calls.contains("semanage fcontext -a -t qemu_exec_t \(prefix)/bin/vhost-user-udmabuf"))
    #expect(calls.contains("semanage fcontext -a -t qemu_var_run_t /run/udmabridge(/.*)?"))
    let restored = try #require(calls.last)
    #expect(restored.hasPrefix("restorecon -F -R "))
    for file in manifest.split(separator: "\n") where !file.hasSuffix("/") {
      #expect(restored.split(separator: " ").contains(file), "\(file)")
    }
    let (without, why) = try label(directory.appending("root/opt/y"))
    #expect(without == 1 && why.contains("nothing is installed there"), "\(why)")
    // A label that is refused is told, and ends nothing.
    try writeText(tools.appending("restorecon"), "#!/bin/sh\nexit 255\n")
    let (failed, told) = try label(prefix)
    #expect(failed == 0 && told.contains("restorecon failed"), "\(told)")
  }
}
