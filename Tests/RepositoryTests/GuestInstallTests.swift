import Foundation
import SystemPackage
import TestSupport
import Testing

/// What `make install-guest` does with a program that is built.
@Suite final class GuestInstallTests {
  private let directory: FilePath
  private let root: FilePath

  init() throws {
    directory = try makeTemporaryDirectory()
    root = directory.appending("root")
  }

  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  private func install(_ verb: String, prefix: String) throws -> (status: Int32, output: String) {
    try run(
      "/usr/bin/env",
      [
        "DESTDIR=\(root)", "PREFIX=\(prefix)", "BUILD=\(builtPrograms)",
        repository.appending("packaging/install").string, verb,
      ], withErrors: true)
  }

  private func files() -> [String] {
    let all = FileManager.default.enumerator(atPath: root.string)
    return (all?.allObjects as? [String] ?? []).sorted()
  }

  private func text(_ path: String) throws -> String {
    try String(contentsOfFile: root.appending(path).string, encoding: .utf8)
  }

  /// The lines of a unit that say something, in their order.
  private func settings(_ unit: String) -> [(name: String, value: String)] {
    unit.split(separator: "\n").filter { !$0.hasPrefix("#") }.compactMap { line in
      line.firstIndex(of: "=").map { (String(line[..<$0]), String(line[line.index(after: $0)...])) }
    }
  }

  private func value(_ name: String, in unit: String) throws -> String {
    let values = settings(unit).filter { $0.name == name }.map(\.value)
    #expect(values.count == 1, "\(name)")
    return try #require(values.first)
  }

  @Test(
    "the agent is installed apart from the host's programs, and removed to the last file",
    arguments: ["/usr", "/opt/x"])
  func roundTrip(_ prefix: String) throws {
    let (status, output) = try install("install-guest", prefix: prefix)
    #expect(status == 0 && output.isEmpty, "\(output)")
    let once = files()
    #expect(try install("install-guest", prefix: prefix).status == 0)
    #expect(files() == once)
    let own = String(prefix.dropFirst())
    #expect(try run(root.appending("\(own)/bin/udmabridge-guest"), ["--version"]).status == 0)
    #expect(
      once.filter { $0.contains("/bin/") } == ["\(own)/bin/udmabridge-guest"], "no program of the host's")
    for completion in [
      "bash-completion/completions/udmabridge-guest", "zsh/site-functions/_udmabridge-guest",
      "fish/vendor_completions.d/udmabridge-guest.fish",
    ] {
      #expect(try text("\(own)/share/\(completion)").contains("max-connections"), "\(completion)")
    }
    #expect(
      try text("\(own)/share/varlink/io.udmabridge.Lender.varlink").contains("interface io.udmabridge.Lender")
    )

    // The host's programs are another installation, in the same prefix.
    #expect(try install("install", prefix: prefix).status == 0)
    #expect(try install("uninstall", prefix: prefix).status == 0)
    #expect(files() == once)
    #expect(try install("uninstall-guest", prefix: prefix).status == 0)
    #expect(files() == [])
    // Nor does the order matter.
    for verb in ["install", "install-guest", "uninstall", "uninstall-guest"] {
      #expect(try install(verb, prefix: prefix).status == 0)
    }
    #expect(files() == [])
    let (again, why) = try install("uninstall-guest", prefix: prefix)
    #expect(again == 1 && why.contains("nothing is installed"), "\(why)")
  }

  @Test("unit, rule and user are about the port, socket and program that there are")
  func agreement() throws {
    #expect(try install("install-guest", prefix: "/usr").status == 0)
    let unit = try text("usr/lib/systemd/system/udmabridge-guest.service")
    let help = try run(root.appending("usr/bin/udmabridge-guest"), ["serve", "--help"]).output
      .split(whereSeparator: \.isWhitespace).joined(separator: " ")
    let port = try #require(help.firstMatch(of: #/By default that of the port ([a-z0-9.]+)\. /#)).1
    let socket = try #require(help.firstMatch(of: #/\(default: (/[^)]+)\)/#)).1
    #expect(try socket == "/run/\(value("RuntimeDirectory", in: unit))/lender")
    #expect(try value("ConditionPathExists", in: unit) == "/dev/virtio-ports/\(port)")

    // It names nothing else.
    let paths = settings(unit).flatMap {
      $0.value.matches(of: #/(?:^|[ '"=])(/[^ '"]+)/#).map { String($0.1) }
    }
    #expect(Set(paths) == ["/bin/sh", "/usr/bin/udmabridge-guest", "/dev/virtio-ports/\(port)"])

    let user = try value("User", in: unit)
    let rules = try text("usr/lib/udev/rules.d/60-udmabridge-guest.rules")
      .split(separator: "\n").filter { !$0.hasPrefix("#") }
    #expect(rules.count == 1)
    let words = Set(try #require(rules.first).split(separator: ",").map { $0.drop { $0 == " " } })
    for word in [
      "SUBSYSTEM==\"virtio-ports\"", "ATTR{name}==\"\(port)\"", "OWNER=\"\(user)\"", "MODE=\"0600\"",
      "TAG+=\"systemd\"", "ENV{SYSTEMD_WANTS}+=\"udmabridge-guest.service\"",
    ] {
      #expect(words.contains(word[...]), "\(word)")
    }
    let users = try text("usr/lib/sysusers.d/udmabridge-guest.conf").split(separator: "\n")
    #expect(users.contains { $0.hasPrefix("u \(user) ") } && users.contains { $0 == "m \(user) render" })
  }

  @Test("the unit's command line serves, and the socket is for its own group")
  func command() throws {
    #expect(try install("install-guest", prefix: "/usr").status == 0)
    let unit = try text("usr/lib/systemd/system/udmabridge-guest.service")
    let line = try value("ExecStart", in: unit)
    // As systemd reads it, and with places of this test's.
    let script = try #require(line.wholeMatch(of: #/\/bin\/sh -c '([^']*)'/#)).1
      .replacing("$$", with: "$").replacing("/usr/bin/", with: "\(root)/usr/bin/")
    let socket = directory.appending("lender")
    let agent = try Child("/bin/sh", ["-c", "\(script) --socket \(socket)"])
    try waitUntil("the agent serves") {
      if let status = agent.poll() { throw TroubleInTest("it has ended with status \(status)") }
      return try run("/usr/bin/stat", ["-c", "%a", socket.string], withErrors: true).output == "660\n"
    }
    let group = try run("/usr/bin/id", ["-g"]).output
    #expect(
      try run("/usr/bin/stat", ["-c", "%a %F %g", socket.string]).output == "660 socket \(group)")
    agent.signal(SIGTERM)
    #expect(agent.wait() == 0)
  }
}
