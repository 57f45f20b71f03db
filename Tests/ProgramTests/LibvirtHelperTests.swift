import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing

/// The helper as libvirt starts it.
@Suite final class LibvirtHelperTests {
  private let program = builtPrograms.appending("vhost-user-udmabuf")
  private let directory: FilePath

  init() throws { directory = try makeTemporaryDirectory() }
  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  /// Starts it with one end of a connection, and lends the other.
  private func start(
    _ arguments: [String], _ body: (borrowing UnixSocket, Child) throws -> Void
  ) throws -> (status: Int32, output: String) {
    var result: (Int32, String)?
    try UnixSocket.pair { ours, theirs in
      let number = theirs.fd.withRaw { $0 }
      let (child, output) = try startReading(
        program, ["--fd=29"] + arguments, withErrors: true, descriptors: [29: number])
      _ = consume theirs
      try body(ours, child)
      _ = consume ours
      result = (child.wait(), try output.readToEnd())
    }
    return try #require(result)
  }

  @Test("a domain's string chooses options, its control socket among them; its log names the domain")
  func domain() throws {
    let control = directory.appending("control")
    let reference =
      "/run/udmabridge/my%20web?control=\(control.string.replacingOccurrences(of: "/", with: "%2F"));control-mode=666;resolution=800x600;log-level=info"
    let (status, output) = try start(["--virgl", "--render-node=\(reference)"]) { connection, _ in
      try greet(connection)
      #expect(try FileAccess(of: control).mode & 0o777 == 0o666)
      let (_, text) = try run(
        builtPrograms.appending("udmabridge"), ["watch", "--help"], withErrors: true)
      #expect(text.contains("--domain"))
      let stats = try run(
        builtPrograms.appending("udmabridge"), ["stats", "--control", control.string], withErrors: true)
      #expect(stats.status == 0 && stats.output.contains("device.flushes"), "\(stats.output)")
    }
    #expect(status == 0)
    #expect(
      output.contains("vhost-user-udmabuf: info: domain my web: the guest's frames are offered"), "\(output)")
  }

  @Test("without the hook's directory it serves the guest all the same, and says why nobody else sees it")
  func noDirectory() throws {
    let name = "no-such-domain-\(UInt32.random(in: 0...(.max)))"
    let (status, output) = try start(["--render-node=/run/udmabridge/\(name)?"]) { connection, _ in
      try greet(connection)
    }
    #expect(status == 0)
    #expect(output.contains("there is no /run/udmabridge/\(name), which the hook makes"), "\(output)")
  }

  @Test("a render node has no meaning, and is told")
  func renderNode() throws {
    let (status, output) = try start(["--virgl", "--render-node=/dev/dri/renderD128"]) { connection, _ in
      try greet(connection)
    }
    #expect(status == 0 && output.contains("/dev/dri/renderD128 is not used"), "\(output)")
  }

  @Test(
    "a string that is wrong ends it, with the reason in one line",
    arguments: [
      ("/run/udmabridge/", "no name"), ("/run/udmabridge/a?kms=/dev/dri/card0", "%2F"),
      ("/run/udmabridge/a?fd=3", "no option fd"),
      ("/run/udmabridge/a?backing=never", "backing"), ("/run/udmabridge/a?kms=nonsense", "nonsense"),
    ])
  func wrong(_ reference: String, _ reason: String) throws {
    let (status, output) = try start(["--render-node=\(reference)"]) { _, child in child.wait() }
    #expect(status == 1)
    let lines = output.split(separator: "\n").filter { !$0.contains("which the hook makes") }
    #expect(lines.count == 1 && lines[0].contains(reason), "\(output)")
  }

  @Test(
    "the tool says what a domain that has no control socket may lack",
    arguments: ["stats", "watch", "snapshot x"])
  func tool(_ command: String) throws {
    let words = command.split(separator: " ").map(String.init) + ["--domain", "no-such-domain"]
    let (status, output) = try run(builtPrograms.appending("udmabridge"), words, withErrors: true)
    #expect(status == 1 && output.contains("udmabridge libvirt check"), "\(output)")
    let both = try run(builtPrograms.appending("udmabridge"), words + ["--control", "/x"], withErrors: true)
    #expect(both.status == 64)
    #expect(
      try run(builtPrograms.appending("udmabridge"), Array(words.dropLast(2)), withErrors: true).status == 64)
  }
}
