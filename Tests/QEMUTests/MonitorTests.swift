import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import QEMU

/// Processes that call themselves QEMU, and monitors that are none.
@Suite final class MonitorTests {
  private let directory: FilePath

  init() throws { directory = try makeTemporaryDirectory() }

  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  /// A shell that has the command line of a QEMU with these monitors.
  private func start(_ monitors: [FilePath]) throws -> Child {
    let child = try Child(
      "/bin/sh",
      ["-c", "while :; do sleep 1; done", "sh"] + monitors.flatMap { ["-qmp", "unix:\($0),server=on"] })
    // A program that begins has none for a moment.
    try waitUntil("it has its command line") { try !RunningProcess(child.pid).arguments().isEmpty }
    return child
  }

  @Test("of forty monitors on a command line four are tried, and the error says so")
  func many() throws {
    let process = try start((0..<40).map { directory.appending("none\($0)") })
    #expect {
      _ = try RunningQEMU(pid: process.pid)
    } throws: { error in
      "\(error)".contains("names 40 monitors, and the first 4 do")
    }
    process.signal(SIGKILL)
  }

  @Test("a monitor that does not greet is waited for as long as patience lasts")
  func silent() throws {
    let path = directory.appending("silent")
    let socket = try UnixSocket.listen(path)
    let process = try start([path])
    let start = Instant.now
    #expect {
      _ = try RunningQEMU(pid: process.pid, patience: .milliseconds(50))
    } throws: { error in
      if case QEMUError.busy(path) = error { true } else { false }
    }
    #expect(.now - start >= .milliseconds(50))
    process.signal(SIGKILL)
    _ = consume socket
  }

  @Test("a monitor whose answers together take too long is given up")
  func slow() throws {
    let path = directory.appending("slow")
    let (server, output) = try startReading(
      "/usr/bin/python3", ["-u", "-c", Self.slowMonitor, path.string], withErrors: true)
    try waitUntil("it listens") { FileManager.default.fileExists(atPath: path.string) || !server.isRunning }
    var client: QMPClient?
    try waitUntil("it greets in time") {
      client = try? QMPClient(path, until: .now + .seconds(1))
      return client != nil
    }
    #expect {
      while true { _ = try client!.monitor("info mtree -f") }
    } throws: { error in
      "\(error)".contains("all of its answers together take too long")
    }
    client = nil
    server.signal(SIGKILL)
    _ = try output.readToEnd()
  }

  /// Answers each line after a tenth of a second, one client after the other.
  private static let slowMonitor = """
    import json, os, socket, sys, time
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1] + ".new")
    listener.listen()
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    def serve(connection):
        print(json.dumps({"QMP": {}}), file=connection, flush=True)
        for line in connection:
            request = json.loads(line)
            if request["execute"] != "qmp_capabilities":
                time.sleep(0.1)
            answer = {} if request["execute"] == "qmp_capabilities" else ""
            print(json.dumps({"return": answer, "id": request["id"]}), file=connection, flush=True)
    while True:
        try: serve(listener.accept()[0].makefile("rw"))
        except OSError: pass
    """
}
