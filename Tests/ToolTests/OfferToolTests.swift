import Foundation
import Glibc
import SystemPackage
import TestSupport
import Testing

private let tool = builtPrograms.appending("udmabridge")

/// `udmabridge buffers offer` beside a running helper.
@Suite struct OfferToolTests {
  @Test("offer becomes the command behind --, which has the memory, and the offer ends with it")
  func command() throws {
    let directory = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
    let control = directory.appending("control").string
    let helper = try Listening(
      builtPrograms.appending("vhost-user-udmabuf"),
      options: ["--profile", "share", "--control", control, "--port", directory.appending("port").string])
    try waitUntil("it listens") {
      FileManager.default.fileExists(atPath: control) || !helper.child.isRunning
    }
    let script = "echo $UDMABRIDGE_OFFER $(($UDMABRIDGE_FD - $0)); stat -Lc %s /proc/self/fd/$0"
    let (status, output) = try run(
      tool, ["buffers", "offer", "--control", control, "--size", "64K", "--", "sh", "-c", script, "{}"],
      withErrors: true)
    let words = output.split(whereSeparator: \.isWhitespace)
    #expect(status == 0 && words.count == 3 && words.dropFirst() == ["0", "65536"], "\(output)")
    #expect(words.first.flatMap { Int($0) } != nil, "\(output)")
    try waitUntil("the offer is over") {
      try run(tool, ["buffers", "offers", "--control", control, "--json"]).output.contains(#""offers":[]"#)
    }
  }

  private struct Help: Decodable {
    struct Command: Decodable {
      struct Argument: Decodable {
        struct Name: Decodable { let name: String }
        let names: [Name]?
      }
      let commandName: String
      let arguments: [Argument]?
      let subcommands: [Command]?

      /// The words of each command with an option of that name.
      func paths(with option: String) -> [[String]] {
        let hasIt = arguments?.contains { $0.names?.contains { $0.name == option } ?? false } ?? false
        return (hasIt ? [[]] : [])
          + (subcommands ?? []).flatMap { sub in sub.paths(with: option).map { [sub.commandName] + $0 } }
      }
    }
    let command: Command
  }

  @Test("each command that can become another one takes its words behind --")
  func words() throws {
    let text = try run(tool, ["--experimental-dump-help"]).output
    let paths = try JSONDecoder().decode(Help.self, from: Data(text.utf8)).command.paths(with: "command")
    #expect(paths.contains(["create"]) && paths.contains(["buffers", "offer"]), "\(paths)")
    for path in paths {
      let output = try run(tool, path + ["--", "true", "-x"], withErrors: true).output
      #expect(!output.contains("unexpected") && !output.contains("Unknown option"), "\(path): \(output)")
    }
  }
}
