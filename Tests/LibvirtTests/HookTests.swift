import DomainOptions
import Foundation
import Glibc
import Linux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import Libvirt

/// What the hook does at each step, on files of its own.
@Suite final class HookTests {
  private let root: FilePath
  private let started = Mutex<[[String]]>([])
  private lazy var hook = Hook(root: root) { [self] command in started.withLock { $0.append(command) } }

  init() throws {
    root = try makeTemporaryDirectory()
    try FileManager.default.createDirectory(
      atPath: root.appending("run").string, withIntermediateDirectories: true)
    try run(asUser: geteuid())
  }

  /// Says who runs QEMU.
  private func run(asUser user: UInt32) throws {
    let file = root.appending("etc/libvirt/qemu.conf")
    try FileManager.default.createDirectory(
      atPath: file.removingLastComponent().string, withIntermediateDirectories: true)
    try "user = \"+\(user)\"\ngroup = \"+\(getegid())\"\n".write(
      toFile: file.string, atomically: false, encoding: .utf8)
  }
  deinit { _ = try? FileManager.default.removeItem(atPath: root.string) }

  private func run(_ operation: String, _ text: String, name: String = "web") -> Hook.Outcome {
    hook.run(name, operation) { Array(text.utf8) }
  }

  private func hasDirectory(_ name: String = "web") -> Bool {
    (try? DomainPlaces(name, root: root)).map {
      FileManager.default.fileExists(atPath: $0.directory.string)
    } ?? false
  }

  /// Where the string of a domain leads to.
  private func device(_ name: String) -> String? {
    linkTarget(root.appending("run/udmabridge").appending(name))
  }

  private static let ready = Definition(
    backing: Definition.shared, devices: Definition.own("/run/udmabridge/web?"))

  @Test("an enabled domain has a directory from prepare to release")
  func life() throws {
    #expect(run("prepare", Self.ready.text) == Hook.Outcome())
    #expect(hasDirectory())
    #expect(device("web?") == "/dev/null", "there is no /dev/udmabuf")
    let control = try DomainPlaces("web", root: root).control
    _ = try FD.create(control)
    for operation in ["start", "started", "stopped"] {
      #expect(run(operation, Self.ready.text) == Hook.Outcome())
      #expect(hasDirectory())
    }
    #expect(run("release", Self.ready.text) == Hook.Outcome())
    #expect(directoryEntries(root.appending("run/udmabridge")).isEmpty)
    #expect(run("release", Self.ready.text) == Hook.Outcome())
  }

  @Test("the hook leaves a dead socket at the port, and the helper's takes its place")
  func port() throws {
    let domain = try DomainXML(Definition().text)
    try domain.enable(lending: .card)
    let port = try DomainPlaces("web", root: root).port
    #expect(run("prepare", domain.text) == Hook.Outcome())
    #expect(UnixSocket.isStale(port))
    let helper = try listenOn(port, mode: 0o600, neverMissing: true)
    #expect(!UnixSocket.isStale(port))
    #expect(run("reconnect", domain.text) == Hook.Outcome())
    _ = try UnixSocket.connect(port)
    _ = try helper.accept()
    #expect(directoryEntries(port.removingLastComponent()) == ["port"])
    // Somewhere else it is somebody else's.
    let other = domain.text.replacing("/run/udmabridge/web/port", with: "/run/other")
    #expect(run("release", domain.text) == Hook.Outcome())
    #expect(run("prepare", other) == Hook.Outcome())
    #expect(directoryEntries(port.removingLastComponent()).isEmpty)
  }

  @Test(
    "the hook lets all other domains pass, and makes nothing for them",
    arguments: [
      ("plain", Definition().text), ("nothing", ""), ("no XML", "<domain"),
      ("VNC", Definition().text + "<!-- udmabridge -->"),
      (
        "a back end of somebody else",
        Definition(devices: Definition.own("/dev/dri/renderD128")).text
      ),
    ])
  func others(_ name: String, _ text: String) {
    for operation in ["prepare", "start", "started", "stopped", "release", "reconnect", "attach", ""] {
      #expect(run(operation, text) == Hook.Outcome(), "\(operation)")
    }
    #expect(!hasDirectory())
  }

  @Test(
    "a start that could not work is refused with the reason and the remedy, in one line",
    arguments: [
      ("private memory", Definition(devices: Definition.own("/run/udmabridge/web?")), "memfd"),
      (
        "VNC",
        Definition(
          backing: Definition.shared,
          devices: Definition.own("/run/udmabridge/web?") + "<graphics type='vnc'/>"),
        "graphics of type vnc"
      ),
      (
        "a clone",
        Definition(name: "copy", backing: Definition.shared, devices: Definition.own("/run/udmabridge/web?")),
        "called web"
      ),
      (
        "an option that there is not",
        Definition(backing: Definition.shared, devices: Definition.own("/run/udmabridge/web?fd=3")),
        "no option fd"
      ),
    ])
  func refused(_ name: String, _ definition: Definition, _ reason: String) throws {
    let outcome = run("prepare", definition.text, name: definition.name)
    #expect(outcome.status == 1)
    let line = try #require(outcome.messages.first)
    #expect(outcome.messages.count == 1 && line.contains(reason), "\(line)")
    #expect(!line.contains("\n"))
    #expect(!hasDirectory(definition.name))
    // It runs already, and would be ended.
    #expect(run("reconnect", definition.text, name: definition.name).status == 0)
  }

  @Test("a domain's file with an unknown option refuses the start by its line")
  func file() throws {
    let options = try DomainPlaces("web", root: root).options
    try FileManager.default.createDirectory(
      atPath: options.removingLastComponent().string, withIntermediateDirectories: true)
    try "cursor = off\n".write(toFile: options.string, atomically: false, encoding: .utf8)
    #expect(run("prepare", Self.ready.text).status == 0)
    try "cursor = off\ncolour = red\n".write(toFile: options.string, atomically: false, encoding: .utf8)
    let outcome = run("prepare", Self.ready.text)
    #expect(outcome.status == 1 && outcome.messages[0].contains("line 2"), "\(outcome)")
  }

  @Test(
    "a domain's directory belongs to the domain's own user, or to who runs QEMU", .enabled(if: geteuid() == 0)
  )
  func owner() throws {
    let directory = try DomainPlaces("web", root: root).directory
    try run(asUser: 4242)
    #expect(run("prepare", Self.ready.text) == Hook.Outcome())
    #expect(try FileAccess(of: directory).user == 4242)
    let label = "<seclabel type='static' model='dac'><label>+4243:+4244</label></seclabel></domain>"
    let own = Self.ready.text.replacingOccurrences(of: "</domain>", with: label)
    #expect(run("prepare", own) == Hook.Outcome())
    let access = try FileAccess(of: directory)
    #expect((access.user, access.group) == (4243, 4244))
    // Else the helper could not see that nobody listens on the port.
    let lending = try DomainXML(own)
    try lending.enable(lending: .card)
    #expect(run("prepare", lending.text) == Hook.Outcome())
    #expect(try FileAccess(of: directory.appending("port")).user == 4243)
  }

  @Test("a domain's string leads to udmabuf's device, and another domain's stays")
  func device() throws {
    try FileManager.default.createDirectory(
      atPath: root.appending("dev/udmabuf").string, withIntermediateDirectories: true)
    let other = Definition(
      name: "web2", backing: Definition.shared, devices: Definition.own("/run/udmabridge/web2?kms=auto"))
    #expect(run("prepare", other.text, name: "web2") == Hook.Outcome())
    #expect(run("prepare", Self.ready.text) == Hook.Outcome())
    #expect(device("web?") == "/dev/udmabuf" && device("web2?kms=auto") == "/dev/udmabuf")
    #expect(run("release", "") == Hook.Outcome())
    #expect(device("web?") == nil && device("web2?kms=auto") == "/dev/udmabuf")
  }

  @Test("a definition that cannot be read stops no domain")
  func unreadable() {
    for operation in ["prepare", "reconnect"] {
      let outcome = hook.run("web", operation) { throw Errno.badFileDescriptor }
      #expect(outcome.status == 0 && outcome.messages.count == 1)
    }
  }

  @Test(
    "a domain's name makes its own directory and link alone, whatever is in it",
    arguments: [
      "..", "a/../../b", "--help", ";touch x", "a\nb", "\u{1b}[2J", String(repeating: "n", count: 80),
    ])
  func names(_ name: String) throws {
    // What no XML can hold, no domain is called.
    if name.contains("\u{1b}") || name.contains("\n") {
      #expect(run("release", "", name: name) == Hook.Outcome())
      return
    }
    let definition = Definition(
      name: name, backing: Definition.shared,
      devices: Definition.own("\(DomainReference(domain: name))"))
    #expect(run("prepare", definition.text, name: name) == Hook.Outcome())
    #expect(Set(directoryEntries(root)) == ["etc", "run"])
    #expect(directoryEntries(root.appending("run")) == ["udmabridge"])
    let string = DomainReference(domain: name).description.dropFirst("/run/udmabridge/".count)
    #expect(
      try Set(directoryEntries(root.appending("run/udmabridge"))) == [
        DomainPlaces(name).fileName, String(string),
      ])
    #expect(run("release", "", name: name) == Hook.Outcome())
    #expect(directoryEntries(root.appending("run/udmabridge")).isEmpty)
  }

  @Test("an enabled domain with a name that is too long does not start, and others pass")
  func longName() {
    let name = String(repeating: "n", count: 81)
    let ours = Definition(
      name: name, backing: Definition.shared, devices: Definition.own("/run/udmabridge/\(name)?"))
    let outcome = run("prepare", ours.text, name: name)
    #expect(outcome.status == 1 && outcome.messages[0].contains("domrename"), "\(outcome)")
    #expect(run("reconnect", ours.text, name: name).status == 0)
    for operation in ["prepare", "started", "stopped", "release", "reconnect"] {
      #expect(run(operation, Definition(name: name).text, name: name) == Hook.Outcome())
    }
    #expect(directoryEntries(root.appending("run/udmabridge")).isEmpty)
  }

  @Test("after a restart of libvirtd the directory is there, and so is what somebody put in it")
  func reconnect() throws {
    #expect(run("reconnect", Self.ready.text) == Hook.Outcome())
    #expect(hasDirectory())
    _ = try FD.create(DomainPlaces("web", root: root).control)
    #expect(run("reconnect", Self.ready.text) == Hook.Outcome())
    #expect(try FileManager.default.fileExists(atPath: DomainPlaces("web", root: root).control.string))
  }

  @Test("a presenter is started with the domain and after a restart, and stopped at its end")
  func presenter() throws {
    let file = try DomainPlaces("a-b c", root: root).present
    try FileManager.default.createDirectory(
      atPath: file.removingLastComponent().string, withIntermediateDirectories: true)
    try "OPTIONS=--kms auto\n".write(toFile: file.string, atomically: false, encoding: .utf8)
    let definition = Definition(
      name: "a-b c", backing: Definition.shared,
      devices: Definition.own("\(DomainReference(domain: "a-b c"))"))
    for operation in ["prepare", "started", "reconnect", "stopped", "release"] {
      #expect(run(operation, definition.text, name: "a-b c") == Hook.Outcome())
    }
    let unit = #"udmabridge-present@a\x2db\x2520c.service"#
    let expected = ["start", "start", "stop"].map { ["systemctl", "--no-block", $0, unit] }
    #expect(started.withLock { $0 } == expected)
  }

  @Test(
    "a unit's name is escaped as systemd does it",
    arguments: [
      ("web", "web"), (".x", #"\x2ex"#), ("a.b_c:9", "a.b_c:9"), ("a%20b", #"a\x2520b"#), ("ä", #"\xc3\xa4"#),
    ])
  func unitNames(_ text: String, _ name: String) { #expect(Hook.unitName(text) == name) }
}

/// The hook as libvirtd runs it: a process.
@Suite final class HookCommandTests {
  private let directory: FilePath

  init() throws { directory = try makeTemporaryDirectory() }
  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  private func shell(_ line: String) throws -> (status: Int32, output: String) {
    try TestSupport.run(
      "/bin/bash", ["-c", "cd \(directory); PATH=\"\(builtPrograms):$PATH\"; \(line)"], withErrors: true)
  }

  private func write(_ name: String, _ text: String) throws {
    try text.write(toFile: directory.appending(name).string, atomically: false, encoding: .utf8)
  }

  @Test("migrate and restore pass every byte through", arguments: ["migrate", "restore"])
  func through(_ operation: String) throws {
    try write("xml", Definition().text + "<!-- \u{fc} -->" + String(repeating: " ", count: 1 << 20))
    let (status, output) = try shell("udmabridge libvirt-hook web \(operation) begin - <xml | cmp - xml")
    #expect(status == 0 && output.isEmpty, "\(output)")
  }

  @Test("input that is too long is not passed on at all")
  func long() throws {
    let (status, output) = try shell(
      "head -c 20000000 /dev/zero | udmabridge libvirt-hook web restore begin -")
    #expect(status == 0 && output.isEmpty)
  }

  @Test(
    "whatever its words and descriptors are, the hook lets another domain go on, and is silent",
    arguments: [
      "web prepare begin - </dev/null", "--help prepare begin - </dev/null", "-- prepare begin - </dev/null",
      "'' prepare begin - </dev/null", "web '' '' '' </dev/null",
      "web prepare begin - a b c d e f </dev/null",
      "web reconnect begin - <&- >&- 2>&-", "web prepare begin - <&- >&- 2>&-", "web migrate begin - <&- >&-",
      "web prepare begin - <xml >&-", "\"$(printf '\\377\\376')\" release end - <xml",
    ])
  func odd(_ words: String) throws {
    try write("xml", Definition().text)
    let (status, output) = try shell("udmabridge libvirt-hook \(words)")
    #expect(status == 0 && output.isEmpty, "\(status) \(output)")
  }

  @Test("under the name of its link it is the hook, and a refusal is one line on standard error")
  func link() throws {
    var definition = Definition(devices: Definition.own("/run/udmabridge/web?"))
    definition.name = "web"
    try write("xml", definition.text)
    let (status, output) = try shell(
      "ln -s \(builtPrograms)/udmabridge udmabridge-libvirt-hook; ./udmabridge-libvirt-hook web prepare begin - <xml 2>&1 >out; s=$?; cat out; exit $s"
    )
    #expect(status == 1)
    #expect(
      output.hasPrefix("udmabridge: domain web: ") && output.split(separator: "\n").count == 1, "\(output)")
  }

  @Test("the hook without words has status 64, and with --help it shows its usage")
  func usage() throws {
    #expect(try shell("udmabridge libvirt-hook").status == 64)
    #expect(try shell("udmabridge libvirt-hook --help").output.contains("USAGE"))
  }
}
