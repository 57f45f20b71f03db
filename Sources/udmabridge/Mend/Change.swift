import Linux
import SystemPackage

/// One thing that a remedy changes on a host. It knows how to be taken back, also by another process after a boot.
enum Change: Codable, Equatable, CustomStringConvertible {
  /// A directory that was not there.
  case directory(String)
  /// A file that was not there, and is wholly ours.
  case file(String, text: String)
  /// What a file of the kernel says, until the next boot.
  case value(String, new: String, old: String)
  /// A setting of somebody else's file, in marked lines.
  case setting(String, name: String, values: [String])
  case member(String, group: String)
  /// Whose a device is, and who may use it, until it appears anew.
  case access(String, new: Access, old: Access)
  case mount(String, place: String)

  struct Access: Codable, Equatable, CustomStringConvertible {
    let group, mode: UInt32
    var description: String { "group \(groupName(of: group)), mode \(String(mode, radix: 8))" }
  }

  /// What is done, in a line and those that are written.
  var description: String {
    switch self {
    case .directory(let path): "new directory \(path)"
    case .file(let path, let text): (["new file \(path):"] + Self.indented(text)).joined(separator: "\n")
    case .value(let path, let new, let old): "\(path): \(new) in place of \(old), until the next boot"
    case .setting(let path, let name, let values):
      (["\(path), at its top, and what it says of \(name) now becomes a comment:"]
        + Self.indented(MarkedText.block(name, values))).joined(separator: "\n")
    case .member(let user, let group): "user \(user) joins the group \(group)"
    case .access(let path, let new, let old): "\(path): \(new) in place of \(old)"
    case .mount(let type, let place): "\(type) is mounted on \(place), until the next boot"
    }
  }

  /// The first line of that.
  var title: String { String(description.prefix { $0 != "\n" }) }

  private static func indented(_ text: String) -> [String] {
    text.split(separator: "\n").map { "  \($0)" }
  }
}

/// The host that is changed: where its files are, and how its programs are run.
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

  func perform(_ change: Change) throws {
    do {
      switch change {
      case .directory(let path): try makeDirectory(place(path), mode: 0o755)
      case .file(let path, let text): try writeText(place(path), text)
      case .value(let path, let new, _): try writeText(place(path), new)
      case .setting(let path, let name, let values):
        let text = try readText(place(path))
        try replaceText(place(path), MarkedText.set(name, values, in: text))
      case .member(let user, let group): try run(["gpasswd", "--add", user, group])
      case .access(let path, let new, _): try set(path, new)
      case .mount(let type, let path): try run(["mount", "-t", type, type, place(path).string])
      }
    } catch { throw Trouble("\(change.title): \(error)") }
  }

  /// Takes a change back.
  /// - Returns: why it is left as it is; nil where it is taken back.
  func revert(_ change: Change) -> String? {
    let changed = "was changed since"
    do {
      switch change {
      case .directory(let path): removeEmptyDirectory(place(path))
      case .file(let path, let wanted):
        guard let found = text(path) else { return nil }
        if found != wanted { return "\(path) \(changed)" }
        removeFile(place(path))
      case .value(let path, let new, let old):
        if text(path)?.prefix(while: { $0 != "\n" }) != new[...] { return "\(path) \(changed)" }
        try writeText(place(path), old)
      case .setting(let path, let name, _):
        guard let text = text(path) else { return nil }
        try replaceText(place(path), MarkedText.unset(name, in: text))
      case .member(let user, let group): try run(["gpasswd", "--delete", user, group])
      case .access(let path, let new, let old):
        let found = try FileAccess(of: place(path))
        if (found.group, found.mode) != (new.group, new.mode) { return "\(path) \(changed)" }
        try set(path, old)
      case .mount(_, let path): try run(["umount", place(path).string])
      }
      return nil
    } catch { return "\(change.title): \(error)" }
  }

  private func set(_ path: String, _ access: Change.Access) throws(Errno) {
    let user = try FileAccess(of: place(path)).user
    try setOwner(place(path), user: user, group: access.group)
    try setMode(place(path), access.mode)
  }
}
