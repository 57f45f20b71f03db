import Linux
import Programs
import SystemPackage

/// One thing that a remedy changes on a host. Another process can take it back, also after a boot.
enum Change: Codable, Equatable, CustomStringConvertible {
  /// A new directory.
  case directory(String)
  /// A new file, wholly ours.
  case file(String, text: String)
  /// The text of a file of the kernel, until the next boot.
  case value(String, new: String, old: String)
  /// A setting of somebody else's file, in marked lines.
  case setting(String, name: String, values: [String])
  case member(String, group: String)
  /// The group and mode of a device, until it appears anew.
  case access(String, new: Access, old: Access)
  case mount(String, place: String)

  struct Access: Codable, Equatable, CustomStringConvertible {
    let group, mode: UInt32
    var description: String { "group \(groupName(of: group)), mode \(String(mode, radix: 8))" }
  }

  /// The change in one line, and the lines that it writes.
  var description: String {
    switch self {
    case .directory(let path): "new directory \(path)"
    case .file(let path, let text): (["new file \(path):"] + Self.indented(text)).joined(separator: "\n")
    case .value(let path, let new, let old): "\(path): \(new) in place of \(old), until the next boot"
    case .setting(let path, let name, let values):
      (["\(path), at its top; its present lines for \(name) become comments:"]
        + Self.indented(MarkedText.block(name, values))).joined(separator: "\n")
    case .member(let user, let group): "user \(user) joins the group \(group)"
    case .access(let path, let new, let old): "\(path): \(new) in place of \(old)"
    case .mount(let type, let place): "\(type) is mounted on \(place), until the next boot"
    }
  }

  /// The next boot takes it back.
  var endsAtBoot: Bool {
    switch self {
    case .value, .access, .mount: true
    case .directory, .file, .setting, .member: false
    }
  }

  /// The first line of that.
  var title: String { String(description.prefix { $0 != "\n" }) }

  private static func indented(_ text: String) -> [String] {
    text.split(separator: "\n").map { "  \($0)" }
  }
}

/// The host to change: where its files are, and how its programs are run.
struct ChangedHost {
  /// The directory in which its files are.
  var root: FilePath = "/"
  /// Runs a program, and throws if it fails.
  var run: ([String]) throws -> Void = { command in
    let status = try? runToEnd(command)
    if status != 0 {
      throw Trouble(
        "\(command.joined(separator: " ")) ended with \(status.flatMap(\.self).map { "status \($0)" } ?? "no status")"
      )
    }
  }

  func place(_ path: String) -> FilePath { root.appending(path.drop { $0 == "/" }.description) }

  func text(_ path: String) -> String? { try? readText(place(path)) }

  func isThere(_ path: String) -> Bool { (try? FileAccess(of: place(path))) != nil }

  /// Whether a line of a file of systemd or udev, comments aside, has all of these words.
  func mentions(_ directory: String, _ words: [String]) -> Bool {
    ["/etc", "/run", "/usr/local/lib", "/usr/lib"].map { "\($0)/\(directory)" }.contains { directory in
      directoryEntries(place(directory)).filter { $0.hasSuffix(".conf") || $0.hasSuffix(".rules") }
        .contains { name in
          let text = (text("\(directory)/\(name)") ?? "").replacing("\\\n", with: "")
          return text.split(separator: "\n").contains { line in
            line.first { !$0.isWhitespace } != "#" && words.allSatisfy { line.contains($0) }
          }
        }
    }
  }

  /// Nil where it cannot be known.
  func isMounted(_ type: String, _ place: String) -> Bool? {
    text("/proc/mounts").map { text in
      text.split(separator: "\n").contains { line in
        let words = line.split(separator: " ")
        return words.count > 2 && words[1] == place && words[2] == type
      }
    }
  }

  /// Nil where it cannot be known.
  private func isMember(_ user: String, of group: String) -> Bool? {
    text("/etc/group").map { text in
      text.split(separator: "\n").contains { line in
        let fields = line.split(separator: ":", omittingEmptySubsequences: false)
        return fields.count == 4 && fields[0] == group && fields[3].split(separator: ",").contains(user[...])
      }
    }
  }

  /// Changes a file of another program. The file must be readable as a whole.
  private func edit(_ path: String, _ change: (String) -> String) throws {
    let limit = 1 << 20
    let old = try readText(place(path), upTo: limit)
    // A replacement character stands for bytes that are not UTF-8.
    guard old.utf8.count < limit, !old.unicodeScalars.contains("\u{fffd}") else {
      throw Trouble("the file is not UTF-8 of less than \(limit) bytes; write this into it by hand")
    }
    let new = change(old)
    if new != old { try replaceText(place(path), new) }
  }

  func perform(_ change: Change) throws {
    do {
      switch change {
      case .directory(let path): try makeDirectory(place(path), mode: 0o755)
      case .file(let path, let text): try writeText(place(path), text)
      case .value(let path, let new, _): try writeText(place(path), new)
      case .setting(let path, let name, let values):
        try edit(path) { MarkedText.set(name, values, in: $0) }
      case .member(let user, let group): try run(["gpasswd", "--add", user, group])
      case .access(let path, let new, _): try set(path, new)
      case .mount(let type, let path): try run(["mount", "-t", type, type, place(path).string])
      }
    } catch { throw Trouble("\(change.title): \(error)") }
  }

  /// Takes a change back.
  /// - Returns: why the change stays, and is no longer ours; nil if it was taken back.
  func revert(_ change: Change) throws -> String? {
    let changed = "was changed since"
    do {
      switch change {
      case .directory(let path): removeEmptyDirectory(place(path))
      case .file(let path, let wanted):
        guard let found = text(path) else { return nil }
        if found != wanted { return "\(path) \(changed)" }
        removeFile(place(path))
        if isThere(path) { throw Trouble("it cannot be removed") }
      case .value(let path, let new, let old):
        if text(path)?.prefix(while: { $0 != "\n" }) != new[...] { return "\(path) \(changed)" }
        // Our own entry was removed before.
        if mentions("tmpfiles.d", [path, new]) { return "\(path): tmpfiles.d sets \(new) at each boot" }
        try writeText(place(path), old)
      case .setting(let path, let name, _):
        guard isThere(path) else { return nil }
        try edit(path) { MarkedText.unset(name, in: $0) }
      case .member(let user, let group):
        if isMember(user, of: group) == false { return "\(user) is not in the group \(group) any more" }
        try run(["gpasswd", "--delete", user, group])
      case .access(let path, let new, let old):
        let found = try FileAccess(of: place(path))
        if (found.group, found.mode) != (new.group, new.mode) { return "\(path) \(changed)" }
        try set(path, old)
      case .mount(let type, let path):
        if isMounted(type, path) == false { return "\(path) is not mounted any more" }
        try run(["umount", place(path).string])
      }
      return nil
    } catch { throw Trouble("\(change.title): \(error)") }
  }

  private func set(_ path: String, _ access: Change.Access) throws(Errno) {
    let user = try FileAccess(of: place(path)).user
    try setOwner(place(path), user: user, group: access.group)
    try setMode(place(path), access.mode)
  }
}
