import Fixtures
import Foundation
import LendingProtocol
import Linux
import SystemPackage
import TestSupport
import Testing
import Varlink

@testable import GuestAgent

/// An agent in this process: its port leads to a `FakeHost`, and lenders connect to a socket.
final class AgentRig {
  let directory: FilePath
  let loop: EventLoop
  let core: AgentCore
  let server: VarlinkServer
  private(set) var host: FakeHost!
  private(set) var logged: [String] = []

  init() throws {
    directory = try makeTemporaryDirectory()
    loop = try EventLoop()
    var log: (String) -> Void = { _ in }
    // Memfds stand for dma-bufs, which this machine need not have.
    core = try AgentCore(
      loop: loop, log: { log($0) }, isDMABuf: { (try? $0.fileKind()) == .sharedMemory })
    server = try VarlinkServer(
      UnixSocket.listen(directory.appending("lender")),
      info: VarlinkInfo(vendor: "udmabridge", product: "test", version: "1", url: ""),
      interfaces: [core.interface], takesDescriptors: true, loop: loop
    ) { _ in true }
    log = { [unowned self] in logged.append($0) }
    try plugPort()
  }

  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  /// Gives the agent a port.
  func plugPort() throws {
    try UnixSocket.pair { mine, theirs in
      host = try FakeHost(mine)
      try core.open(try theirs.fd.duplicate())
    }
    try settle()
  }

  /// Handles what there is to do.
  func settle() throws {
    for _ in 0..<10_000 where try loop.turn(waiting: .zero) == 0 { return }
    Issue.record("the loop does not come to rest")
  }

  /// Begins a session, in which the host knows the card as its device 3.
  func begin(with card: FakeCard? = nil) throws {
    try host.welcome()
    try settle()
    if let card { try add(card) }
  }

  /// Plugs in a card, which the host finds by what is in its buffer.
  func add(_ card: FakeCard, device: Int = 3, epoch: Int = 7) throws {
    core.add(card)
    try settle()
    try prove(card, device: device, epoch: epoch)
  }

  func prove(_ card: FakeCard, device: Int = 3, epoch: Int = 7) throws {
    let proof = try host.take("prove")
    let bytes = try card.mapping(of: UInt32(proof.number("resource") ?? 0)).bytes(at: 0, count: 32)
    #expect(bytes.map { String(format: "%02x", $0) }.joined() == proof.text("secret"))
    try host.answer(proof, "{\"device\": \(device), \"epoch\": \(epoch)}")
    try settle()
  }

  func connect() throws -> LenderCaller {
    let caller = LenderCaller(try UnixSocket.connect(directory.appending("lender")), self)
    try settle()
    return caller
  }

  /// Lends a memfd, which the host calls `id`.
  func lend(_ memfd: Memfd, _ parameters: String = "{}", by caller: LenderCaller, as id: BufferID) throws {
    try caller.send("Lend", parameters, passing: [memfd])
    try host.answer(host.take("lend"), "{\"buffer\": \"\(id)\"}")
    #expect(try caller.reply().starts(with: #"{"parameters":{"buffer":"\#(id)""#))
  }

  /// An id that says which it is.
  static func id(_ number: UInt64) -> BufferID { BufferID(high: 0xabcd, low: number) }
}

/// A program that lends.
final class LenderCaller {
  private let socket: UnixSocket
  private unowned let rig: AgentRig
  private var input: [UInt8] = []
  private var descriptors = ReceivedDescriptors()

  init(_ socket: consuming UnixSocket, _ rig: AgentRig) {
    self.socket = socket
    self.rig = rig
  }

  func hangUp() { socket.shutDown() }

  func send(_ method: String, _ parameters: String = "{}", more: Bool = false, passing memfds: [Memfd] = [])
    throws
  {
    let text = #"{"method":"io.udmabridge.Lender.\#(method)","parameters":\#(parameters),"more":\#(more)}"#
    let numbers = memfds.map { $0.withDescriptor { $0.withRaw { $0 } } }
    let sent = try socket.send(unsafe (Array(text.utf8) + [0]).span.bytes, rawDescriptors: numbers)
    guard sent == text.utf8.count + 1 else { throw TroubleInTest("the call did not fit") }
    try rig.settle()
  }

  /// The replies that have come and were not taken.
  func replies() throws -> [String] {
    try rig.settle()
    while let count = try? socket.receive(into: &input, upTo: 65536, descriptors: &descriptors), count > 0 {
      try rig.settle()
    }
    var all = input.split(separator: 0, omittingEmptySubsequences: false)
    input = Array(all.removeLast())
    return all.map { String(decoding: $0, as: UTF8.self) }
  }

  /// The reply that has come, which is one.
  func reply() throws -> String {
    let all = try replies()
    guard all.count == 1 else { throw TroubleInTest("replies: \(all)") }
    return all[0]
  }

  func ask(_ method: String, _ parameters: String = "{}", passing memfds: [Memfd] = []) throws -> String {
    try send(method, parameters, passing: memfds)
    return try reply()
  }

  /// The descriptor that came with the reply.
  func takeDescriptor() throws -> Memfd {
    guard let fd = descriptors.take(0) else { throw TroubleInTest("no descriptor came") }
    descriptors = ReceivedDescriptors()
    return try Memfd(adopting: fd)
  }
}
