import Lending
import LendingProtocol
import Linux
import Testing

@testable import Port

private let exact = 0...(1 << 53)
private let digits32 = "0123456789abcdef0123456789abcdef"

/// A field of a command, as docs/port.md has it.
struct PortField: Sendable {
  enum Kind: Sendable {
    case number(ClosedRange<Int>)
    /// So many digits.
    case hex(Int)
    case words([String])
    case text
    case names
    case metadata
    case image
    case values
  }

  let name: String
  let kind: Kind
  /// A value that is right, as JSON.
  let good: String
  var isOptional = false

  static func number(_ name: String, _ range: ClosedRange<Int>, isOptional: Bool = false) -> PortField {
    PortField(name: name, kind: .number(range), good: "\(range.lowerBound)", isOptional: isOptional)
  }

  static func hex(_ name: String, _ count: Int) -> PortField {
    PortField(name: name, kind: .hex(count), good: quoted(String(repeating: "0a", count: count / 2)))
  }

  static func words(_ name: String, _ words: [String], isOptional: Bool = false) -> PortField {
    PortField(name: name, kind: .words(words), good: quoted(words[0]), isOptional: isOptional)
  }

  private static func quoted(_ text: String) -> String { "\"\(text)\"" }

  /// What is refused for it.
  var bad: [(what: String, json: String)] {
    let wrong = [
      ("a text", "\"x\""), ("a number", "5"), ("a list", "[{}]"), ("an object", "{\"x\":[]}"),
      ("true", "true"),
    ]
    func types(without right: String...) -> [(what: String, json: String)] {
      wrong.filter { !right.contains($0.0) } + (isOptional ? [] : [("null", "null")])
    }
    switch kind {
    case .number(let range):
      let (below, isBelow) = range.lowerBound.subtractingReportingOverflow(1)
      let (above, isAbove) = range.upperBound.addingReportingOverflow(1)
      return types(without: "a number") + [
        ("a fraction", "1.5"), ("far above", "1e300"), ("far below", "-1e300"),
        ("a text of digits", "\"1\""),
        ("below", isBelow ? "-9223372036854775809" : "\(below)"),
        ("above", isAbove ? "9223372036854775808" : "\(above)"),
      ]
    case .hex(let count):
      let digits = String(repeating: "a", count: count)
      return types(without: "a text") + [
        ("empty", Self.quoted("")), ("too short", Self.quoted(String(digits.dropLast()))),
        ("too long", Self.quoted(digits + "a")), ("upper case", Self.quoted(digits.uppercased())),
        ("no digits", Self.quoted(String(repeating: "g", count: count))),
        ("a sign", Self.quoted("+" + digits.dropFirst())),
        ("wide digits", Self.quoted(String(repeating: "é", count: count / 2))),
        ("far too long", Self.quoted(String(repeating: digits, count: 100))),
      ]
    case .words(let words):
      return types(without: "a text") + [
        ("another word", Self.quoted("other")), ("none", Self.quoted("")),
        ("upper case", Self.quoted(words[0].uppercased())),
        ("far too long", Self.quoted(String(repeating: words[0], count: 1000))),
      ]
    case .text: return types(without: "a text") + [("no text", "\"\\q\""), ("half a pair", "\"\\ud800\"")]
    case .names:
      return types(without: "a list") + [
        ("of numbers", "[1]"), ("of lists", "[[]]"), ("of null", "[null]"),
        ("too long", "[" + (0..<17).map { "\"\($0)\"" }.joined(separator: ",") + "]"),
      ]
    case .metadata, .image: return types(without: "an object") + [("an unknown field", "{\"x\":1}")]
    case .values:
      return types(without: "an object") + [
        ("a number in it", "{\"x\":1}"), ("null in it", "{\"x\":null}"), ("a list in it", "{\"x\":[]}"),
      ]
    }
  }

  /// What is taken for it, at its bounds.
  var limits: [String] {
    switch kind {
    case .number(let range): ["\(range.lowerBound)", "\(range.upperBound)"]
    case .words(let words): words.map(Self.quoted)
    case .names: ["[]", "[" + (0..<16).map { "\"\($0)\"" }.joined(separator: ",") + "]"]
    case .metadata: ["{}", "{\"values\":{}}", "{\"values\":{\"\":\"\"}}"]
    case .text: ["\"\"", "\"\\u0000\""]
    case .values: ["{}"]
    case .hex, .image: [good]
    }
  }
}

private let image: [PortField] = [
  .number("width", 1...65535), .number("height", 1...65535), .number("fourcc", 0...Int(UInt32.max)),
  .number("stride", 0...Int(UInt32.max)), .number("offset", exact, isOptional: true),
  .number("modifier", Int.min...Int.max, isOptional: true),
  PortField(name: "colorSpace", kind: .text, good: "\"bt709\"", isOptional: true),
  .number("timestamp", Int.min...Int.max, isOptional: true),
]

private let metadata = PortField(name: "metadata", kind: .metadata, good: "{}", isOptional: true)

/// The fields of each command.
private let commands: [(name: String, fields: [PortField])] = [
  ("hello", [.number("version", 1...1), .hex("session", 32)]),
  ("prove", [.number("resource", 1...Int(UInt32.max)), .hex("secret", 64)]),
  (
    "lend",
    [
      .number("device", exact), .number("epoch", exact), .number("resource", 1...Int(UInt32.max)),
      .number("lender", exact), .number("offset", exact), .number("size", 1...(1 << 53)),
      .words("use", ["read", "write", "fill"], isOptional: true), metadata,
      PortField(name: "to", kind: .names, good: "[\"a\"]", isOptional: true),
    ]
  ),
  (
    "setMetadata",
    [
      .hex("buffer", 32), .number("lender", exact),
      PortField(name: "metadata", kind: .metadata, good: "{}"),
    ]
  ),
  (
    "return",
    [
      .hex("buffer", 32), .number("lender", exact), .number("delay", 0...86_400_000, isOptional: true),
      .number("patience", 0...3_600_000, isOptional: true),
    ]
  ),
  ("endLender", [.number("lender", exact)]),
  (
    "beginAccess",
    [.hex("buffer", 32), .number("lender", exact), .words("mode", ["read", "write", "readWrite"])]
  ),
  ("endAccess", [.hex("buffer", 32), .number("lender", exact)]),
]

/// An object of these fields, in which `changed` replaces or adds one; nil leaves it out.
private func object(_ fields: [PortField], _ changed: (name: String, json: String?)? = nil) -> String {
  var all = fields.map { (name: $0.name, json: Optional($0.good)) }
  if let changed {
    all.removeAll { $0.name == changed.name }
    all.append(changed)
  }
  let texts = all.compactMap { field in field.json.map { "\"\(field.name)\":\($0)" } }
  return "{" + texts.joined(separator: ",") + "}"
}

private func read(_ line: String) throws(PortCommand.Refusal) -> PortCommand {
  try PortCommand.read(Array(line.utf8))
}

private func line(_ name: String, _ arguments: String) -> String {
  "{\"execute\":\"\(name)\",\"arguments\":\(arguments),\"id\":7}"
}

/// How a line is refused; nil if it is taken.
private func whyRefused(_ line: String) -> PortCommand.Refusal? {
  do throws(PortCommand.Refusal) {
    _ = try read(line)
    return nil
  } catch { return error }
}

@Suite struct PortCommandTests {
  struct Bad: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let line: String
    let field: String
    var name = PortError.Name.invalidArgument
  }

  /// Every field of every command in every wrong way.
  static let bad: [Bad] = commands.flatMap { command in
    let cases = command.fields.flatMap { field -> [Bad] in
      var cases = field.bad.map { (what: $0.what, json: Optional($0.json)) }
      if !field.isOptional { cases.append(("absent", nil)) }
      return cases.map { what, json in
        // Another version that can be one is another version.
        let isVersion = field.name == "version" && ["a number", "below", "above"].contains(what)
        return Bad(
          testDescription: "\(command.name): \(field.name): \(what)",
          line: line(command.name, object(command.fields, (field.name, json))),
          field: field.name, name: isVersion ? .wrongVersion : .invalidArgument)
      }
    }
    return cases + [
      Bad(
        testDescription: "\(command.name): an unknown field",
        line: line(command.name, object(command.fields, ("more", "1"))), field: "more"),
      Bad(
        testDescription: "\(command.name): another case",
        line: line(command.name, object(command.fields, (command.fields[0].name.uppercased(), "1"))),
        field: command.fields[0].name.uppercased()),
      Bad(
        testDescription: "\(command.name): no arguments", line: "{\"execute\":\"\(command.name)\",\"id\":7}",
        field: "arguments"),
    ]
      + ["null", "[]", "5", "\"x\""].map {
        Bad(
          testDescription: "\(command.name): arguments \($0)", line: line(command.name, $0),
          field: "arguments")
      }
  }

  @Test("a field that is wrong is named, and the answer has the command's id", arguments: bad)
  func fields(_ this: Bad) throws {
    let refusal = try #require(whyRefused(this.line))
    #expect(refusal.id == 7)
    #expect(refusal.error.name == this.name)
    if this.name == .invalidArgument {
      #expect(refusal.error.text.contains(": \(this.field)"), "\(refusal.error.text)")
    }
    #expect(refusal.isHello == this.line.contains("hello"))
  }

  static let badImages: [Bad] =
    image.flatMap { field -> [Bad] in
      var cases = field.bad.map { (what: $0.what, json: Optional($0.json)) }
      if !field.isOptional { cases.append(("absent", nil)) }
      return cases.flatMap { what, json in
        commands.filter { $0.fields.contains { $0.name == "metadata" } }.map { command in
          Bad(
            testDescription: "\(command.name): image: \(field.name): \(what)",
            line: line(
              command.name,
              object(command.fields, ("metadata", "{\"image\":\(object(image, (field.name, json)))}"))),
            field: "metadata.image.\(field.name)")
        }
      }
    }
    + [
      PortField(name: "image", kind: .image, good: "", isOptional: true),
      PortField(name: "values", kind: .values, good: "", isOptional: true),
    ].flatMap { field in
      field.bad.map { what, json in
        Bad(
          testDescription: "\(field.name): \(what)",
          line: line("lend", object(commands[2].fields, ("metadata", "{\"\(field.name)\":\(json)}"))),
          field: "metadata.\(field.name)")
      }
    }

  @Test("a wrong field of the metadata is named, and the answer has the command's id", arguments: badImages)
  func metadataFields(_ this: Bad) throws { try fields(this) }

  @Test("every field is taken at its bounds, and each that may be absent may be null")
  func bounds() {
    for command in commands {
      for field in command.fields {
        for good in field.limits + (field.isOptional ? ["null"] : []) {
          let line = line(command.name, object(command.fields, (field.name, good)))
          #expect(whyRefused(line) == nil, "\(line)")
        }
      }
    }
    for field in image {
      for good in field.limits + (field.isOptional ? ["null"] : []) {
        let text = object(image, (field.name, good))
        #expect(
          whyRefused(line("lend", object(commands[2].fields, ("metadata", "{\"image\":\(text)}")))) == nil)
      }
    }
  }

  static let noCommands: [String] = [
    "", " ", "x", "{", "}", "{}", "[]", "5", "null", "\"execute\"", "{\"execute\":5,\"id\":1}",
    "{\"execute\":null,\"id\":1}", "{\"id\":1}", "{\"Execute\":\"hello\",\"id\":1}",
    "{\"execute\":\"hello\",\"id\":1} x", "{\"execute\":\"hello\",\"id\":1}{}", "{'execute':'hello'}",
    "{\"execute\":\"he\u{0}llo\"",
    "[{\"execute\":\"hello\",\"id\":1}]",
    String(repeating: "[", count: 16000), String(repeating: "{\"a\":", count: 3000),
    "{\"return\":{},\"id\":1}", "{\"event\":\"returned\",\"data\":{}}",
  ]

  @Test("a line that is no command is refused without an id", arguments: noCommands)
  func refusesWhatIsNone(_ line: String) throws {
    let refusal = try #require(whyRefused(line))
    #expect(refusal.error.name == .notACommand && refusal.id == nil && !refusal.isHello)
  }

  @Test("a line that is no UTF-8 is refused as no command")
  func noText() throws {
    for bytes: [UInt8] in [
      [0x80], [0xc3, 0x28], Array("{\"execute\":\"".utf8) + [0xc0, 0xaf] + Array("\",\"id\":1}".utf8),
    ] {
      do {
        _ = try PortCommand.read(bytes)
        Issue.record("\(bytes) is taken")
      } catch { #expect(error.error.name == .notACommand) }
    }
  }

  @Test(
    "a command without a right id is refused by that field",
    arguments: PortField.number("id", exact).bad.map(\.json) + [nil])
  func ids(_ json: String?) throws {
    let id = json.map { ",\"id\":\($0)" } ?? ""
    let refusal = try #require(whyRefused("{\"execute\":\"endLender\",\"arguments\":{\"lender\":1}\(id)}"))
    #expect(refusal.error.name == .invalidArgument && refusal.id == nil)
    #expect(refusal.error.text.contains(": id: "), "\(refusal.error.text)")
  }

  @Test("the refusal of an unknown command or field has the command's id")
  func otherErrors() throws {
    for id in [exact.lowerBound, 1, exact.upperBound] {
      let unknown = try #require(whyRefused("{\"execute\":\"other\",\"arguments\":{},\"id\":\(id)}"))
      #expect(unknown.id == id && unknown.error.name == .commandNotFound)
      let more = try #require(
        whyRefused("{\"execute\":\"endLender\",\"arguments\":{\"lender\":1},\"id\":\(id),\"control\":1}"))
      #expect(more.id == id && more.error.name == .invalidArgument && more.error.text.contains("control"))
    }
  }

  @Test("a hello of another version is refused for that, whatever its fields are")
  func versions() throws {
    for version in [0, 2, 1 << 53] {
      let refusal = try #require(whyRefused(line("hello", "{\"version\":\(version),\"name\":\"x\"}")))
      #expect(refusal.error.name == .wrongVersion && refusal.isHello && refusal.id == 7)
    }
  }

  @Test("a field that is there twice counts once")
  func twice() throws {
    let command = try read(line("endLender", "{\"lender\":1,\"lender\":2}"))
    #expect([.endLender(1), .endLender(2)].contains(command.action))
  }

  @Test("each command is read with all its fields")
  func right() throws {
    let id = try #require(BufferID(digits32))
    #expect(
      try read(line("hello", "{\"version\":1,\"session\":\"\(digits32)\"}")).action
        == .hello(session: digits32))
    #expect(
      try read(line("prove", "{\"resource\":5,\"secret\":\"\(digits32)\(digits32)\"}")).action
        == .prove(
          resource: 5,
          secret: Array(repeating: [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef], count: 4).flatMap(\.self)
        ))
    let place = ResourcePlace(device: 1, epoch: 2, resource: 3)
    #expect(
      try read(line("lend", "{\"device\":1,\"epoch\":2,\"resource\":3,\"lender\":4,\"offset\":5,\"size\":6}"))
        .action == .lend(LendingRequest(offset: 5, size: 6), of: place, lender: 4))
    let full = BufferMetadata(
      image: ImageMetadata(
        width: 1, height: 2, fourcc: 3, stride: 4, offset: 5, modifier: -6, colorSpace: "c", timestamp: -7),
      values: ["a": "b"])
    let json = """
      {"image":{"width":1,"height":2,"fourcc":3,"stride":4,"offset":5,"modifier":-6,"colorSpace":"c","timestamp":-7},\
      "values":{"a":"b"}}
      """
    #expect(
      try read(
        line(
          "lend",
          "{\"device\":1,\"epoch\":2,\"resource\":3,\"lender\":4,\"offset\":5,\"size\":6,\"use\":\"fill\",\"to\":[\"a\",\"b\"],\"metadata\":\(json)}"
        )
      ).action
        == .lend(
          LendingRequest(offset: 5, size: 6, use: .fill, audiences: ["a", "b"], metadata: full), of: place,
          lender: 4))
    let buffer = "\"buffer\":\"\(digits32)\",\"lender\":4"
    #expect(
      try read(line("setMetadata", "{\(buffer),\"metadata\":\(json)}")).action
        == .setMetadata(full, id, lender: 4))
    #expect(
      try read(line("return", "{\(buffer)}")).action
        == .takeBack(id, lender: 4, delay: .zero, patience: .seconds(1)))
    #expect(
      try read(line("return", "{\(buffer),\"delay\":2,\"patience\":3}")).action
        == .takeBack(id, lender: 4, delay: .milliseconds(2), patience: .milliseconds(3)))
    #expect(
      try read(line("beginAccess", "{\(buffer),\"mode\":\"readWrite\"}")).action
        == .beginAccess(.readWrite, id, lender: 4))
    #expect(try read(line("endAccess", "{\(buffer)}")).action == .endAccess(id, lender: 4))
  }
}
