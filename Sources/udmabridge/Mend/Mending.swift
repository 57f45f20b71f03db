import FoundationEssentials
import Linux
import Programs
import SystemPackage

/// Mends a host, notes the changes, and can take them back.
struct Mending {
  let host: ChangedHost

  private static let directory = "/var/lib/udmabridge"
  /// All changes that are still in place, in order.
  static let record = directory + "/mended.json"

  private struct Entry: Codable {
    let change: Change
    /// The boot in which the change was made.
    let boot: String?
  }

  private var boot: String? { host.text("/proc/sys/kernel/random/boot_id") }

  func changes() throws -> [Change] { try entries().map(\.change) }

  /// The noted changes, without those that a boot has taken back.
  private func entries() throws -> [Entry] {
    guard let text = host.text(Self.record) else { return [] }
    do {
      return try JSONDecoder().decode([Entry].self, from: Data(text.utf8))
        .filter { !$0.change.endsAtBoot || $0.boot == boot }
    } catch { throw Trouble("\(Self.record) cannot be understood: \(error)") }
  }

  private func write(_ entries: [Entry]) throws {
    let path = host.place(Self.record)
    if entries.isEmpty {
      removeFile(path)
      return removeEmptyDirectory(host.place(Self.directory))
    }
    try makeDirectory(host.place(Self.directory), mode: 0o755)
    try replaceFile(path, jsonText(entries) + "\n")
  }

  /// Makes the changes of the remedies. Each is noted before it is made, so that it can be taken back after a kill. If one
  /// fails, the others are still made.
  /// - Returns: whether all are done.
  @discardableResult
  func perform(_ remedies: [Remedy], _ say: (String) throws -> Void) throws -> Bool {
    var done = try entries()
    var failed = false
    for remedy in remedies {
      do {
        for change in remedy.changes { try perform(change, &done) }
      } catch {
        failed = true
        try say("failed: \(remedy.name): \(error)")
        continue
      }
      try say("done: \(remedy.name)" + (remedy.after.map { "; then: \($0)" } ?? ""))
    }
    return !failed
  }

  private func perform(_ change: Change, _ done: inout [Entry]) throws {
    if done.contains(where: { $0.change.isLike(change) }) { return try host.perform(change) }
    let with = done + [Entry(change: change, boot: boot)]
    try write(with)
    do { try host.perform(change) } catch {
      try write(done)
      throw error
    }
    done = with
  }

  /// Takes back all noted changes, the last one first. A thing that others changed since stays as it is. A change that
  /// cannot be taken back stays noted.
  /// - Returns: whether nothing has failed.
  @discardableResult
  func undo(_ say: (String) throws -> Void) throws -> Bool {
    var left = try entries()
    var failed: [Entry] = []
    while let entry = left.popLast() {
      let line: String
      do {
        let why = try host.revert(entry.change)
        line = why.map { "left: \($0)" } ?? "taken back: \(entry.change.title)"
      } catch {
        failed.insert(entry, at: 0)
        line = "failed: \(error)"
      }
      try write(left + failed)
      try say(line)
    }
    try write(failed)
    return failed.isEmpty
  }
}

extension Change {
  /// Taking this change back also takes back the other one.
  fileprivate func isLike(_ other: Change) -> Bool {
    if case .setting(let path, let name, _) = self, case .setting(path, name, _) = other { return true }
    return self == other
  }
}
