import LendingProtocol
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import GuestAgent

/// What is no call of io.udmabridge.Lender.
@Suite struct BadLenderInputTests {
  struct Case: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let method: String
    let parameters: String
    let descriptors: Int
    /// The error's name, or the parameter that is invalid.
    let error: String
    init(_ name: String, _ method: String, _ parameters: String, _ error: String) {
      self.init(name, method, parameters, 0, error)
    }
    init(_ name: String, _ method: String, _ parameters: String, _ descriptors: Int, _ error: String) {
      testDescription = "\(method): \(name)"
      (self.method, self.parameters, self.descriptors, self.error) = (method, parameters, descriptors, error)
    }
  }

  private static let known = "\"\(AgentRig.id(1))\""
  private static let foreign = "\"\(AgentRig.id(9))\""

  /// Each field of each method: absent, of the wrong type, out of its range, too long.
  static let cases: [Case] = [
    Case("no size", "Make", "{}", "size"), Case("a size that is text", "Make", #"{"size":"4096"}"#, "size"),
    Case("size 0", "Make", #"{"size":0}"#, "size"), Case("a size below 0", "Make", #"{"size":-1}"#, "size"),
    Case("a size beyond 2^53", "Make", #"{"size":9007199254740993}"#, "size"),
    Case("a size that no card has", "Make", #"{"size":2000000000000}"#, "CannotMake"),
    Case("an unknown field", "Make", #"{"size":1,"sise":1}"#, "sise"),

    Case("no descriptor", "Lend", "{}", "NoDMABuf"), Case("two descriptors", "Lend", "{}", 2, "NoDMABuf"),
    Case("nine descriptors", "Lend", "{}", 9, "NoDMABuf"),
    Case("an index behind the last", "Lend", #"{"fileDescriptor":1}"#, 1, "NoDMABuf"),
    Case("an index below 0", "Lend", #"{"fileDescriptor":-1}"#, 1, "fileDescriptor"),
    Case("an index that is none", "Lend", #"{"fileDescriptor":8}"#, 1, "fileDescriptor"),
    Case("an index that is text", "Lend", #"{"fileDescriptor":"0"}"#, 1, "fileDescriptor"),
    Case("an offset below 0", "Lend", #"{"offset":-1}"#, 1, "offset"),
    Case("an offset beyond 2^53", "Lend", #"{"offset":9007199254740993}"#, 1, "offset"),
    Case("an offset that is a list", "Lend", #"{"offset":[]}"#, 1, "offset"),
    Case("an offset at the end", "Lend", #"{"offset":8192}"#, 1, "OutOfRange"),
    Case("size 0", "Lend", #"{"size":0}"#, 1, "size"),
    Case("a size below 0", "Lend", #"{"size":-5}"#, 1, "size"),
    Case("a size beyond 2^53", "Lend", #"{"size":9007199254740993}"#, 1, "size"),
    Case("a size that is true", "Lend", #"{"size":true}"#, 1, "size"),
    Case("a size past the end", "Lend", #"{"size":8193}"#, 1, "OutOfRange"),
    Case("offset and size past the end", "Lend", #"{"offset":1,"size":8192}"#, 1, "OutOfRange"),
    Case(
      "offset and size of 2^53", "Lend", #"{"offset":9007199254740992,"size":9007199254740992}"#, 1,
      "OutOfRange"),
    Case("metadata that are text", "Lend", #"{"metadata":"x"}"#, 1, "metadata"),
    Case("metadata with an unknown field", "Lend", #"{"metadata":{"picture":{}}}"#, 1, "picture"),
    Case("values that are numbers", "Lend", #"{"metadata":{"values":{"a":1}}}"#, 1, "a"),
    Case("values that are a list", "Lend", #"{"metadata":{"values":[]}}"#, 1, "values"),
    Case(
      "an image without a width", "Lend", #"{"metadata":{"image":{"height":1,"fourcc":1,"stride":4}}}"#, 1,
      "width"),
    Case(
      "an image without a stride", "Lend", #"{"metadata":{"image":{"width":1,"height":1,"fourcc":1}}}"#, 1,
      "stride"),
    Case(
      "a width of 65536", "Lend", #"{"metadata":{"image":{"width":65536,"height":1,"fourcc":1,"stride":4}}}"#,
      1,
      "width"),
    Case(
      "a height of 0", "Lend", #"{"metadata":{"image":{"width":1,"height":0,"fourcc":1,"stride":4}}}"#, 1,
      "height"),
    Case(
      "a fourcc of 2^32", "Lend",
      #"{"metadata":{"image":{"width":1,"height":1,"fourcc":4294967296,"stride":4}}}"#, 1, "fourcc"),
    Case(
      "an image's offset below 0", "Lend",
      #"{"metadata":{"image":{"width":1,"height":1,"fourcc":1,"stride":4,"offset":-1}}}"#, 1, "offset"),
    Case(
      "a modifier that is text", "Lend",
      #"{"metadata":{"image":{"width":1,"height":1,"fourcc":1,"stride":4,"modifier":"0"}}}"#, 1, "modifier"),
    Case(
      "a colour space that is a number", "Lend",
      #"{"metadata":{"image":{"width":1,"height":1,"fourcc":1,"stride":4,"colorSpace":1}}}"#, 1, "colorSpace"),
    Case(
      "a timestamp that is text", "Lend",
      #"{"metadata":{"image":{"width":1,"height":1,"fourcc":1,"stride":4,"timestamp":"now"}}}"#, 1,
      "timestamp"),
    Case(
      "metadata that no line holds", "Lend",
      #"{"metadata":{"values":{"a":"\#(String(repeating: "x", count: 17_000))"}}}"#, 1, "MetadataTooLong"),
    Case("an audience that is text", "Lend", #"{"to":"friends"}"#, 1, "to"),
    Case(
      "seventeen audiences", "Lend",
      #"{"to":[\#((0..<17).map { "\"a\($0)\"" }.joined(separator: ","))]}"#, 1, "to"),
    Case("an unknown use", "Lend", #"{"use":"look"}"#, 1, "use"),
    Case("a use that is a number", "Lend", #"{"use":1}"#, 1, "use"),
    Case("a copy that is a number", "Lend", #"{"copy":1}"#, 1, "copy"),
    Case("an unknown field", "Lend", #"{"ofset":0}"#, 1, "ofset"),

    Case("no buffer", "SetMetadata", #"{"metadata":{}}"#, "buffer"),
    Case("no metadata", "SetMetadata", #"{"buffer":\#(known)}"#, "metadata"),
    Case(
      "a buffer that is nobody's", "SetMetadata", #"{"buffer":\#(foreign),"metadata":{}}"#, "NoSuchBuffer"),
    Case("an id that is too short", "SetMetadata", #"{"buffer":"abc","metadata":{}}"#, "buffer"),
    Case("an id of capitals", "SetMetadata", #"{"buffer":\#(known.uppercased()),"metadata":{}}"#, "buffer"),
    Case("an id that is a number", "SetMetadata", #"{"buffer":5,"metadata":{}}"#, "buffer"),
    Case("an unknown field", "SetMetadata", #"{"buffer":\#(known),"metadata":{},"x":1}"#, "x"),

    Case("no buffer", "Return", "{}", "buffer"),
    Case("a buffer that is nobody's", "Return", #"{"buffer":\#(foreign)}"#, "NoSuchBuffer"),
    Case("a delay below 0", "Return", #"{"buffer":\#(known),"delay":-1}"#, "delay"),
    Case("a delay of more than a day", "Return", #"{"buffer":\#(known),"delay":86400001}"#, "delay"),
    Case("a delay that is text", "Return", #"{"buffer":\#(known),"delay":"1"}"#, "delay"),
    Case("a patience below 0", "Return", #"{"buffer":\#(known),"patience":-1}"#, "patience"),
    Case(
      "a patience of more than an hour", "Return", #"{"buffer":\#(known),"patience":3600001}"#, "patience"),
    Case("an unknown field", "Return", #"{"buffer":\#(known),"when":0}"#, "when"),

    Case("no buffer", "BeginAccess", #"{"mode":"read"}"#, "buffer"),
    Case("no mode", "BeginAccess", #"{"buffer":\#(known)}"#, "mode"),
    Case("an unknown mode", "BeginAccess", #"{"buffer":\#(known),"mode":"fill"}"#, "mode"),
    Case(
      "a buffer that is nobody's", "BeginAccess", #"{"buffer":\#(foreign),"mode":"read"}"#, "NoSuchBuffer"),
    Case("an unknown field", "BeginAccess", #"{"buffer":\#(known),"mode":"read","x":1}"#, "x"),
    Case("no buffer", "EndAccess", "{}", "buffer"),
    Case("a buffer that is nobody's", "EndAccess", #"{"buffer":\#(foreign)}"#, "NoSuchBuffer"),
    Case("an unknown field", "EndAccess", #"{"buffer":\#(known),"x":1}"#, "x"),
    Case("an unknown field", "List", #"{"x":1}"#, "x"), Case("an unknown field", "Watch", #"{"x":1}"#, "x"),
    Case("called for one reply", "Watch", "{}", "ExpectedMore"),
    Case("no such method", "Borrow", "{}", "MethodNotFound"),
  ]

  @Test(
    "a wrong call is answered with what is wrong, and reaches neither card nor helper", arguments: cases)
  func bad(_ input: Case) throws {
    let rig = try AgentRig()
    let card = FakeCard()
    try rig.begin(with: card)
    let lender = try rig.connect()
    let memfd = try Memfd.create(name: "foreign", size: 8192)
    try rig.lend(memfd, by: lender, as: AgentRig.id(1))
    let before = try lender.ask("List")

    let other = try Memfd.create(name: "other", size: 8192)
    let reply = try lender.ask(
      input.method, input.parameters, passing: Array(repeating: other, count: input.descriptors))
    switch input.error {
    case "ExpectedMore", "MethodNotFound":
      #expect(reply.hasPrefix(#"{"error":"org.varlink.service.\#(input.error)""#), "\(reply)")
    case let name where name.first?.isUppercase == true:
      #expect(
        reply.hasPrefix(#"{"error":"io.udmabridge.Lender.\#(name)","parameters":{"reason":""#), "\(reply)")
    case let parameter:
      #expect(
        reply
          == #"{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"\#(parameter)"}}"#)
    }
    try rig.host.receive()
    #expect(rig.host.waiting.isEmpty)
    #expect(try lender.ask("List") == before)
    // The next call is understood.
    _ = try lender.ask("Make", #"{"size":1}"#)
  }

  @Test("a descriptor that is no dma-buf is refused")
  func noDMABuf() throws {
    let rig = try AgentRig()
    try rig.begin(with: FakeCard())
    let lender = try rig.connect()
    let file = try Memfd(adopting: FD.open("/proc/self/status", writable: false))
    #expect(try lender.ask("Lend", passing: [file]).hasPrefix(#"{"error":"io.udmabridge.Lender.NoDMABuf""#))
  }

  @Test(
    "a lender gets the helper's refusal by its name, and the card keeps nothing",
    arguments: [
      ("NotLent", "NotLent"), ("OutOfRange", "OutOfRange"), ("NoSuchAudience", "NoSuchAudience"),
      ("TooManyBuffers", "TooManyBuffers"), ("MetadataTooLong", "MetadataTooLong"),
      ("MemoryOfHost", "MemoryOfHost"),
      ("StaleDevice", "NoCard"), ("NoSuchResource", "Refused"), ("Zork", "Refused"),
    ])
  func refusals(_ said: String, _ heard: String) throws {
    let rig = try AgentRig()
    let card = FakeCard()
    try rig.begin(with: card)
    let lender = try rig.connect()
    try lender.send("Lend", passing: [Memfd.create(name: "foreign", size: 4096)])
    try rig.host.refuse(rig.host.take("lend"), said, "because")
    let reply = try lender.reply()
    #expect(
      reply.hasPrefix(#"{"error":"io.udmabridge.Lender.\#(heard)","#) && reply.contains("because"), "\(reply)"
    )
    // Nothing is kept of it.
    #expect(card.closed == [1, 2])
  }

  @Test("the definition in docs is the agent's, and has the methods and errors of these tests")
  func definition() throws {
    let text = try readText(repository.appending("docs/io.udmabridge.Lender.varlink"))
    #expect(text == lenderDescription)
    for method in Set(Self.cases.map(\.method)).subtracting(["Borrow"]) {
      #expect(text.contains("\nmethod \(method)("))
    }
    for error in Set(Self.cases.map(\.error)) where error.first?.isUppercase == true {
      if !["ExpectedMore", "MethodNotFound"].contains(error) { #expect(text.contains("\nerror \(error) (")) }
    }
  }
}
