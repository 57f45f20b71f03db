/// A list in a settings file of another program. Our lines are marked, at its top, and the setting before is a marked
/// comment. When they are taken out again, the file is as it was, byte for byte.
enum MarkedText {
  private static func begin(_ name: String) -> String {
    "# udmabridge: \(name) begins here; `udmabridge doctor --unmend` takes it out, and puts back what was"
  }
  private static func end(_ name: String) -> String { "# udmabridge: \(name) ends here" }
  private static let was = "#udmabridge: "

  /// The lines that stand at the top.
  static func block(_ name: String, _ values: [String]) -> String {
    let list = values.map { "\"\($0)\"" }.joined(separator: ", ")
    return "\(begin(name))\n\(name) = [ \(list) ]\n\(end(name))\n"
  }

  static func set(_ name: String, _ values: [String], in text: String) -> String {
    var isInList = false
    let lines = unset(name, in: text).split(separator: "\n", omittingEmptySubsequences: false).map { line in
      let sides = line.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      let begins = !isInList && sides.count == 2 && sides[0].filter { !$0.isWhitespace } == name
      guard begins || isInList else { return String(line) }
      let code = line.prefix { $0 != "#" }
      isInList = begins ? code.contains("[") && !code.contains("]") : !code.contains("]")
      return was + line
    }
    return block(name, values) + lines.joined(separator: "\n")
  }

  static func unset(_ name: String, in text: String) -> String {
    var lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    guard let first = lines.firstIndex(of: begin(name)[...]),
      let last = lines[first...].firstIndex(of: end(name)[...])
    else { return text }
    lines.removeSubrange(first...last)
    return lines.map { $0.hasPrefix(was) ? String($0.dropFirst(was.count)) : String($0) }
      .joined(separator: "\n")
  }
}
