import CBench
import Glibc
import Linux
import SystemPackage

/// A process that was started here. It is killed with its owner, if it has not ended.
final class Child {
  let pid: pid_t
  private var hasEnded = false

  init(_ pid: pid_t) throws {
    try check(pid > 0, "a process can be started")
    self.pid = pid
  }

  convenience init(_ program: FilePath, _ arguments: [String] = []) throws {
    var words: [UnsafeMutablePointer<CChar>?] = unsafe ([program.string] + arguments).map {
      unsafe strdup($0)
    }
    unsafe words.append(nil)
    defer { for index in unsafe words.indices { unsafe free(words[index]) } }
    try self.init(unsafe cb_spawn(&words))
  }

  /// Standard output and error go to `output`; the program has `input` as descriptor 3.
  convenience init(
    _ program: FilePath, _ arguments: [String], output: borrowing FD, input: borrowing FD
  ) throws {
    var words: [UnsafeMutablePointer<CChar>?] = unsafe ([program.string] + arguments).map {
      unsafe strdup($0)
    }
    unsafe words.append(nil)
    defer { for index in unsafe words.indices { unsafe free(words[index]) } }
    let (theirs, given) = (output.withRaw { $0 }, input.withRaw { $0 })
    try self.init(unsafe cb_spawn_with(&words, theirs, given))
  }

  deinit {
    if hasEnded { return }
    _ = cb_kill(pid)
    _ = cb_reap(pid)
  }

  /// - Returns: its exit status.
  func wait() -> CInt {
    hasEnded = true
    return cb_reap(pid)
  }

  /// The CPU time that it has used so far, its kernel's share included, in nanoseconds.
  func cpuTime() throws -> Double {
    let time = cb_cpu_time(pid)
    try check(time >= 0, "the CPU time of process \(pid) can be read")
    return Double(time)
  }

  /// The most memory that it has had, in KiB.
  func peakMemory() throws -> Double { try number("VmHWM:", in: "status") }

  /// A number that a file of the kernel has of it, in a line that begins with `name`.
  func number(_ name: String, in file: String) throws -> Double {
    for line in try readText(FilePath("/proc/\(pid)/\(file)")).split(separator: "\n")
    where line.hasPrefix(name) {
      if let number = line.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap({ Double($0) }) {
        return number
      }
    }
    throw WrongResult("/proc/\(pid)/\(file) tells \(name)")
  }
}
