import DomainOptions
import Foundation
import Libvirt
import Linux
import Presenting
import Programs
import QEMU
import SystemPackage
import TestSupport
import Testing
import Varlink

@testable import udmabridge

/// What is asked of the sources beside what the compiler and the linter ask.
@Suite struct HouseTests {
  /// The name of each Swift file in `Sources`, from there on, and what is in it.
  private static func sources() throws -> [(name: String, text: String)] {
    let directory = repository.appending("Sources")
    let names = FileManager.default.enumerator(atPath: directory.string)?.compactMap { $0 as? String } ?? []
    return try names.filter { $0.hasSuffix(".swift") }.sorted().map {
      ($0, try readText(directory.appending(FilePath($0).components)))
    }
  }

  private static let programs = ["udmabridge", "vhost-user-udmabuf", "udmabridge-guest"]

  /// The long names of all options of the programs and their commands, by what they say of themselves.
  private static func options(of programs: [String] = programs) throws -> Set<String> {
    func names(_ value: Any) -> [String] {
      if let list = value as? [Any] { return list.flatMap(names) }
      guard let object = value as? [String: Any] else { return [] }
      if object["kind"] as? String == "long", let name = object["name"] as? String { return [name] }
      return object.values.flatMap(names)
    }
    return try Set(
      programs.flatMap { program in
        let (status, output) = try run(
          builtPrograms.appending(program), ["--experimental-dump-help"], withErrors: true)
        guard status == 0 else { throw TroubleInTest(output) }
        return names(try JSONSerialization.jsonObject(with: Data(output.utf8)))
      })
  }

  /// What looks like an option there.
  private static func named(in text: String) -> [String] {
    text.matches(of: /(?:^|[^\-\w])--([a-z][a-z0-9\-]*)/).map { String($0.1) }
  }

  /// Options that a library names, and why it may.
  private static let exceptions = [
    "Libvirt/Recovery.swift --render-node": "it starts the helper with it, and knows the helper by it",
    "Libvirt/Recovery.swift --socket-path": "it starts the helper with it",
  ]

  @Test("no library names an option of a program, but for known exceptions")
  func libraries() throws {
    let options = try Self.options()
    #expect(options.isSuperset(of: ["kms", "sandbox", "qmp", "stdin", "remove-graphics", "control-allow"]))
    var excepted: Set<String> = []
    for (name, text) in try Self.sources() where !Self.programs.contains(where: { name.hasPrefix("\($0)/") })
    {
      for (line, literal) in Literals.all(in: text) {
        for option in Self.named(in: literal) where options.contains(option) {
          let place = "\(name) --\(option)"
          if Self.exceptions[place] == nil {
            Issue.record("\(name), line \(line): --\(option) in «\(literal.prefix(100))»")
          }
          excepted.insert(place)
        }
      }
    }
    #expect(excepted.isSuperset(of: Self.exceptions.keys), "an exception that nobody needs")
  }

  @Test("the tool adds to a library's error options that exist")
  func explaining() throws {
    let options = try Self.options()
    let errors: [any Error] = [
      QEMUError.tooManyMonitors(1, count: 9, tried: 8), QEMUError.noProcess("/monitor"),
      QEMUError.otherProcess(1, "/monitor", 0), QEMUError.unproven(1, "why"),
      VarlinkClientError.connecting("/control", .noSuchFileOrDirectory), VarlinkClientError.closed,
      LibvirtError.noLibrary("why"), LibvirtError.session("uri"), LibvirtError.withoutSecrets("why"),
      LibvirtError.transient("web"), LibvirtError.refused([.graphics("vnc")]),
      LibvirtError.refused([.reference("why")]), PresentingError.reserveIsUsedUp,
    ]
    for error in errors {
      let text = explained(error)
      #expect(text.hasPrefix("\(error)"))
      let named = Self.named(in: text)
      #expect(!named.isEmpty && options.isSuperset(of: named), "\(text)")
    }
    #expect(explained(QEMUError.changing) == "\(QEMUError.changing)")
  }

  @Test("a domain may choose each option of the helper, but for a list of others")
  func domains() throws {
    // Where QEMU is, what device this is, what only libvirt passes, and what ends at once.
    let others = [
      "socket-path", "fd", "keep", "share-fd", "profile", "offer",
      "render-node", "virgl", "print-capabilities", "version", "help",
    ]
    let all = try Self.options(of: ["vhost-user-udmabuf"])
    #expect(all.isSuperset(of: others))
    #expect(Set(DomainOption.names) == all.subtracting(others))
  }

  @Test("the programs have the version with which the CHANGELOG begins", arguments: programs)
  func version(_ program: String) throws {
    let changes = try readText(repository.appending("CHANGELOG.md")).split(separator: "\n")
    let newest = try #require(changes.first { $0.hasPrefix("## [") })
    #expect(newest.dropFirst(4).prefix { $0 != "]" } == programVersion)
    #expect(try run(builtPrograms.appending(program), ["--version"]).output == "\(programVersion)\n")
  }

  @Test(
    "no two files and no two types of Sources have one name, nor names that differ by a hyphen or the plural")
  func names() throws {
    func key(_ name: some StringProtocol) -> String {
      let plain = String(name.filter { $0 != "-" && $0 != "_" })
      return plain.hasSuffix("s") ? String(plain.dropLast()) : plain
    }
    var files: [String: String] = [:]
    var types: [String: String] = [:]
    for (name, text) in try Self.sources() {
      let file = String(name.split(separator: "/").last ?? "")
      // Each program has a main file.
      if file != "Main.swift", let other = files.updateValue(name, forKey: key(file.dropLast(6))) {
        Issue.record("\(name) and \(other)")
      }
      for match in text.matches(
        of:
          /(?m)^(?:(?:package|public|private|fileprivate|final|@safe) )*(?:class|struct|enum|protocol) (\w+)/)
      {
        // A type may stand beside one of several such things.
        if let other = types.updateValue(name, forKey: key(match.1)), other != name {
          Issue.record("\(match.1) in \(name) and \(other)")
        }
      }
    }
    #expect(types.count > 200)
  }

  @Test("no file of Sources has more than 400 lines")
  func lengths() throws {
    let all = try Self.sources()
    #expect(all.count > 100)
    for (name, text) in all {
      let lines = text.split(separator: "\n", omittingEmptySubsequences: false).count - 1
      #expect(lines <= 400, "\(name)")
    }
  }

  @Test("every test has a sentence")
  func sentences() throws {
    let tests = repository.appending("Tests")
    var count = 0
    for target in directoryEntries(tests) where target.hasSuffix("Tests") {
      for name in directoryEntries(tests.appending(target)) where name.hasSuffix(".swift") {
        let text = try readText(tests.appending(target).appending(name))
        for test in text.matches(of: /(?m)^ *@Test\b(\(\s*")?/) {
          count += 1
          let line = text[..<test.range.lowerBound].count { $0 == "\n" } + 1
          if test.1 == nil { Issue.record("\(target)/\(name), line \(line)") }
        }
      }
    }
    #expect(count > 1000)
  }

  @Test("literals are found as the compiler finds them")
  func literals() {
    let source = #"""
      let a = "one" // "not this"
      /* "nor this" */ let b = "two \("in it" + f("three")) rest \"quoted\""
      let c = """
        several
        lines \(d)
        """
      """# + "\nlet e = #\"raw \\n \"still\" \\#(\"four\")\"#\n"
    let found = Literals.all(in: source).map { "\($0.line): \($0.text)" }
    #expect(
      found == [
        "1: one", "2: in it", "2: three", "2: two  rest \"quoted\"", "3: \n  several\n  lines \n  ",
        "7: four", "7: raw \\n \"still\" ",
      ])
  }
}

/// Reads the string literals of a Swift source. What is in an interpolation is code, and its literals come first.
private struct Literals {
  private let source: [UInt8]
  private var at = 0
  private var line = 1
  private var found: [(line: Int, text: String)] = []

  static func all(in source: String) -> [(line: Int, text: String)] {
    var reader = Literals(source: Array(source.utf8))
    reader.readCode(isInterpolation: false)
    return reader.found
  }

  private init(source: [UInt8]) { self.source = source }

  /// Goes on behind `text`, if that comes next.
  private mutating func take(_ text: String) -> Bool {
    guard source[at...].starts(with: text.utf8) else { return false }
    for _ in text.utf8 { _ = next() }
    return true
  }

  private mutating func next() -> UInt8 {
    if source[at] == UInt8(ascii: "\n") { line += 1 }
    at += 1
    return source[at - 1]
  }

  private mutating func readCode(isInterpolation: Bool) {
    var depth = 0
    while at < source.count {
      let marks = source[at...].prefix { $0 == UInt8(ascii: "#") }.count
      if at + marks < source.count, source[at + marks] == UInt8(ascii: "\"") {
        at += marks
        readLiteral(String(repeating: "#", count: marks))
      } else if take("//") {
        while at < source.count, source[at] != UInt8(ascii: "\n") { at += 1 }
      } else if take("/*") {
        while at < source.count, !take("*/") { _ = next() }
      } else {
        switch next() {
        case UInt8(ascii: "("): depth += 1
        case UInt8(ascii: ")"):
          if isInterpolation, depth == 0 { return }
          depth -= 1
        default: break
        }
      }
    }
  }

  private mutating func readLiteral(_ marks: String) {
    let start = line
    let quotes = take("\"\"\"") ? "\"\"\"" : take("\"") ? "\"" : ""
    var text: [UInt8] = []
    while at < source.count, !take(quotes + marks) {
      if take("\\\(marks)(") {
        readCode(isInterpolation: true)
      } else {
        if take("\\\(marks)"), at == source.count { break }
        text.append(next())
      }
    }
    found.append((start, String(decoding: text, as: UTF8.self)))
  }
}
