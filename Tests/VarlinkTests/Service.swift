import Fixtures
import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import Varlink

/// A service in this process, on a socket of its own.
final class Service {
  let directory: FilePath
  let loop: EventLoop
  let interface = Example()
  private(set) var server: VarlinkServer!
  var socket: FilePath { directory.appending("socket") }

  init(limit: Int = 4, admits: @escaping (PeerCredentials) -> Bool = { _ in true }) throws {
    directory = try makeTemporaryDirectory()
    loop = try EventLoop()
    server = try VarlinkServer(
      UnixSocket.listen(directory.appending("socket")),
      info: VarlinkInfo(vendor: "v", product: "p \"quoted\"\n", version: "1", url: ""),
      interfaces: [interface],
      limit: limit, loop: loop, admits: admits)
  }

  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  /// Handles what there is to do.
  func settle(_ location: SourceLocation = #_sourceLocation) throws {
    for _ in 0..<10_000 where try loop.turn(waiting: .zero) == 0 { return }
    Issue.record("the loop does not come to rest", sourceLocation: location)
  }

  /// Waits for what follows the end of a connection (`UnixSocket.shutDown`).
  func waitUntil(_ what: String, _ condition: () throws -> Bool) throws {
    try loop.turn(until: what, condition)
  }

  func connect() throws -> Caller {
    let caller = Caller(try UnixSocket.connect(socket), self)
    try settle()
    return caller
  }
}

/// `org.example.Test`
final class Example: VarlinkInterface {
  let name = "org.example.Test"
  let description = "interface org.example.Test\n"
  let upgradedMethods = ["Raw"]
  var streams: [VarlinkConnection] = []
  /// Those that wait for an answer to `Later`.
  var later: [VarlinkConnection] = []
  /// What `Raw` was given.
  private(set) var adopted: UnixSocket?
  var gone = 0
  var whenCalled: ((VarlinkConnection) -> Void)?
  private(set) var called: [String] = []
  func takeAdopted() throws -> UnixSocket {
    guard let socket = adopted.take() else { throw TroubleInTest("nothing was adopted") }
    return socket
  }

  /// What `Give` passes.
  let memfd: Memfd

  init() { memfd = try! Memfd.create(name: "given", size: 4096) }

  struct Text: VarlinkParameters, JSONWritable {
    static let names = ["text", "count"]
    var text: String
    var count: Int?
    func write(to json: inout JSONWriter) {
      json.object { json in
        json.field("text", text)
        json.field("count", count)
      }
    }
  }

  struct Given: JSONWritable, Decodable {
    var fileDescriptor = 0
    func write(to json: inout JSONWriter) {
      json.object { json in json.field("fileDescriptor", fileDescriptor) }
    }
  }

  func handle(
    _ method: String, _ call: VarlinkCall, from connection: VarlinkConnection
  ) throws(VarlinkError) {
    called.append(method)
    whenCalled?(connection)
    connection.whenGone(for: self) { [unowned self] in gone += 1 }
    switch method {
    case "Echo": connection.reply(try call.parameters(Text.self))
    case "Long":
      let wanted = try call.parameters(Text.self)
      connection.reply(Text(text: String(repeating: wanted.text, count: wanted.count ?? 1)))
    case "Give":
      do throws(Errno) {
        let fd = try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }
        connection.reply(Given(), passing: fd)
      } catch { Issue.record("\(error)") }
    case "Later":
      connection.answerLater()
      later.append(connection)
    case "Stream":
      guard call.wantsMore else { throw .expectedMore }
      streams.append(connection)
      connection.beginStream {}
    case "Raw": connection.upgrade(EmptyObject()) { [unowned self] socket in adopted = consume socket }
    default: throw .methodNotFound(call.method)
    }
  }
}

/// A caller that writes its messages itself.
final class Caller {
  let socket: UnixSocket
  private unowned let service: Service
  private var input: [UInt8] = []
  private(set) var isClosed = false
  var descriptors = ReceivedDescriptors()

  init(_ socket: consuming UnixSocket, _ service: Service) {
    self.socket = socket
    self.service = service
  }

  deinit { socket.shutDown() }

  func send(_ text: String) throws { try send(Array(text.utf8) + [0]) }

  func send(_ bytes: [UInt8]) throws {
    try socket.fd.setNonblocking()
    var rest = bytes[...]
    for _ in 0..<10_000 where !rest.isEmpty {
      do throws(Errno) {
        rest = try rest.dropFirst(unsafe socket.send(Array(rest).span.bytes))
      } catch {
        // A service that is full of it, or has hung up.
        if error != .wouldBlock { break }
      }
      try service.settle()
    }
  }

  /// The messages that have come.
  func replies() throws -> [String] {
    try service.settle()
    while !isClosed {
      do throws(Errno) {
        isClosed = try socket.receive(into: &input, upTo: 8192, descriptors: &descriptors) == 0
      } catch {
        if error == .wouldBlock { break }
        isClosed = true
      }
      try service.settle()
    }
    var messages = input.split(separator: 0, omittingEmptySubsequences: false).map {
      String(decoding: $0, as: UTF8.self)
    }
    input = Array(messages.removeLast().utf8)
    return messages
  }

  func ask(_ text: String) throws -> [String] {
    try send(text)
    return try replies()
  }

  /// The messages that have come when the service has ended the connection.
  func lastReplies() throws -> [String] {
    var messages: [String] = []
    try service.waitUntil("the service ends the connection") {
      messages += try replies()
      return isClosed
    }
    return messages
  }
}
