import ArgumentParser
import Glibc
import Linux
import Programs

extension Doctor {
  /// Mends this host, or takes the changes back.
  func change() throws {
    guard geteuid() == 0 else {
      throw Trouble("only root may change this host: sudo udmabridge doctor --\(verb)")
    }
    let mending = Mending(host: ChangedHost())
    if unmend {
      let changes = try mending.changes()
      if changes.isEmpty {
        // The record may still have changes that a boot has taken back.
        try mending.undo { _ in }
        return try printLine("nothing that udmabridge doctor mended is left")
      }
      try printLine("taken back, the last one first:")
      for change in changes.reversed() { try printLine("  \(change.title)") }
      if try isWanted(), try !mending.undo({ try printLine($0) }) { throw ExitCode(1) }
      return
    }
    let remedies = Remedies(host: mending.host, user: userOfDevices, usesCards: user != nil).needed
    if remedies.isEmpty { return try printLine("nothing needs mending") }
    for remedy in remedies { try printLine(remedy.text) }
    if try isWanted(), try !mending.perform(remedies, { try printLine($0) }) { throw ExitCode(1) }
  }

  private var verb: String { mend ? "mend" : "unmend" }

  /// Root needs no group.
  private var userOfDevices: Account? {
    let caller = unsafe (getenv("SUDO_USER") ?? getenv("DOAS_USER")).map { unsafe String(cString: $0) }
    return (user ?? caller).flatMap { Account($0) }.flatMap { $0.user == 0 ? nil : $0 }
  }

  private func isWanted() throws -> Bool {
    if yes { return true }
    try printLine("make these changes? y or n")
    guard let answer = readLine(), ["y", "yes"].contains(answer.lowercased()) else {
      try printLine("nothing was changed")
      return false
    }
    return true
  }
}
