import Lending
import LendingProtocol
import Linux
import TestSupport
import Testing

@testable import LendingService

/// Every field of every method, wrong in every way.
@Suite struct BadInputTests {
  private let rig: LendingRig

  init() throws { rig = try LendingRig() }

  private static let id = "00112233445566778899aabbccddeeff"

  struct Case: CustomTestStringConvertible {
    let method, parameters, error: String
    var testDescription: String { "\(method) \(parameters.prefix(80))" }
  }

  private static func invalid(_ method: String, _ field: String, _ parameters: [String]) -> [Case] {
    parameters.map { Case(method: method, parameters: $0, error: "InvalidParameter \(field)") }
  }

  /// With an id that is right, and other fields.
  private static func with(_ fields: String) -> String { #"{"id":"\#(id)",\#(fields)}"# }

  private static let none: [Case] = ["List"].flatMap {
    invalid($0, "id", [#"{"id":"\#(id)"}"#, #"{"id":null}"#])
      + invalid($0, "parameters", ["[]", "3", #""""#])
  }

  /// What each method but List and Watch wants.
  private static let ids: [Case] = [
    ("Query", ""), ("Import", ""), ("Release", ""), ("BeginAccess", #","mode":"read""#), ("EndAccess", ""),
    ("Fill", ""), ("Filled", #","bytesUsed":1"#),
  ].flatMap { method, rest in
    invalid(
      method, "id",
      [
        "{\(rest.dropFirst())}", #"{"id":null\#(rest)}"#, #"{"id":7\#(rest)}"#, #"{"id":["\#(id)"]\#(rest)}"#,
        #"{"id":""\#(rest)}"#, #"{"id":"\#(id.dropLast())"\#(rest)}"#, #"{"id":"\#(id)0"\#(rest)}"#,
        #"{"id":"\#(id.uppercased())"\#(rest)}"#, #"{"id":"0x\#(id.dropLast(2))"\#(rest)}"#,
        #"{"id":"\#(String(repeating: "0", count: 20_000))"\#(rest)}"#,
      ]) + invalid(method, "buffer", [#"{"id":"\#(id)","buffer":1\#(rest)}"#])
  }

  private static let others: [Case] =
    invalid("Import", "forWriting", [with(#""forWriting":1"#), with(#""forWriting":"true""#)])
    + invalid(
      "BeginAccess", "mode",
      [
        #"{"id":"\#(id)"}"#, with(#""mode":null"#), with(#""mode":1"#), with(#""mode":"""#),
        with(#""mode":"Read""#), with(#""mode":"execute""#),
      ]) + invalid("Release", "mode", [with(#""mode":"read""#)])
    + invalid(
      "Filled", "bytesUsed",
      [
        #"{"id":"\#(id)"}"#, with(#""bytesUsed":null"#), with(#""bytesUsed":"1""#), with(#""bytesUsed":-1"#),
        with(#""bytesUsed":9007199254740993"#), with(#""bytesUsed":true"#),
      ])
    + invalid(
      "Filled", "timestamp",
      [with(#""bytesUsed":1,"timestamp":"now""#), with(#""bytesUsed":1,"timestamp":{}"#)])
    + invalid(
      "Filled", "metadata", [with(#""bytesUsed":1,"metadata":1"#), with(#""bytesUsed":1,"metadata":[]"#)])
    + metadata("values", [#"{"values":1}"#, #"{"values":[]}"#])
    + metadata("a", [#"{"values":{"a":1}}"#, #"{"values":{"a":null}}"#, #"{"values":{"a":{}}}"#])
    + metadata("more", [#"{"more":1}"#, image(#""width":1,"more":1"#)])
    + metadata("image", [#"{"image":1}"#, #"{"image":[]}"#]) + metadata("width", [image(#""height":1"#)])
    + ["width", "height"].flatMap { name in
      metadata(name, ["0", "65536", "-1", "null", #""1""#].map { image(changing: name, $0) })
    }
    + ["fourcc", "stride"].flatMap { name in
      metadata(name, ["4294967296", "-1", "null", #""1""#].map { image(changing: name, $0) })
    } + metadata("offset", ["9007199254740993", "-1", #""1""#].map { image(changing: "offset", $0) })
    + metadata("modifier", [#""1""#, "{}"].map { image(changing: "modifier", $0) })
    + metadata("colorSpace", ["1", "[]"].map { image(changing: "colorSpace", $0) })
    + metadata("timestamp", [#""1""#, "[]"].map { image(changing: "timestamp", $0) })

  private static func metadata(_ field: String, _ texts: [String]) -> [Case] {
    invalid("Filled", field, texts.map { with(#""bytesUsed":1,"metadata":\#($0)"#) })
  }

  private static func image(_ fields: String) -> String { #"{"image":{\#(fields)}}"# }

  private static func image(changing name: String, _ value: String) -> String {
    var fields = ["width": "1", "height": "1", "fourcc": "1", "stride": "4"]
    fields[name] = value
    return image(
      fields.sorted { $0.key < $1.key }.map { #""\#($0.key)":\#($0.value)"# }.joined(separator: ","))
  }

  @Test("a call with a wrong field is refused by the field's name", arguments: none + ids + others)
  func invalid(_ one: Case) throws {
    let asker = try rig.connect()
    #expect(try asker.fail(one.method, one.parameters) == one.error)
    // Nothing else came of it.
    #expect(try asker.ask("List", as: BuffersReply.self).buffers.isEmpty)
  }

  /// Foundation does not say where a number is that fits nowhere.
  @Test(
    "a fraction, and a number that is too large, are refused",
    arguments: ["1.5", "1e300", "18446744073709551616"])
  func numbers(_ number: String) throws {
    let error = try rig.connect().fail("Filled", Self.with(#""bytesUsed":\#(number)"#))
    #expect(error == "InvalidParameter bytesUsed" || error == "InvalidParameter parameters")
  }

  @Test(
    "a fill of too many bytes, or with too much metadata, is refused and can be corrected",
    arguments: [
      (#""bytesUsed":5001"#, "OutOfRange 5000"), (#""bytesUsed":9007199254740992"#, "OutOfRange 5000"),
      (
        #""bytesUsed":1,"metadata":{"values":{"a":"\#(String(repeating: "x", count: 4096))"}}"#,
        "MetadataTooLong 4096"
      ),
    ])
  func tooMuch(_ fields: String, _ error: String) throws {
    let lent = try rig.lend(use: .fill)
    let asker = try rig.connect()
    let holding = try Holding(asker, lent)
    try asker.tell("Fill", lent)
    #expect(try asker.fail("Filled", #"{"id":"\#(lent.id)",\#(fields)}"#) == error)
    // It may say something better.
    try asker.tell("Filled", #"{"id":"\#(lent.id)","bytesUsed":5000}"#)
    #expect(!holding.isCutOff && rig.registry.statistics.imports == 1)
  }

  @Test("an unknown method, and one called in a wrong way, are refused, and the connection stays")
  func calls() throws {
    let asker = try rig.connect()
    #expect(try asker.fail("Lend", "{}") == "MethodNotFound io.udmabridge.Buffers.Lend")
    #expect(try asker.fail("import", "{}") == "MethodNotFound io.udmabridge.Buffers.import")
    #expect(try asker.fail("Watch", "{}") == "ExpectedMore")
    #expect(try asker.fail("Watch", #"{"id":1}"#) == "InvalidParameter id")
    try asker.send("List", flags: #","upgrade":true"#)
    #expect(
      try asker.messages().map { String(decoding: $0, as: UTF8.self) }.allSatisfy {
        $0.contains("MethodNotImplemented")
      })
    #expect(!asker.isClosed)
  }

  @Test("a oneway call leaves no import and no watcher")
  func oneway() throws {
    let lent = try rig.lend()
    let asker = try rig.connect()
    try asker.send("Import", #"{"id":"\#(lent.id)"}"#, flags: #","oneway":true"#)
    try asker.send("Watch", flags: #","oneway":true,"more":true"#)
    try rig.waitUntil("nobody has it") { rig.registry.statistics.imports == 0 }
    #expect(try asker.messages().isEmpty && rig.registry.statistics.watchers == 0)
  }
}
