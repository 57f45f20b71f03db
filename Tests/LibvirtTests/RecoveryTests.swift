import DomainOptions
import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import Libvirt

/// Another card for a guest whose helper has died, on a QEMU and files of the test's own.
@Suite final class RecoveryTests {
  private let root: FilePath
  private let domain = Guest("recovered-\(getpid())")

  init() throws {
    root = try makeTemporaryDirectory()
    for directory in ["run", "etc/qemu/vhost-user", "etc/udmabridge"] {
      try FileManager.default.createDirectory(
        atPath: root.appending(directory).string, withIntermediateDirectories: true)
    }
    try #"{"type": "gpu", "binary": "/bin/helper"}"#.write(
      toFile: root.appending("etc/qemu/vhost-user/30-udmabridge-gpu.json").string, atomically: false,
      encoding: .utf8)
  }
  deinit { _ = try? FileManager.default.removeItem(atPath: root.string) }

  private func recover() throws {
    let domain = domain
    try Recovery(domain, root: root) { command throws(Errno) in try domain.start(command) }.run { _ in }
  }

  @Test("the card goes into the first port that is free and takes one while the guest runs")
  func ports() throws {
    domain.ports = [
      ("pci.1", Guest.Port(isFree: false)), ("pci.2", Guest.Port(hotplug: false)),
      ("pci.3", Guest.Port(refusal: "is occupied")), ("pci.4", Guest.Port()), ("pci.5", Guest.Port()),
    ]
    try recover()
    #expect(domain.card == "pci.4" && domain.hasConnection && domain.runs)
    domain.end()
    domain.ports = [("pci.1", Guest.Port(isFree: false)), ("pci.2", Guest.Port(hotplug: false))]
    #expect { try recover() } throws: { "\($0)".contains("no free PCI Express port") }
  }

  @Test("a recovery that fails leaves neither a helper nor a connection, and the next one works")
  func failure() throws {
    domain.ports = [("pci.1", Guest.Port(refusal: "no")), ("pci.2", Guest.Port(refusal: "never"))]
    #expect { try recover() } throws: {
      let text = "\($0)"
      return text.contains("pci.1: device_add: no;") && text.contains("pci.2: device_add: never")
    }
    #expect(!domain.hasConnection && !domain.runs && domain.card == nil)
    domain.ports.append(("pci.3", Guest.Port()))
    try recover()
    #expect(domain.card == "pci.3" && domain.runs)
    domain.end()
  }

  @Test("a connection that a killed recovery has left is removed first")
  func left() throws {
    domain.hasConnection = true
    try recover()
    #expect(domain.card == "pci.1")
    domain.end()
  }

  @Test("a recovery starts the presenter again, if the domain has one")
  func presenter() throws {
    try recover()
    #expect(domain.units == [])
    domain.end()
    try "OPTIONS=--kms auto\n".write(
      toFile: DomainPlaces(domain.name, root: root).present.string, atomically: false, encoding: .utf8)
    try recover()
    let unit = "udmabridge-present@\(Hook.unitName(domain.name)).service"
    #expect(domain.units == [["systemctl", "--no-block", "start", unit]])
    domain.end()
  }

  /// A process that calls itself the domain's helper.
  private func impostor(_ user: UInt32) throws -> Child {
    let call = "exec -a /x/vhost-user-udmabuf /usr/bin/python3 -c 'import time; time.sleep(600)' \"$0\""
    let command = ["-c", call, "--render-node=\(DomainReference(domain: domain.name))"]
    let child =
      user == geteuid()
      ? try Child("/bin/bash", command)
      : try Child(
        "/usr/bin/setpriv", ["--reuid=\(user)", "--regid=\(user)", "--clear-groups", "/bin/bash"] + command)
    try waitUntil("it calls itself so") {
      try RunningProcess(child.pid).arguments().first == "/x/vhost-user-udmabuf"
    }
    return child
  }

  @Test("a helper of QEMU's user that runs stops a recovery")
  func running() throws {
    let helper = try impostor(geteuid())
    #expect { try recover() } throws: { "\($0)".contains("its helper, process \(helper.pid), still runs") }
  }

  @Test(
    "another user's process that calls itself the helper does not stop a recovery",
    .enabled(if: geteuid() == 0, "needs root"))
  func impostor() throws {
    let other = try impostor(65534)
    try recover()
    #expect(domain.card == "pci.1" && other.isRunning)
    domain.end()
  }

  @Test("the presenter's unit starts again on failure, without a limit")
  func unit() throws {
    let unit = try readText(repository.appending("packaging/udmabridge-present@.service.in"))
    let start = try #require(unit.split(separator: "[Service]").first)
    #expect(start.contains("\nStartLimitIntervalSec=0\n") && unit.contains("\nRestart=on-failure\n"))
  }
}

/// A running domain of which QEMU has ports, and a helper that only listens.
private final class Guest: RecoverableDomain {
  struct Port {
    var isFree = true
    var hotplug = true
    /// What QEMU says when a card is plugged in.
    var refusal: String?
  }

  let name: String
  let isActive = true
  var ports = [("pci.1", Port())]
  var hasConnection = false
  /// Where the card is.
  var card: String?
  /// What systemd was asked for.
  private(set) var units: [[String]] = []
  private var helper: Child?
  private var listener: UnixSocket?

  init(_ name: String) { self.name = name }

  func running() throws(LibvirtError) -> DomainXML {
    let definition = Definition(
      name: name, backing: Definition.shared,
      cpu: "<seclabel model='dac'><label>+\(geteuid()):+\(getegid())</label></seclabel>",
      devices: Definition.own("\(DomainReference(domain: name))"))
    return try DomainXML(definition.text)
  }

  func start(_ command: [String]) throws(Errno) -> Int32 {
    if command[0] == "systemctl" {
      units.append(command)
      return 0
    }
    let option = command.first { $0.hasPrefix("--socket-path=") } ?? ""
    let socket = FilePath(String(option.drop { $0 != "=" }.dropFirst()))
    removeFile(socket)
    listener = try .listen(socket)
    guard let child = try? Child("/bin/sleep", ["600"]) else { throw .noMemory }
    helper = child
    return child.pid
  }

  var runs: Bool { helper?.isRunning == true }

  /// The helper dies, and the card with it.
  func end() { (helper, hasConnection, card) = (nil, false, nil) }

  func execute(_ command: String, _ arguments: [String: JSONValue]) throws(LibvirtError) -> Data {
    func text(_ name: String) -> String {
      if case .text(let text)? = arguments[name] { text } else { "" }
    }
    func fail(_ why: String) -> LibvirtError { .monitor(name, "\(command): \(why)") }
    func answer(_ result: String) -> Data { Data(#"{"return": \#(result)}"#.utf8) }
    func list(_ members: [(name: String, type: String)]) -> Data {
      let items = members.map { #"{"name": "\#($0.name)", "type": "\#($0.type)"}"# }
      return answer("[\(items.joined(separator: ", "))]")
    }
    // The last word of a path.
    let port = ports.first { $0.0 == text("path").split(separator: "/").last ?? "" }?.1
    switch command {
    case "device-list-properties": return answer("[]")
    case "qom-list":
      if let port { return list(port.isFree ? [] : [("child[0]", "link<e1000e>")]) }
      return list(
        ports.map { ($0.0, "child<pcie-root-port>") } + (card == nil ? [] : [("udmabridge", "child<x>")]))
    case "qom-get":
      guard let port, text("property") == "hotplug" else { throw fail("there is none") }
      return answer("\(port.hotplug)")
    case "chardev-remove":
      guard hasConnection, card == nil else { throw fail("there is none, or it is busy") }
      hasConnection = false
    case "chardev-add":
      guard !hasConnection else { throw fail("there is one already") }
      hasConnection = true
    case "device_add":
      guard let port = ports.first(where: { $0.0 == text("bus") })?.1, hasConnection, card == nil else {
        throw fail("it cannot be")
      }
      if let refusal = port.refusal { throw fail(refusal) }
      card = text("bus")
    case "device_del": card = nil
    default: throw fail("unknown")
    }
    return answer("{}")
  }
}
