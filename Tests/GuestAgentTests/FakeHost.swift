import Fixtures
import Foundation
import Linux
import SystemPackage
import TestSupport

@testable import GuestAgent

/// The helper at the other end of a port: what the agent says, and what a test answers.
final class FakeHost {
  struct Command {
    let name: String
    let arguments: [String: Any]
    let id: Int
    func number(_ key: String) -> Int? { arguments[key] as? Int }
    func text(_ key: String) -> String? { arguments[key] as? String }
  }

  private let socket: UnixSocket
  private var input: [UInt8] = []
  /// How often the agent began anew.
  private(set) var beginnings = 0
  /// Commands that nobody has answered yet.
  private(set) var waiting: [Command] = []

  init(_ socket: consuming UnixSocket) throws {
    try socket.fd.setNonblocking()
    self.socket = socket
  }

  func send(_ text: String) throws { try socket.fd.write(unsafe Array(text.utf8).span.bytes) }

  /// Ends the connection.
  func hangUp() { socket.shutDown() }

  /// Takes what the agent has said.
  func receive() throws {
    var bytes: [UInt8] = []
    var none = ReceivedDescriptors()
    while let count = try? socket.receive(into: &bytes, upTo: 65536, descriptors: &none), count > 0 {}
    for byte in bytes {
      switch byte {
      case 0xff:
        beginnings += 1
        input = []
      case 0x0a:
        let line = try JSONSerialization.jsonObject(with: Data(input)) as? [String: Any]
        guard let line, let name = line["execute"] as? String, let id = line["id"] as? Int else {
          throw TroubleInTest("no command: \(String(decoding: input, as: UTF8.self))")
        }
        waiting.append(Command(name: name, arguments: line["arguments"] as? [String: Any] ?? [:], id: id))
        input = []
      default: input.append(byte)
      }
    }
  }

  /// The command that waits, which must be of this name.
  func take(_ name: String) throws -> Command {
    try receive()
    guard waiting.count == 1, waiting[0].name == name else {
      throw TroubleInTest("\(waiting.map(\.name)) wait, and not \(name)")
    }
    return waiting.removeFirst()
  }

  /// Answers none of those that wait.
  func forget() { waiting = [] }

  func answer(_ command: Command, _ result: String = "{}") throws {
    try send("{\"return\": \(result), \"id\": \(command.id)}\n")
  }

  func refuse(_ command: Command, _ name: String, _ text: String) throws {
    try send("{\"error\": {\"class\": \"\(name)\", \"desc\": \"\(text)\"}, \"id\": \(command.id)}\n")
  }

  /// Answers a hello.
  func welcome() throws {
    let hello = try take("hello")
    try answer(
      hello,
      """
      {"session": "\(hello.text("session") ?? "")", "limits": {"line": 16384, "buffers": 1000, "metadata": 4096},
      "audiences": ["friends"]}
      """.replacingOccurrences(of: "\n", with: " "))
  }
}
