import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing

/// What the documentation says is so.
@Suite struct DocumentationTests {
  @Test("the example of the library makes a dma-buf and reads it", .testHost)
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

  /// A declaration that other packages see.
  private struct PublicSymbol {
    let place: String
    let isDocumented: Bool
  }

  /// What a module declares as public.
  private func publicSymbols(of module: String) throws -> [PublicSymbol] {
    let directory = repository.appending("Sources").appending(module)
    return try directoryEntries(directory).filter { $0.hasSuffix(".swift") }.flatMap {
      name throws -> [PublicSymbol] in
      let lines = try readText(directory.appending(name)).split(
        separator: "\n", omittingEmptySubsequences: false
      )
      .map { $0.trimmingCharacters(in: .whitespaces) }
      return lines.enumerated().compactMap { number, line -> PublicSymbol? in
        let words = line.split(separator: " ").drop { $0.hasPrefix("@") }
        guard let first = words.first, ["public", "open"].contains(first),
          words.dropFirst().first != "import"
        else { return nil }
        let before = lines[..<number].last { !$0.hasPrefix("@") }
        return PublicSymbol(
          place: "\(module)/\(name), line \(number + 1): \(line)",
          isDocumented: before?.hasPrefix("///") == true)
      }
    }
  }

  @Test("every public symbol of the library has a documentation comment")
  func comments() throws {
    let symbols = try publicSymbols(of: "Udmabuf")
    #expect(symbols.count > 20)
    for symbol in symbols where !symbol.isDocumented { Issue.record("\(symbol.place)") }
  }

  @Test("no other library module has a public declaration")
  func packageAccess() throws {
    // What a program declares, nobody imports.
    let others = directoryEntries(repository.appending("Sources")).filter {
      !["Udmabuf", "udmabridge", "vhost-user-udmabuf", "udmabridge-guest"].contains($0)
    }
    #expect(others.count > 10)
    for module in others {
      for symbol in try publicSymbols(of: module) { Issue.record("\(symbol.place)") }
    }
  }

  @Test("every type that the glossary names stands in the file that it names")
  func glossary() throws {
    let text = try readText(repository.appending("docs/architecture.md"), upTo: 1 << 20)
    let words = try #require(text.range(of: "\n## Words\n"))
    var named = 0
    for type in text[words.upperBound...].matches(of: /`([A-Z][\w.]*)` \(([\w+\/-]+\.swift)\)/) {
      named += 1
      let name = try #require(type.1.split(separator: ".").last)
      let source = try? readText(repository.appending("Sources/\(type.2)"))
      let declaration = try Regex("(actor|class|enum|protocol|struct) \(name)\\b")
      #expect(source?.contains(declaration) == true, "\(type.0)")
    }
    #expect(named > 40)
  }

  @Test("docs/porting.md names every call of both interfaces, and no other")
  func porting() throws {
    let page = try readText(repository.appending("docs/porting.md"))
    let calls = page.matches(of: /`(Lender|Buffers)\.([A-Z]\w*)`/).map { "\($0.1).\($0.2)" }
    var methods: Set<String> = []
    for interface in ["Lender", "Buffers"] {
      let text = try readText(repository.appending("docs/io.udmabridge.\(interface).varlink"))
      for method in text.matches(of: /(?m)^method (\w+)\(/) { methods.insert("\(interface).\(method.1)") }
    }
    #expect(methods.count > 10 && Set(calls) == methods)
    // Those that are written out.
    for call in page.matches(of: /"io\.udmabridge\.(\w+\.\w+)"/) { #expect(methods.contains("\(call.1)")) }
  }

  @Test("the commands have help and a row in docs/tool.md, and each shell has completions")
  func generated() throws {
    for command in ["memfd", "create", "show", "dump", "inspect", "list", "ram", "plan", "doctor"] {
      let (status, help) = try Tool.run("help", command)
      #expect(status == 0 && help.contains("--json"))
      #expect(try readText(repository.appending("docs/tool.md")).contains("| `\(command)` |"))
    }
    for command in ["metrics", "top"] {
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
