import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing

/// What the documentation says is so.
@Suite struct DocumentationTests {
  @Test("the example of the library is the README's, and runs", .testHost)
  func example() throws {
    let (status, output) = try run(builtPrograms.appending("lend-pages"), [], withErrors: true)
    #expect(status == 0)
    #expect(
      output.hasPrefix("a dma-buf of 20480 bytes, inode ") && output.hasSuffix(", says 42\n"), "\(output)")
  }

  @Test("the README has the example as it is")
  func readme() throws {
    let source = try readText(repository.appending("examples/lend-pages/main.swift"))
    #expect(try readText(repository.appending("README.md")).contains("```swift\n\(source)```"))
  }

  @Test("every public symbol of the library has a documentation comment", arguments: ["Linux", "Udmabuf"])
  func comments(_ module: String) throws {
    let directory = repository.appending("Sources").appending(module)
    var symbols = 0
    for name in directoryEntries(directory) {
      let lines = try readText(directory.appending(name)).split(
        separator: "\n", omittingEmptySubsequences: false
      )
      .map { $0.trimmingCharacters(in: .whitespaces) }
      for (number, line) in lines.enumerated() {
        let words = line.split(separator: " ").drop { $0.hasPrefix("@") }
        guard words.first == "public", words.dropFirst().first != "import" else { continue }
        symbols += 1
        let before = lines[..<number].last { !$0.hasPrefix("@") }
        #expect(before?.hasPrefix("///") == true, "\(module)/\(name), line \(number + 1): \(line)")
      }
    }
    #expect(symbols > 20)
  }

  @Test("every command has a manual and completions, made from what it is")
  func generated() throws {
    for command in ["memfd", "create", "show", "dump", "inspect", "list", "ram", "plan", "doctor"] {
      let (status, help) = try Tool.run("help", command)
      #expect(status == 0 && help.contains("--json"))
      #expect(try readText(repository.appending("docs/tool.md")).contains("| `\(command)` |"))
    }
    for shell in ["bash", "zsh", "fish"] {
      let (status, script) = try Tool.run("--generate-completion-script", shell)
      #expect(status == 0 && script.contains("inspect"))
    }
    // The shell itself reads it.
    let (status, output) = try Tool.shell(
      "source <(udmabridge --generate-completion-script bash) && complete -p udmabridge")
    #expect(status == 0 && output.contains("udmabridge"), "\(output)")
  }
}
