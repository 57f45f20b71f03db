/// An option that a domain may choose for its helper: one of `vhost-user-udmabuf`, without the dashes.
package struct DomainOption: Equatable, Sendable {
  /// Such as `kms`.
  package let name: String
  /// As on the command line.
  package let value: String

  /// What a domain may choose. What the helper serves, and where, is libvirt's.
  package static let names = [
    "audience", "backing", "control", "control-allow", "control-connections", "control-group",
    "control-mode", "control-watchers", "cursor", "display", "host-memory", "kms", "lend-socket-path",
    "log-level",
    "max-bookkeeping", "max-entries", "max-imports", "max-lent", "max-metadata", "max-pinned",
    "max-resources", "max-shadow", "port", "port-burst", "port-line", "port-rate", "resolution", "sandbox",
    "share-socket-path", "stats", "stride-alignment", "trace", "trace-limit",
  ]

  /// Of a name that a domain may choose; a value is one line without control characters.
  package init(_ name: String, _ value: String) throws(DomainError) {
    guard Self.names.contains(name) else { throw .unknownOption(name) }
    guard !value.isEmpty, value.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7f }) else {
      throw .noOption("\(name)=\(value)")
    }
    (self.name, self.value) = (name, value)
  }

  /// Reads `NAME=VALUE`.
  package init(_ text: String) throws(DomainError) {
    let sides = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
    guard sides.count == 2 else { throw .noOption(text) }
    try self.init(String(sides[0]), String(sides[1]))
  }
}

extension DomainOption {
  /// Reads a domain's file: `OPTION = VALUE` in each line, empty lines, and comments after `#` at a line's begin.
  package static func read(_ text: String, of file: String) throws(DomainError) -> [DomainOption] {
    var options: [DomainOption] = []
    let lines = text.split(omittingEmptySubsequences: false) { $0.isNewline }
    for (index, line) in lines.enumerated() {
      let line = line.trimmed
      if line.isEmpty || line.hasPrefix("#") { continue }
      do throws(DomainError) {
        let sides = line.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        guard sides.count == 2 else { throw .noOption(String(line)) }
        options.append(try DomainOption(String(sides[0].trimmed), String(sides[1].trimmed)))
      } catch { throw .line(file: file, number: index + 1, "\(error)") }
    }
    return options
  }
}

extension Substring {
  fileprivate var trimmed: Substring {
    let start = drop(while: \.isWhitespace)
    return start[..<(start.lastIndex { !$0.isWhitespace }.map(start.index(after:)) ?? start.startIndex)]
  }
}
