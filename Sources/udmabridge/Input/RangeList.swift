import Linux
import Programs
import SystemPackage

/// Reads ranges, byte by byte: `ADDRESS:LENGTH`, or `ADDRESS` for a page, between blanks, commas and line ends.
/// What follows `#` in a line is a comment.
struct RangeListParser {
  /// More would be a mistake: 64 GiB of single pages.
  static let maximum = 1 << 24

  private(set) var ranges: [ByteRange] = []
  private let name: String?
  private var token: [UInt8] = []
  private var line = 1
  private var isInComment = false

  /// - Parameter name: what errors call the text; nil for a word of the command line.
  init(_ name: String?) {
    self.name = name
    token.reserveCapacity(Self.longest)
  }

  /// Two numbers of 64 bits and a colon are shorter.
  private static let longest = 64

  /// Takes the next piece of the text, wherever it was cut.
  mutating func feed(_ bytes: ArraySlice<UInt8>) throws {
    for byte in bytes {
      if isInComment {
        if byte == UInt8(ascii: "\n") { (isInComment, line) = (false, line + 1) }
        continue
      }
      switch byte {
      case UInt8(ascii: "\n"):
        try finishToken()
        line += 1
      case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"), UInt8(ascii: ","): try finishToken()
      case UInt8(ascii: "#"):
        try finishToken()
        isInComment = true
      default:
        token.append(byte)
        if token.count > Self.longest { throw malformed() }
      }
    }
  }

  /// The end of the text.
  mutating func finish() throws { try finishToken() }

  private mutating func finishToken() throws {
    if token.isEmpty { return }
    let colon = token.firstIndex(of: UInt8(ascii: ":")) ?? token.endIndex
    let length = colon == token.endIndex ? systemPageSize : Quantity.parse(token[(colon + 1)...])
    guard let address = Quantity.parse(token[..<colon]), let length else { throw malformed() }
    if ranges.count == Self.maximum {
      throw Trouble("\(name ?? "the list") has more than \(Self.maximum) ranges")
    }
    ranges.append(ByteRange(start: address, length: length))
    token.removeAll(keepingCapacity: true)
  }

  private func malformed() -> Trouble {
    let place = name.map { "\($0), line \(line): " } ?? ""
    return Trouble(
      "\(place)«\(String(decoding: token, as: UTF8.self))» is no ADDRESS:LENGTH such as 0x1000:64K")
  }
}

/// Ranges as they are given on a command line.
enum RangeList {
  /// Each word is a range, `@FILE`, or `-` for standard input.
  static func read(_ words: [String]) throws -> [ByteRange] {
    var ranges: [ByteRange] = []
    for word in words {
      if word == "-" {
        ranges += try read("standard input", FD.copy(ofInherited: 0))
      } else if word.hasPrefix("@") {
        let path = String(word.dropFirst())
        let file: FD
        do throws(Errno) { file = try FD.open(FilePath(path), writable: false) } catch {
          throw Trouble("the list \(path) cannot be read: \(error)")
        }
        let more = try read(path, file)
        // A list of a million ranges is not copied.
        if ranges.isEmpty { ranges = more } else { ranges += more }
      } else {
        var parser = RangeListParser(nil)
        try parser.feed(Array(word.utf8)[...])
        try parser.finish()
        ranges += parser.ranges
      }
    }
    return ranges
  }

  private static func read(_ name: String, _ file: consuming FD) throws -> [ByteRange] {
    var parser = RangeListParser(name)
    var buffer: [UInt8] = []
    do {
      while case let count = try file.read(into: &buffer, upTo: 1 << 18), count > 0 {
        try parser.feed(buffer[..<count])
      }
    } catch let error as Errno { throw Trouble("\(name) cannot be read: \(error)") }
    try parser.finish()
    return parser.ranges
  }
}
