internal import FoundationEssentials
package import Linux
package import SystemPackage

/// The questions to a running QEMU.
package protocol QEMUMonitor {
  /// Runs a command of the human monitor, and returns what it prints.
  func monitor(_ command: String) throws(QEMUError) -> String
  /// QEMU's version, such as `10.0.2`.
  func version() throws(QEMUError) -> String
}

/// A connection to QEMU's monitor, in the QEMU Machine Protocol: each line is a JSON object, and questions and answers
/// alternate. Events in between are skipped.
package final class QMPClient: QEMUMonitor {
  private let socket: UnixSocket
  private let path: FilePath
  private var received: [UInt8] = []
  private var asked = 0
  private let patience: TimeSpan
  /// The deadline for all answers together.
  private let end: Instant

  /// The longest answer in bytes.
  private static let maximumAnswer = 64 << 20

  /// Connects and negotiates.
  ///
  /// - Parameters:
  ///   - patience: the longest wait for each answer.
  ///   - end: the deadline for all answers.
  /// - Throws: `busy` if no greeting comes, as when QEMU serves another client there.
  package init(
    _ path: FilePath, patience: TimeSpan = .seconds(5), until end: Instant = .never
  ) throws(QEMUError) {
    (self.path, self.patience, self.end) = (path, patience, end)
    do throws(Errno) { socket = try UnixSocket.connect(path) } catch {
      // The queue is full of other clients. A place is free when QEMU next accepts.
      throw error == .timedOut ? .busy(path) : .noMonitor(path, error)
    }
    // Requests are small. A peer that lets them fill the socket is not QEMU, and is not waited for.
    do throws(Errno) { try socket.fd.setNonblocking() } catch { throw .monitor(path, "\(error)") }
    guard let greeting = try line(), Self.decode(Greeting.self, greeting) != nil else { throw .busy(path) }
    let _: Nothing = try execute("qmp_capabilities")
  }

  /// The process at the other end: QEMU, or the process that made the socket for it.
  package var peer: Int32? { try? socket.peerProcess() }

  /// QEMU's version, such as `10.0.2`.
  package func version() throws(QEMUError) -> String {
    let answer: Version = try execute("query-version")
    return "\(answer.qemu.major).\(answer.qemu.minor).\(answer.qemu.micro)"
  }

  /// Runs a command of the human monitor, and returns what it prints.
  package func monitor(_ command: String) throws(QEMUError) -> String {
    let text: String = try execute("human-monitor-command", ["command-line": command])
    return text
  }

  /// Executes a command.
  func execute<Answer: Decodable>(
    _ command: String, _ arguments: [String: String] = [:]
  ) throws(QEMUError) -> Answer {
    asked += 1
    let request = Request(execute: command, arguments: arguments, id: asked)
    guard let json = try? JSONEncoder().encode(request) else { preconditionFailure("strings can be encoded") }
    do throws(Errno) {
      let bytes = [UInt8](json) + [0x0a]
      unsafe try socket.fd.write(bytes.span.bytes)
    } catch { throw .monitor(path, "\(command): \(error)") }
    while let line = try line() {
      guard let reply = Self.decode(Reply.self, line), reply.id == asked else { continue }
      if let error = reply.error { throw .monitor(path, "\(command): \(error.desc)") }
      guard let answer = Self.decode(Result<Answer>.self, line) else {
        throw .monitor(path, "\(command): the answer cannot be understood")
      }
      return answer.return
    }
    throw .monitor(
      path,
      Instant.now >= end
        ? "\(command): all of its answers together take too long"
        : "\(command): no answer within \(patience)")
  }

  /// The next line; nil if none comes in time.
  private func line() throws(QEMUError) -> [UInt8]? {
    let deadline = min(.now + patience, end)
    var searched = 0
    while true {
      if let end = received[searched...].firstIndex(of: 0x0a) {
        let line = Array(received[..<end])
        received.removeSubrange(...end)
        return line
      }
      searched = received.count
      if received.count > Self.maximumAnswer {
        throw .monitor(path, "an answer of more than \(Self.maximumAnswer) bytes")
      }
      do throws(Errno) {
        let left = deadline - .now
        if left <= .zero { return nil }
        guard try socket.fd.isReadable(within: left) else { return nil }
        let more = try socket.fd.read(upTo: 1 << 16)
        if more.isEmpty { throw .connectionReset }
        received += more
      } catch { throw .monitor(path, "the connection ended: \(error)") }
    }
  }

  private static func decode<Value: Decodable>(_: Value.Type, _ line: [UInt8]) -> Value? {
    try? JSONDecoder().decode(Value.self, from: Data(line))
  }

  private struct Request: Encodable {
    let execute: String
    let arguments: [String: String]
    let id: Int
  }

  private struct Greeting: Decodable {
    let content: Nothing
    private enum CodingKeys: String, CodingKey { case content = "QMP" }
  }

  private struct Reply: Decodable {
    struct Failure: Decodable { let desc: String }
    let id: Int?
    let error: Failure?
  }

  private struct Result<Answer: Decodable>: Decodable { let `return`: Answer }

  private struct Version: Decodable {
    struct Numbers: Decodable { let major, minor, micro: Int }
    let qemu: Numbers
  }

  /// Any object; its fields are ignored.
  struct Nothing: Decodable {}
}
