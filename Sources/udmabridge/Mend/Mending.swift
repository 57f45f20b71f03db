import FoundationEssentials
import Linux
import SystemPackage

/// Mends a host, writes down what was changed, and takes it back by that.
struct Mending {
  let host: ChangedHost

  private static let directory = "/var/lib/udmabridge"
  /// What was changed and not taken back, in order.
  static let record = directory + "/mended.json"

  func changes() throws -> [Change] {
    guard let text = host.text(Self.record) else { return [] }
    do { return try JSONDecoder().decode([Change].self, from: Data(text.utf8)) } catch {
      throw Trouble("\(Self.record) cannot be understood: \(error)")
    }
  }

  private func write(_ changes: [Change]) throws {
    let path = host.place(Self.record)
    if changes.isEmpty {
      removeFile(path)
      return removeEmptyDirectory(host.place(Self.directory))
    }
    try makeDirectory(host.place(Self.directory), mode: 0o755)
    try replaceFile(path, jsonText(changes) + "\n")
  }

  /// Does what the remedies say, each change written down before it is done: what a kill leaves half done can be taken back.
  func perform(_ remedies: [Remedy], _ say: (String) throws -> Void) throws {
    var done = try changes()
    for remedy in remedies {
      for change in remedy.changes {
        let isNew = !done.contains { $0.isLike(change) }
        if isNew {
          done.append(change)
          try write(done)
        }
        do { try host.perform(change) } catch {
          if isNew {
            done.removeLast()
            try write(done)
          }
          throw error
        }
      }
      try say("done: \(remedy.name)" + (remedy.after.map { "; then: \($0)" } ?? ""))
    }
  }

  /// Takes back all that is written down, the last change first. What was changed by others since stays.
  func undo(_ say: (String) throws -> Void) throws {
    var left = try changes()
    while let change = left.last {
      let why = host.revert(change)
      left.removeLast()
      try write(left)
      try say(why.map { "left: \($0)" } ?? "taken back: \(change.title)")
    }
  }
}

extension Change {
  /// It takes back what the other one does too.
  fileprivate func isLike(_ other: Change) -> Bool {
    if case .setting(let path, let name, _) = self, case .setting(path, name, _) = other { return true }
    return self == other
  }
}
