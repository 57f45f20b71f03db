internal import Foundation
internal import Linux
package import SystemPackage

/// QEMU's monitor, as any program would use it.
package final class Monitor {
  private let socket: UnixSocket
  private var received: [UInt8] = []

  package init(_ path: FilePath) throws {
    socket = try UnixSocket.connect(path)
    _ = try line()
    _ = try execute("qmp_capabilities")
  }

  /// Executes a command.
  /// - Returns: QEMU's answer, which most often is an object.
  @discardableResult
  package func execute(_ command: String, _ arguments: [String: Any] = [:]) throws -> Any {
    let request = try JSONSerialization.data(withJSONObject: ["execute": command, "arguments": arguments])
    let bytes = [UInt8](request) + [0x0a]
    unsafe try socket.fd.write(bytes.span.bytes)
    while true {
      let answer = try line()
      if let error = answer["error"] { throw TroubleInTest("\(command): \(error)") }
      if let result = answer["return"] { return result }
    }
  }

  /// What `info version` and the like print.
  package func human(_ line: String) throws -> String {
    try execute("human-monitor-command", ["command-line": line]) as? String ?? ""
  }

  private func line() throws -> [String: Any] {
    while true {
      if let end = received.firstIndex(of: 0x0a) {
        let line = Data(received[..<end])
        received.removeSubrange(...end)
        return try JSONSerialization.jsonObject(with: line) as? [String: Any] ?? [:]
      }
      let more = try socket.fd.read(upTo: 65536)
      if more.isEmpty { throw TroubleInTest("QEMU closed its monitor") }
      received += more
    }
  }
}
