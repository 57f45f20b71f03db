import ArgumentParser
import FoundationEssentials
import Linux

/// The option of every command that prints facts.
struct OutputOptions: ParsableArguments {
  @Flag(help: "Print JSON: sizes, offsets and addresses are numbers of bytes.")
  var json = false

  /// Prints a value as text or JSON, and flushes it.
  func print(_ value: some Encodable, _ text: @autoclosure () -> String) throws {
    try printLine(json ? try jsonText(value) : text())
  }
}

/// JSON with keys in alphabetical order: indented for people, or in one line for streams.
func jsonText(_ value: some Encodable, inOneLine: Bool = false) throws -> String {
  let encoder = JSONEncoder()
  encoder.outputFormatting =
    inOneLine
    ? [.sortedKeys, .withoutEscapingSlashes] : [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
  return String(decoding: try encoder.encode(value), as: UTF8.self)
}

/// `8.3 MiB`, or the exact number of units if it is whole.
func bytes(_ count: UInt64) -> String {
  let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] as [(String, UInt64)]
  guard let (unit, shift) = units.first(where: { count >> $0.1 > 0 }) else { return "\(count) bytes" }
  let tenths = ((count >> (shift - 10)) * 10) >> 10
  return count & (1 << shift - 1) == 0 ? "\(count >> shift) \(unit)" : "\(tenths / 10).\(tenths % 10) \(unit)"
}

/// A name that others have chosen, in one line. Unprintable characters are escaped, so they cannot move the cursor.
func printable(_ name: String) -> String {
  name.unicodeScalars.map { scalar in
    switch scalar.properties.generalCategory {
    case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .privateUse, .unassigned:
      "\\u{\(String(scalar.value, radix: 16))}"
    default: scalar == "\\" ? "\\\\" : String(scalar)
    }
  }.joined()
}

/// `1 page`, `2 pages`.
func counted(_ count: some BinaryInteger, _ one: String, _ many: String? = nil) -> String {
  "\(count) \(count == 1 ? one : many ?? one + "s")"
}

/// Rows under a heading, each column as wide as it must be. Numbers are best right-aligned.
struct Table {
  enum Alignment { case left, right }
  let columns: [(title: String, alignment: Alignment)]
  var rows: [[String]] = []

  init(_ columns: [(String, Alignment)]) { self.columns = columns }

  var text: String {
    let all = [columns.map(\.title)] + rows
    let widths = columns.indices.map { column in all.map { $0[column].count }.max() ?? 0 }
    return all.map { row in
      let cells = row.enumerated().map { column, cell in
        let pad = String(repeating: " ", count: widths[column] - cell.count)
        return columns[column].alignment == .right ? pad + cell : cell + pad
      }
      let line = cells.joined(separator: "  ")
      return String(line.reversed().drop { $0 == " " }.reversed())
    }.joined(separator: "\n")
  }
}
