import Foundation
import SystemPackage
import TestSupport
import Testing

/// The commands that need no libvirt, as their users run them.
@Suite final class CommandTests {
  private let directory: FilePath

  init() throws { directory = try makeTemporaryDirectory() }
  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  /// Runs a line of the shell in the directory, in which `udmabridge` is the tool.
  private func shell(_ line: String) throws -> (status: Int32, output: String) {
    try run(
      "/bin/bash", ["-c", "cd \(directory); PATH=\"\(builtPrograms):$PATH\"; \(line)"], withErrors: true)
  }

  private func write(_ name: String, _ text: String) throws {
    try text.write(toFile: directory.appending(name).string, atomically: false, encoding: .utf8)
  }

  @Test("enable and disable filter a definition, and one that needs no change stays byte for byte")
  func filter() throws {
    try write("plain", Definition().text)
    let (status, output) = try shell(
      """
      udmabridge libvirt enable --stdin --option backing=lent <plain >enabled &&
      udmabridge libvirt enable --stdin <enabled | cmp - enabled &&
      udmabridge libvirt disable --stdin <plain | cmp - plain &&
      udmabridge libvirt disable --stdin <enabled >disabled &&
      grep -c '/run/udmabridge/web?backing=lent' enabled && grep -c '<!-- kept -->' enabled disabled &&
      grep -c vhostuser disabled
      """)
    #expect(status == 1 && output == "1\nenabled:1\ndisabled:1\n0\n", "\(output)")
  }

  @Test(
    "a definition that cannot be enabled gives status 1, the reason and no output",
    arguments: [
      ("<domain type='kvm'/>", "no <name>"), ("<network/>", "not a domain"), ("<domain", "cannot be read"),
      ("<domain type='xen'><name>x</name></domain>", "type xen"),
      (
        "<domain type='kvm'><name>x</name><devices><graphics type='vnc'/></devices></domain>",
        "--remove-graphics"
      ),
    ])
  func refused(_ text: String, _ reason: String) throws {
    try write("bad", text)
    let (status, output) = try shell(
      "udmabridge libvirt enable --stdin <bad 2>error; s=$?; cat error >&2; exit $s")
    #expect(status == 1 && output.contains(reason), "\(output)")
    #expect(try shell("udmabridge libvirt enable --stdin <bad 2>/dev/null").output == "")
  }

  @Test("a definition without an end is refused at the limit")
  func endless() throws {
    let (status, output) = try shell("udmabridge libvirt enable --stdin </dev/zero")
    #expect(status == 1 && output.contains("but the limit is 16777216"), "\(output)")
  }

  @Test(
    "wrong command lines of libvirt have status 64",
    arguments: [
      "enable", "enable web --stdin", "enable --stdin --dry-run", "enable web --option fd=3",
      "enable web --option kms", "check",
    ])
  func usage(_ line: String) throws {
    #expect(try shell("udmabridge libvirt \(line)").status == 64)
  }

  @Test("check reports what a definition lacks, each with its remedy, and fails for it")
  func check() throws {
    try write("plain", Definition().text)
    let (status, output) = try shell("udmabridge libvirt check ./plain")
    #expect(status == 1)
    for word in ["FAILED   memory", "FAILED   access", "FAILED   video", "ok       graphics", "-> "] {
      #expect(output.contains(word), "\(output)")
    }
    let (_, json) = try shell("udmabridge libvirt enable --stdin <plain | udmabridge libvirt check --json -")
    let object = try JSONSerialization.jsonObject(with: Data(json.utf8)) as? [String: Any]
    let checks = try #require(object?["checks"] as? [[String: String]])
    for name in [
      "type", "machine", "encryption", "memory", "access", "video", "features", "parameters", "graphics",
    ] {
      #expect(checks.first { $0["name"] == name }?["status"] == "ok", "\(name)")
    }
  }

  @Test("check finds a card by a path with colons in it")
  func cardByPath() throws {
    let card = "/dev/dri/by-path/pci-ffff:00:02.0-card"
    try write("plain", Definition().text)
    let (_, json) = try shell(
      "udmabridge libvirt enable --stdin --option kms=\(card):HDMI-A-1 <plain | udmabridge libvirt check --json -"
    )
    let object = try JSONSerialization.jsonObject(with: Data(json.utf8)) as? [String: Any]
    let checks = try #require(object?["checks"] as? [[String: String]])
    let found = try #require(checks.first { $0["name"] == "card" })
    #expect(found.values.contains { $0.hasPrefix("\(card): ") }, "\(found)")
  }

  @Test("behind -- a domain's name may begin with a hyphen")
  func dashes() throws {
    let (status, output) = try shell("udmabridge libvirt enable --connect test+nowhere:///x -- -web")
    #expect(status == 1 && output.contains("libvirt"), "\(output)")
  }

  @Test(
    "a user's own libvirt is refused, with the way by hand",
    arguments: ["qemu:///session", "qemu+unix:///session?socket=/run/x", "qemu+ssh://host/session"])
  func session(_ uri: String) throws {
    for verb in ["check", "enable", "disable", "recover"] {
      let (status, output) = try shell("udmabridge libvirt \(verb) web --connect '\(uri)'")
      #expect(status == 1 && output.contains("enable --stdin --option control="), "\(output)")
    }
  }

  @Test("a connection that fails gives status 1 and one line")
  func connection() throws {
    let (status, output) = try shell("udmabridge libvirt enable web --connect test+nowhere:///x")
    #expect(status == 1 && output.split(separator: "\n").count == 1, "\(output)")
    #expect(output.contains("libvirt"), "\(output)")
  }

  @Test("onDefineDomain changes the machines that ask for it, and passes all others through")
  func kubeVirt() throws {
    let text = Definition().text
    try write("plain", text)
    func define(_ vmi: String) throws -> (status: Int32, output: String) {
      try write("vmi", vmi)
      return try shell("udmabridge onDefineDomain --vmi \"$(cat vmi)\" --domain \"$(cat plain)\"")
    }
    #expect(try define(#"{"metadata": {"annotations": {"other": "x"}}}"#) == (0, String(text.dropLast())))
    #expect(try define("{}") == (0, String(text.dropLast())))
    let (status, output) = try define(
      #"{"metadata": {"annotations": {"udmabridge": "kms=auto;cursor=off"}}}"#)
    #expect(status == 0 && output.contains("/run/udmabridge/web?kms=auto;cursor=off"), "\(output)")
    #expect(try define("no JSON").status == 1)
    #expect(try define(#"{"metadata": {"annotations": {"udmabridge": "fd=3"}}}"#).status == 1)
    var vnc = Definition()
    vnc.devices += "<graphics type='vnc'/>"
    try write("plain", vnc.text)
    let refused = try define(#"{"metadata": {"annotations": {"udmabridge": ""}}}"#)
    #expect(refused.status == 1 && refused.output.contains("autoattachGraphicsDevice: false"))
  }
}
