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

  convenience init(
    _ program: FilePath, _ a: String? = nil, _ b: String? = nil, _ c: String? = nil, _ d: String? = nil
  )
    throws
  {
    try self.init(unsafe cb_spawn(program.string, a, b, c, d))
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

  /// The most memory that it has had, in KiB.
  func peakMemory() throws -> Double {
    let status = try readText(FilePath("/proc/\(pid)/status"))
    for line in status.split(separator: "\n") where line.hasPrefix("VmHWM:") {
      if let number = line.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap({ Double($0) }) {
        return number
      }
    }
    throw WrongResult("/proc/\(pid)/status tells VmHWM")
  }
}

/// The real program and a connection to it.
struct RunningHelper: ~Copyable {
  let child: Child
  let socket: UnixSocket

  private static var path: FilePath {
    FilePath(CommandLine.arguments[0]).removingLastComponent().appending("vhost-user-udmabuf")
  }

  /// Starts it and connects as soon as it listens.
  static func start() throws -> RunningHelper {
    let path = "/tmp/udmabridge-bench-\(getpid())"
    let child = try Child(Self.path, "--socket-path", path, "--log-level", "error")
    let end = monotonicNanoseconds() + 10_000_000_000
    while true {
      do throws(Errno) {
        return RunningHelper(child: child, socket: try UnixSocket.connect(FilePath(path)))
      } catch {
        try check(monotonicNanoseconds() < end, "\(Self.path) listens within 10 s: build it first")
        _ = cb_sleep(20)
      }
    }
  }

  consuming func takeSocket() -> UnixSocket { socket }
}
