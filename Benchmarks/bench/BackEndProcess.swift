import CBench
import Glibc
import Linux
import SystemPackage

/// A vhost-user back end in a process of its own, and a connection to it.
struct BackEndProcess: ~Copyable {
  let child: Child
  let socket: UnixSocket

  /// The product, beside this program.
  static var helper: FilePath {
    FilePath(CommandLine.arguments[0]).removingLastComponent().appending("vhost-user-udmabuf")
  }

  /// Starts the helper and connects as soon as it listens.
  static func startHelper(_ arguments: [String] = []) throws -> BackEndProcess {
    try start(helper, ["--log-level", "error"] + arguments)
  }

  /// Starts any back end that takes `--socket-path`, as QEMU's conventions ask.
  static func start(_ program: FilePath, _ arguments: [String] = []) throws -> BackEndProcess {
    let path = "/tmp/udmabridge-bench-\(getpid())-\(UInt64.random(in: 0...UInt64.max))"
    let child = try Child(program, ["--socket-path", path] + arguments)
    let end = Instant.now + .seconds(10)
    while true {
      do throws(Errno) {
        let socket = try UnixSocket.connect(FilePath(path))
        // A back end may leave it there; it serves one connection.
        removeFile(FilePath(path))
        return BackEndProcess(child: child, socket: socket)
      } catch {
        try check(Instant.now < end, "\(program) listens within 10 s: build it first")
        _ = cb_sleep(20)
      }
    }
  }

  consuming func takeSocket() -> UnixSocket { socket }
}
