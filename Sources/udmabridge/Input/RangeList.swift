import Linux
import Programs
import SystemPackage

/// Reads ranges, byte by byte: `ADDRESS:LENGTH`, or `ADDRESS` for a page, between blanks, commas and line ends.
/// `#` begins a comment that ends with the line. The word `end` ends a list whose writer keeps it valid.
struct RangeListParser {
  /// 64 GiB of single pages. A longer list is a mistake.
  static let maximum = 1 << 24

  /// Those that were parsed and not taken yet.
  private(set) var ranges: [ByteRange] = []
  private var count = 0
  /// The word `end` came. The writer keeps the list valid, and nothing behind `end` is read.
  private(set) var isKept = false
  private let mayBeKept: Bool
  private let name: String?
  private var token: [UInt8] = []
  private var line = 1
  private var isInComment = false

  /// - Parameters:
  ///   - name: what errors call the text; nil for a word of the command line.
  ///   - mayBeKept: the text's writer may keep the list valid, and end it with `end`.
  init(_ name: String?, mayBeKept: Bool = false) {
    (self.name, self.mayBeKept) = (name, mayBeKept)
    token.reserveCapacity(Self.longest)
  }

  /// Longer than two numbers of 64 bits and a colon.
  private static let longest = 64

  /// Takes the next piece of the text, which may be cut anywhere.
  mutating func feed(_ bytes: ArraySlice<UInt8>) throws {
    for byte in bytes {
      if isKept { return }
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

  /// The ranges since the last call. The parser keeps none of them.
  mutating func take() -> [ByteRange] {
    defer { ranges.removeAll() }
    return ranges
  }

  private mutating func finishToken() throws {
    if token.isEmpty { return }
    if mayBeKept, token.elementsEqual("end".utf8) {
      isKept = true
      return token.removeAll()
    }
    let colon = token.firstIndex(of: UInt8(ascii: ":")) ?? token.endIndex
    let length = colon == token.endIndex ? systemPageSize : Quantity.parse(token[(colon + 1)...])
    guard let address = Quantity.parse(token[..<colon]), let length else { throw malformed() }
    if count == Self.maximum {
      throw Trouble("\(name ?? "the list") has more than \(Self.maximum) ranges; name fewer at a time")
    }
    count += 1
    ranges.append(ByteRange(start: address, length: length))
    token.removeAll(keepingCapacity: true)
  }

  private func malformed() -> Trouble {
    let place = name.map { "\($0), line \(line): " } ?? ""
    return Trouble(
      "\(place)«\(String(decoding: token, as: UTF8.self))» is not ADDRESS:LENGTH, such as 0x1000:64K")
  }
}

/// Ranges as they are given on a command line.
struct RangeList {
  private(set) var ranges: [ByteRange] = []
  /// They came from standard input, up to the word `end`. They are valid as long as standard input is open.
  private(set) var isKept = false

  init(_ words: [String]) throws {
    isKept = try Self.read(words) { ranges += $0 }
  }

  /// Each word is a range, `@FILE`, or `-` for standard input.
  /// - Parameter body: gets the ranges in order, in pieces.
  /// - Returns: whether they are kept up.
  @discardableResult
  static func read(_ words: [String], _ body: ([ByteRange]) throws -> Void) throws -> Bool {
    var isKept = false
    for word in words {
      var parser: RangeListParser
      if word == "-" {
        parser = RangeListParser("standard input", mayBeKept: true)
        try read("standard input", FD.copy(ofInherited: 0), &parser, body)
      } else if word.hasPrefix("@") {
        let path = String(word.dropFirst())
        let file: FD
        do throws(Errno) { file = try FD.open(FilePath(path), writable: false) } catch {
          throw Trouble("the list \(path) cannot be read: \(error)")
        }
        parser = RangeListParser(path)
        try read(path, file, &parser, body)
      } else {
        parser = RangeListParser(nil)
        try parser.feed(Array(word.utf8)[...])
      }
      try parser.finish()
      try body(parser.take())
      isKept = isKept || parser.isKept
    }
    return isKept
  }

  private static func read(
    _ name: String, _ file: consuming FD, _ parser: inout RangeListParser,
    _ body: ([ByteRange]) throws -> Void
  ) throws {
    var buffer: [UInt8] = []
    while !parser.isKept {
      let count: Int
      do throws(Errno) { count = try file.read(into: &buffer, upTo: 1 << 18) } catch {
        throw Trouble("\(name) cannot be read: \(error)")
      }
      if count == 0 { break }
      try parser.feed(buffer[..<count])
      try body(parser.take())
    }
  }
}
