internal import Foundation
internal import Glibc
package import Linux
package import SystemPackage

/// A helper that listens.
package final class Listening {
  package let directory: FilePath
  package let child: Child
  package let output: PipeEnd
  package let stats: FilePath
  package var socket: FilePath { directory.appending("socket") }

  /// - Parameters:
  ///   - limit: what a shell's `ulimit` is to say before the helper starts, soft and hard.
  ///   - directory: for its files, which is removed at the end; a new one if none is named.
  ///   - stats: the statistics file; one in `directory` if none is named.
  package init(
    _ program: FilePath, options: [String] = [], limit: String? = nil, stats: FilePath? = nil,
    directory: FilePath? = nil, before: (FilePath) throws -> Void = { _ in }
  ) throws {
    let directory = try directory ?? makeTemporaryDirectory()
    self.directory = directory
    self.stats = stats ?? directory.appending("stats")
    try before(directory.appending("socket"))
    let arguments =
      [
        "--socket-path", directory.appending("socket").string, "--stats", self.stats.string,
        "--log-level", "error",
      ] + options
    let shell = limit.map { ["-c", "ulimit \($0); exec \"$0\" \"$@\"", program.string] }
    (child, output) = try startReading(
      shell == nil ? program : "/bin/sh", (shell ?? []) + arguments, withErrors: true)
  }

  /// The control socket of a helper that `withControl` has started.
  package var control: FilePath { directory.appending("control") }

  /// Starts vhost-user-udmabuf with a control socket in its directory.
  package static func withControl() throws -> Listening {
    let directory = try makeTemporaryDirectory()
    return try Listening(
      builtPrograms.appending("vhost-user-udmabuf"),
      options: ["--control", directory.appending("control").string], directory: directory)
  }

  /// - Parameter path: another of its sockets than that of its device.
  package func connect(to path: FilePath? = nil) throws -> UnixSocket {
    var connected: UnixSocket?
    try waitUntil("the helper listens") {
      connected = try? UnixSocket.connect(path ?? socket)
      return connected != nil || !child.isRunning
    }
    guard let socket = connected.take() else { throw TroubleInTest(try output.readToEnd()) }
    return socket
  }

  /// The file of its socket is its own, and it listens there.
  package func listens() throws -> Bool {
    guard child.isRunning else { throw TroubleInTest("it has ended: \(try output.readToEnd())") }
    let lines = try readText("/proc/net/unix", upTo: 1 << 24).split(separator: "\n")
    let numbers = lines.filter { $0.hasSuffix(" \(socket)") }.map { $0.split(separator: " ")[6] }
    return directoryEntries(FilePath("/proc/\(child.pid)/fd")).contains { descriptor in
      let target = linkTarget(FilePath("/proc/\(child.pid)/fd/\(descriptor)"))
      return numbers.contains { target == "socket:[\($0)]" }
    }
  }

  deinit {
    child.signal(SIGKILL)
    child.wait()
    _ = try? FileManager.default.removeItem(atPath: directory.string)
  }
}

/// The JSON object in a file; nil while there is none.
package func json(_ path: FilePath) -> [String: Any]? {
  guard let text = try? readText(path) else { return nil }
  return try? JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any]
}

/// Asks something and waits for the answer, which only a front end does.
package func greet(_ connection: borrowing UnixSocket) throws {
  let question: [UInt8] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]  // GET_FEATURES
  unsafe try connection.fd.write(question.span.bytes)
  guard try connection.fd.read(upTo: 64).count == 20 else { throw TroubleInTest("no answer") }
}
