import Buffers
import Fixtures
import Foundation
import Lending
import LendingProtocol
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import Port

/// A port in this process, on a socket of its own, with two devices.
final class PortRig {
  let directory: FilePath
  let loop: EventLoop
  let registry: Registry
  let devices = [LendingDevice(), LendingDevice()]
  /// Of the second device.
  let offers = OfferTable(FakeOfferDevice(), number: 1)
  let book = LogBook()
  private(set) var port: LendingPort!
  /// What the registry and the port's limit on lines go by.
  var now = Instant.now
  var admits = true
  var socket: FilePath { directory.appending("port") }

  init(limits: PortLimits = PortLimits(), lending: LendingLimits = LendingLimits()) throws {
    directory = try makeTemporaryDirectory()
    loop = try EventLoop()
    final class Clock { weak var rig: PortRig? }
    let clock = Clock()
    registry = Registry(
      limits: lending, audiences: ["mine": Audience(users: [1]), "a-b.c_1": Audience()],
      clock: { clock.rig?.now ?? .now })
    port = try LendingPort(
      UnixSocket.listen(socket), registry: registry, devices: devices, offers: offers, limits: limits,
      clock: { clock.rig?.now ?? .now }, loop: loop, logger: book.logger,
      admits: { _ in clock.rig?.admits ?? true })
    clock.rig = self
  }

  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  /// Handles what there is to do, but for a timer of the limit on lines.
  func settle(_ location: SourceLocation = #_sourceLocation) throws {
    for _ in 0..<10_000 where try loop.turn(waiting: .zero) == 0 { return }
    Issue.record("the loop does not come to rest", sourceLocation: location)
  }

  func connect() throws -> PortAgent {
    let agent = PortAgent(try UnixSocket.connect(socket), self)
    try settle()
    return agent
  }

  /// One that has begun a session.
  func agent() throws -> PortAgent {
    let agent = try connect()
    #expect(try agent.ask(PortAgent.hello).count == 1)
    return agent
  }

  /// Who may import everything.
  static let root = LendingCaller(pid: 1, user: 0, groups: [], isTrusted: true)

  func importBuffer(_ id: BufferID) throws -> Import {
    try registry.importBuffer(id, for: Self.root, forWriting: false)
  }
}

/// The guest's end of the port, which writes its lines itself.
final class PortAgent {
  static let session = "00112233445566778899aabbccddeeff"
  static let hello = #"{"execute":"hello","arguments":{"version":1,"session":"\#(session)"},"id":0}"#
  /// What a hello brings of a rig with the limits that are there without options.
  static let welcome = """
    {"return":{"session":"\(session)","limits":{"line":16384,"buffers":1000,"metadata":4096},\
    "audiences":["a-b.c_1","mine"]},"id":0}
    """

  let socket: UnixSocket
  private unowned let rig: PortRig
  private var input: [UInt8] = []
  private(set) var isClosed = false

  init(_ socket: consuming UnixSocket, _ rig: PortRig) {
    self.socket = socket
    self.rig = rig
    try? self.socket.fd.setNonblocking()
  }

  deinit { socket.shutDown() }

  func send(_ line: String) throws { try send(Array(line.utf8) + [0x0a]) }

  /// Sends all, and lets the port take it meanwhile.
  func send(_ bytes: [UInt8]) throws {
    var rest = bytes[...]
    for _ in 0..<100_000 where !rest.isEmpty {
      rest = rest.dropFirst(try sendSome(Array(rest)))
      try rig.settle()
    }
    #expect(rest.isEmpty, "the port does not take what is sent")
  }

  /// - Returns: how many bytes there was room for.
  func sendSome(_ bytes: [UInt8]) throws -> Int {
    do throws(Errno) { return unsafe try socket.send(bytes.span.bytes) } catch {
      guard error == .wouldBlock else { throw error }
      return 0
    }
  }

  /// The lines that have come.
  func lines() throws -> [String] {
    try rig.settle()
    while !isClosed {
      var none = ReceivedDescriptors()
      do throws(Errno) {
        isClosed = try socket.receive(into: &input, upTo: 8192, descriptors: &none) == 0
      } catch {
        if error == .wouldBlock { break }
        isClosed = true
      }
      try rig.settle()
    }
    var lines = input.split(separator: 0x0a, omittingEmptySubsequences: false).map {
      String(decoding: $0, as: UTF8.self)
    }
    input = Array(lines.removeLast().utf8)
    return lines
  }

  func ask(_ line: String) throws -> [String] {
    try send(line)
    return try lines()
  }

  private var id = 0

  /// Asks, and expects one line.
  func ask(_ command: String, _ arguments: String) throws -> Reply {
    id += 1
    let lines = try ask(#"{"execute":"\#(command)","arguments":{\#(arguments)},"id":\#(id)}"#)
    let line = try #require(lines.first, "no answer")
    #expect(lines.count == 1, "\(lines)")
    let reply = try Reply(line)
    #expect(reply.id == id)
    return reply
  }

  func lend(
    _ resource: UInt32 = 1, device: Int = 0, epoch: UInt64 = 1, lender: Int = 1, offset: Int = 0,
    size: Int = 4096,
    _ more: String = ""
  ) throws -> Reply {
    try ask(
      "lend",
      #""device":\#(device),"epoch":\#(epoch),"resource":\#(resource),"lender":\#(lender),"offset":\#(offset),"size":\#(size)\#(more)"#
    )
  }

  /// One that is sure to be lent.
  func lent(_ resource: UInt32 = 1, lender: Int = 1, _ more: String = "") throws -> BufferID {
    try #require(BufferID(try lend(resource, lender: lender, more).text("buffer") ?? ""))
  }
}

/// A line of the helper.
struct Reply {
  let line: String
  let id: Int?
  /// The class of an error.
  let error: String?
  private let values: [String: Any]

  init(_ line: String) throws {
    self.line = line
    let object = try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
    id = object["id"] as? Int
    error = (object["error"] as? [String: Any])?["class"] as? String
    values = (object["return"] ?? object["data"]) as? [String: Any] ?? [:]
  }

  /// Of what was returned.
  func text(_ field: String) -> String? { values[field] as? String }
  func number(_ field: String) -> Int? { values[field] as? Int }
  var isOK: Bool { line == #"{"return":{},"id":\#(id ?? -1)}"# }
}
