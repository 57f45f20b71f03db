import Linux
import Programs
import Testing

@testable import udmabridge

/// Numbers and lists as people write them.
@Suite struct RangeListTests {
  struct Number: Sendable, CustomTestStringConvertible {
    let text: String
    let value: UInt64?
    var testDescription: String { "«\(text)»" }
    init(_ text: String, _ value: UInt64?) { (self.text, self.value) = (text, value) }
  }

  @Test(
    "numbers are read with their prefix or suffix, and wrong ones are refused",
    arguments: [
      Number("0", 0), Number("4096", 4096), Number("64M", 64 << 20), Number("3g", 3 << 30),
      Number("1T", 1 << 40),
      Number("0x1000", 4096), Number("0XfF", 255), Number("18446744073709551615", .max),
      Number("0xffffffffffffffff", .max), Number("16777216T", nil), Number("18446744073709551616", nil),
      Number("0x10000000000000000", nil), Number("", nil), Number("K", nil), Number("0x", nil),
      Number("-1", nil),
      Number("1.5G", nil), Number("12Q", nil), Number("ff", nil), Number("0x1K", nil),
      Number("99999999999999999999", nil),
    ])
  func numbers(_ number: Number) {
    #expect(Quantity(argument: number.text)?.value == number.value)
    // What it says of itself is read as the same.
    if let value = number.value { #expect(Quantity(argument: Quantity(value).description)?.value == value) }
  }

  struct List: Sendable, CustomTestStringConvertible {
    let name, text: String
    let ranges: [ByteRange]?
    var testDescription: String { name }
    init(_ name: String, _ text: String, _ ranges: [(UInt64, UInt64)]?) {
      (self.name, self.text) = (name, text)
      self.ranges = ranges?.map { ByteRange(start: $0.0, length: $0.1) }
    }
  }

  static let lists = [
    List("nothing", "", []), List("only a comment", "# nothing\n", []),
    List("lines", "0x1000:4K\n8192:0x1000\n", [(0x1000, 4096), (8192, 4096)]),
    List("no end of the last line", "0:1", [(0, 1)]),
    List("a page by its address alone", "0x5000", [(0x5000, systemPageSize)]),
    List("blanks, tabs, commas", " 1:2,\t3:4 , 5:6\r\n", [(1, 2), (3, 4), (5, 6)]),
    List("a comment ends with its line", "1:2 # 3:4\n5:6#7:8\n", [(1, 2), (5, 6)]),
    List("a range without a length", "1:", nil), List("no number", "zork:1", nil),
    List("two colons", "1:2:3", nil),
    List("too large", "0x10000000000000000:1", nil),
    List("a word without end", String(repeating: "1", count: 5000), nil),
  ]

  @Test("a list is read the same, wherever it is cut into pieces", arguments: lists)
  func list(_ list: List) throws {
    let bytes = Array(list.text.utf8)
    for size in [1, 2, 7, max(1, bytes.count)] {
      func parse() throws -> [ByteRange] {
        var parser = RangeListParser("list")
        for start in stride(from: 0, to: bytes.count, by: size) {
          try parser.feed(bytes[start..<min(start + size, bytes.count)])
        }
        try parser.finish()
        return parser.ranges
      }
      if let ranges = list.ranges {
        #expect(try parse() == ranges)
      } else {
        #expect(throws: Trouble.self) { try parse() }
      }
    }
  }

  @Test("the word end ends a list that may be kept up, and nothing behind it is read")
  func kept() throws {
    let text = Array("0x1000:4K # end\n0x3000\nend\nzork 0x5000\n".utf8)
    for size in [1, 3, text.count] {
      var parser = RangeListParser("standard input", mayBeKept: true)
      for start in stride(from: 0, to: text.count, by: size) {
        try parser.feed(text[start..<min(start + size, text.count)])
      }
      try parser.finish()
      #expect(parser.isKept)
      #expect(parser.ranges.map(\.start) == [0x1000, 0x3000])
    }
    var parser = RangeListParser("standard input", mayBeKept: true)
    try parser.feed(Array("0x1000\n".utf8)[...])
    try parser.finish()
    #expect(!parser.isKept)
    // A file is there, and nobody has to keep it.
    var file = RangeListParser("list")
    #expect(throws: Trouble.self) { try file.feed(Array("0x1000\nend\n".utf8)[...]) }
  }

  @Test("a mistake in a list is reported with its file and line")
  func place() throws {
    var parser = RangeListParser("pages.txt")
    try parser.feed(Array("# a list\n0:4K\n".utf8)[...])
    let trouble = #expect(throws: Trouble.self) { try parser.feed(Array("4096;8\n".utf8)[...]) }
    #expect(trouble?.description == "pages.txt, line 3: «4096;8» is not ADDRESS:LENGTH, such as 0x1000:64K")
  }
}
