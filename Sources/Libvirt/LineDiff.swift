/// The difference of two texts: removed and added lines, with three lines around them.
package struct LineDiff: CustomStringConvertible {
  /// A line and its fate.
  private enum Line {
    case kept(Substring)
    case gone(Substring)
    case new(Substring)
    var isKept: Bool { if case .kept = self { true } else { false } }
  }
  private var lines: [Line] = []

  package init(_ old: String, _ new: String) {
    let (old, new) = (
      old.split(separator: "\n", omittingEmptySubsequences: false),
      new.split(separator: "\n", omittingEmptySubsequences: false)
    )
    let difference = new.difference(from: old)
    var (gone, come): (Set<Int>, Set<Int>) = ([], [])
    for change in difference {
      switch change {
      case .remove(let offset, _, _): gone.insert(offset)
      case .insert(let offset, _, _): come.insert(offset)
      }
    }
    var (left, right) = (0, 0)
    while left < old.count || right < new.count {
      if gone.contains(left) {
        lines.append(.gone(old[left]))
        left += 1
      } else if come.contains(right) {
        lines.append(.new(new[right]))
        right += 1
      } else {
        lines.append(.kept(new[right]))
        left += 1
        right += 1
      }
    }
  }

  /// Whether nothing changes.
  package var isEmpty: Bool { lines.allSatisfy(\.isKept) }

  /// A line for each, after `-`, `+` or a blank. Passwords are not shown.
  package var description: String {
    let changed = lines.indices.filter { !lines[$0].isKept }
    var shown: [String] = []
    var last: Int?
    for index in lines.indices
    where changed.contains(where: { abs($0 - index) <= 3 }) {
      if let last, last + 1 < index { shown.append("...") }
      last = index
      switch lines[index] {
      case .kept(let line): shown.append("  \(Self.masked(line))")
      case .gone(let line): shown.append("- \(Self.masked(line))")
      case .new(let line): shown.append("+ \(Self.masked(line))")
      }
    }
    return shown.joined(separator: "\n")
  }

  private static func masked(_ line: Substring) -> String {
    String(line).replacing(/passwd=("[^"]*"|'[^']*')/, with: "passwd=\"...\"")
  }
}
