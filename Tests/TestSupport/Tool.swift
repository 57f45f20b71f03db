internal import Foundation
internal import Linux
package import SystemPackage

/// Runs the tool as its users do.
package enum Tool {
  package static let program = builtPrograms.appending("udmabridge")

  /// - Returns: the exit status, and standard output and error together.
  package static func run(_ arguments: String...) throws -> (status: Int32, output: String) {
    try TestSupport.run(program, arguments, withErrors: true)
  }

  /// Runs a line of the shell, in which `udmabridge` and `stranger` are the programs of these tests.
  package static func shell(_ line: String) throws -> (status: Int32, output: String) {
    try TestSupport.run(
      "/bin/bash", ["-c", "PATH=\"\(builtPrograms.string):$PATH\"; \(line)"], withErrors: true)
  }

  /// What a command prints as JSON.
  package static func json(_ line: String) throws -> [String: Any] {
    let (status, output) = try shell(line)
    guard status == 0,
      let object = try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any]
    else {
      throw TroubleInTest("status \(status) of «\(line)»: \(output)")
    }
    return object
  }
}

/// A QEMU without a guest's system: its firmware runs, and nothing else.
package final class BareQEMU {
  package let directory: FilePath
  package let child: Child
  package var pid: Int32 { child.pid }
  package var qmp: FilePath { directory.appending("qmp") }
  package let monitor: Monitor

  /// Installed, or fetched by qemu/setup.
  package static let programs: [String: FilePath] = {
    var all = ["installed": "/usr/bin/qemu-system-x86_64"]
    // There each start takes many times as long: the others are tried outside.
    for role in TestHost.isActive ? [] : ["stable", "newest"] {
      all[role] = testCache.appending("qemu/\(role)/qemu-system-x86_64").string
    }
    return all.filter { FileManager.default.isExecutableFile(atPath: $0.value) }.mapValues { FilePath($0) }
  }()

  /// QEMU serves one client at a time on each monitor: there is one for the tool, and one for the test. The guest's
  /// processor never runs: while firmware sets up SMM, for one, RAM shows through where the VGA card is otherwise.
  package init(_ program: FilePath, _ options: [String]) throws {
    directory = try makeTemporaryDirectory()
    child = try Child(
      program,
      [
        "-accel", TestHost.isActive ? "kvm" : "tcg", "-nodefaults", "-S", "-display", "none", "-qmp",
        "unix:\(directory)/qmp,server=on,wait=off", "-qmp",
        "unix:\(directory)/own,server=on,wait=off",
      ] + options)
    var connected: Monitor?
    let path = directory.appending("own")
    try waitUntil("QEMU's monitor answers") {
      connected = try? Monitor(path)
      return connected != nil
    }
    monitor = connected!
  }

  deinit {
    child.signal(SIGKILL)
    child.wait()
    _ = try? FileManager.default.removeItem(atPath: directory.string)
  }
}
