internal import Guest
internal import Linux
internal import Programs
internal import Scanout

/// A mistake in a line of a trace.
struct TraceMistake: Error {
  let what: String
  init(_ what: String) { self.what = what }
}

/// The words of a line, taken one by one. Every number of a trace is checked here.
struct TraceWords {
  private var rest: ArraySlice<ArraySlice<UInt8>>

  init(_ line: ArraySlice<UInt8>) { rest = line.split(separator: UInt8(ascii: " "))[...] }

  /// The first line of an event.
  enum First {
    case event(TraceEvent)
    /// The event has this number of further lines, `parts` or `entries`.
    case memory(parts: Int)
    case attach(TracedResource, entries: Int)
  }

  mutating func first() throws(TraceMistake) -> First {
    let word = try text("a word")
    let first: First
    switch word {
    case "memory": first = .memory(parts: Int(try number("parts", 1...UInt64(GuestMemory.maxRegions))))
    case "attach":
      first = .attach(try resource(), entries: Int(try number("entries", 1...UInt64(TraceLimits.entries))))
    default: first = .event(try event(word))
    }
    if let word = rest.first { throw TraceMistake("«\(shown(word))» is a word too many; leave it out") }
    return first
  }

  private mutating func event(_ word: String) throws(TraceMistake) -> TraceEvent {
    switch word {
    case "start": return .start(device: try device())
    case "image":
      let resource = try resource()
      let size = try size()
      return .image(resource, width: size.width, height: size.height, try format())
    case "blob": return .blob(try resource(), bytes: try number("bytes", 1...TraceLimits.bytes))
    case "host-blob": return .hostBlob(try resource(), bytes: try number("bytes", 1...TraceLimits.bytes))
    case "detach": return .detach(try resource())
    case "destroy": return .destroy(try resource())
    case "scanout": return .scanout(try scanout(), try resource(), try area())
    case "blob-scanout":
      let (scanout, resource, area, size) = (try scanout(), try resource(), try area(), try size())
      let (format, sides) = (try format(), UInt64(0)...UInt64(UInt32.max))
      let layout = FrameLayout(
        width: size.width, height: size.height, format: format, stride: UInt32(try number("stride", sides)),
        offset: UInt32(try number("offset", sides)))
      return .blobScanout(scanout, resource, area, layout)
    case "off":
      let device = try device()
      return .scanoutOff(try scanout(), device: device)
    case "flush": return .flush(try resource(), try area())
    case "lend":
      return .lend(
        try number("number", 0...UInt64.max), try resource(),
        offset: try number("offset", 0...TraceLimits.bytes),
        bytes: try number("bytes", 1...TraceLimits.bytes))
    case "return": return .giveBack(try number("number", 0...UInt64.max))
    case "end":
      let word = try text("stopped or full")
      guard let end = TraceEnd(rawValue: word) else {
        throw TraceMistake("a trace ends as stopped or full, not \(word)")
      }
      return .end(end)
    default:
      throw TraceMistake(
        "«\(word)» is no word that a line begins with; docs/tool.md lists the words")
    }
  }

  // MARK: Words

  private mutating func word(_ what: String) throws(TraceMistake) -> ArraySlice<UInt8> {
    guard let word = rest.popFirst() else { throw TraceMistake("\(what) is missing; add it") }
    return word
  }

  private mutating func text(_ what: String) throws(TraceMistake) -> String { shown(try word(what)) }

  private mutating func number(_ name: String, _ range: ClosedRange<UInt64>) throws(TraceMistake) -> UInt64 {
    try Self.number(word(name), name, range)
  }

  private static func number(
    _ word: ArraySlice<UInt8>, _ name: String, _ range: ClosedRange<UInt64>
  ) throws(TraceMistake) -> UInt64 {
    guard let value = Quantity.parse(word), range.contains(value) else {
      throw TraceMistake(
        "\(name) «\(shown(word))» is out of the limits: give a number from \(range.lowerBound) to \(range.upperBound)"
      )
    }
    return value
  }

  private mutating func device() throws(TraceMistake) -> Int {
    Int(try number("device", 0...UInt64(TraceLimits.devices - 1)))
  }

  private mutating func scanout() throws(TraceMistake) -> Int {
    Int(try number("scanout", 0...UInt64(TraceLimits.scanouts - 1)))
  }

  /// `DEVICE/RESOURCE`
  private mutating func resource() throws(TraceMistake) -> TracedResource {
    let parts = try parts(of: word("a resource"), "/", "DEVICE/RESOURCE such as 0/5", count: 2)
    return TracedResource(
      device: Int(try Self.number(parts[0], "device", 0...UInt64(TraceLimits.devices - 1))),
      number: UInt32(try Self.number(parts[1], "resource", 1...UInt64(UInt32.max))))
  }

  /// `WIDTHxHEIGHT`
  private mutating func size() throws(TraceMistake) -> (width: UInt32, height: UInt32) {
    let parts = try parts(of: word("a size"), "x", "WIDTHxHEIGHT such as 64x48", count: 2)
    return (
      UInt32(try Self.number(parts[0], "width", 1...65535)),
      UInt32(try Self.number(parts[1], "height", 1...65535))
    )
  }

  /// `WIDTHxHEIGHT+X+Y`
  private mutating func area() throws(TraceMistake) -> Rectangle {
    let form = "WIDTHxHEIGHT+X+Y such as 64x48+0+0"
    let places = try parts(of: word("an area"), "+", form, count: 3)
    let sides = try parts(of: places[0], "x", form, count: 2)
    let names = ["width", "height", "x", "y"]
    var values: [UInt32] = []
    for (name, word) in zip(names, sides + places.dropFirst()) {
      values.append(UInt32(try Self.number(word, name, 0...UInt64(UInt32.max))))
    }
    return Rectangle(x: values[2], y: values[3], width: values[0], height: values[1])
  }

  private mutating func format() throws(TraceMistake) -> FourCC {
    let word = try word("a format")
    let format = FourCC(rawValue: word.prefix(4).reversed().reduce(0) { $0 << 8 | UInt32($1) })
    guard word.count == 4, format.bytesPerPixel == 4 else {
      throw TraceMistake("there is no format «\(shown(word))» of 4 bytes; give one such as XR24")
    }
    return format
  }

  private func parts(
    of word: ArraySlice<UInt8>, _ separator: Unicode.Scalar, _ form: String, count: Int
  ) throws(TraceMistake) -> [ArraySlice<UInt8>] {
    let parts = word.split(separator: UInt8(ascii: separator), omittingEmptySubsequences: false)
    if parts.count != count { throw TraceMistake("«\(shown(word))» is no \(form)") }
    return parts
  }
}

/// The words of a line for people, without the bytes that a terminal would take for orders.
func shown(_ bytes: ArraySlice<UInt8>) -> String {
  let start = bytes.prefix(60).map { (0x20..<0x7f).contains($0) ? $0 : UInt8(ascii: "?") }
  return String(decoding: start, as: UTF8.self) + (bytes.count > 60 ? "..." : "")
}
