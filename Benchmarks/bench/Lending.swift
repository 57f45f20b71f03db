import Buffers
import CBench
import Fixtures
import Glibc
import Lending
import LendingProtocol
import LendingService
import Linux
import Logging
import Port
import SystemPackage
import Varlink

/// Measures a buffer's life: it is lent, imported, released and taken back. Its pages are a memfd: no device is in this.
func benchLending() throws {
  heading("lending: one buffer is lent, imported, released and returned")
  try measureRegistry()
  try measureMessages()
  heading("lending: memory for each live buffer, without its pages, their list and its metadata")
  try measureBufferMemory()
}

private let trusted = LendingCaller(pid: 1, user: 0, groups: [], isTrusted: true)

private func place(_ number: Int) -> ResourcePlace {
  ResourcePlace(device: 0, epoch: 1, resource: UInt32(number) + 1)
}

// MARK: The registry alone

private func measureRegistry() throws {
  let (registry, pages) = (Registry(), try LendableBuffer().buffer)
  let owner = LenderID(session: registry.beginSession(), number: 1)
  let request = LendingRequest(offset: 0, size: 4096)
  func life() throws {
    let id = try registry.lend(request, of: pages, at: place(0), by: owner)
    registry.release(try registry.importBuffer(id, for: trusted, forWriting: false))
    try registry.takeBack(id, by: owner, after: .zero, patience: .zero)
  }
  for _ in 0..<1000 { try life() }
  let before = cb_allocations()
  for _ in 0..<1000 { try life() }
  let allocations = Double(cb_allocations() - before) / 1000
  let times = try (0..<21).map { _ in try nanoseconds { for _ in 0..<1000 { try life() } } / 1000 }
  row("in the registry", times.median, "ns", peer: "requests for memory", allocations)
  try check(registry.statistics.returned == 23_000, "every buffer came back")
}

private func measureBufferMemory() throws {
  let pages = try LendableBuffer().buffer
  for listeners in [0, 1] {
    let registry = Registry()
    let owner = LenderID(session: registry.beginSession(), number: 1)
    let feed = LendingFeed(.importer(trusted))
    if listeners > 0 { registry.add(feed) }
    let count = registry.limits.buffers
    let before = cb_heap()
    for number in 0..<count {
      _ = try registry.lend(LendingRequest(offset: 0, size: 4096), of: pages, at: place(number), by: owner)
      _ = feed.next()
    }
    let each = Double(cb_heap() - before) / Double(count)
    row(
      "\(count) live buffers, \(listeners) listener\(listeners == 1 ? "" : "s")", each, "bytes", peer: "goal",
      1024,
      each <= 1024 ? "" : "MISSED")
    registry.endSession()
  }
}

// MARK: The port and the control socket

/// The peer sends as many bytes each way and as many descriptors over two connections, and does nothing else. Both ends of both
/// are in this process, so that no switch between processes is in either figure.
private func measureMessages() throws {
  let service = try Service()
  let messages = try service.life()
  let peer = try Peer()
  var pairs = Pairs()
  let count = 200
  try pairs.measure(
    51, { try nanoseconds { for _ in 0..<count { _ = try service.life() } } / Double(count) / 1000 },
    { try nanoseconds { for _ in 0..<count { try peer.pass(messages) } } / Double(count) / 1000 })
  row(
    "over the port and the control socket", pairs.ours.median, "us", peer: "as many bytes, in C",
    pairs.theirs.median, ratio: pairs.ratio)
  var served = Pairs()
  try served.measure(
    51, { try nanoseconds { for _ in 0..<count { _ = try service.life() } } / Double(count) / 1000 },
    { try nanoseconds { for _ in 0..<count { try peer.serve(messages) } } / Double(count) / 1000 })
  row(
    "over the port and the control socket", served.ours.median, "us", peer: "also its system calls, in C",
    served.theirs.median, ratio: served.ratio)
  row(
    "the same in a second", 1e6 / pairs.ours.median, "lives", peer: "as many bytes, in C",
    1e6 / pairs.theirs.median)
}

/// A question and what came back.
private struct Message {
  let isForPort: Bool
  let asked, answered, descriptors: Int
}

/// The port and the control socket of a helper in this process, its only agent and its only importer.
private final class Service {
  private let loop = try! EventLoop()
  private let device: OneResource
  private let port: LendingPort
  private let server: VarlinkServer
  private let agent: End
  private let importer: End

  private final class OneResource: PortDevice {
    let pages: LendableBuffer
    let epoch: UInt64 = 1
    init() throws { pages = try LendableBuffer() }
    func afterQueue(_ body: @escaping () -> Void) { body() }
    func lendablePages(of resource: UInt32) throws(PortResourceError) -> Buffer { pages.buffer }
    func firstBytes(_ count: Int, of resource: UInt32) -> [UInt8]? { nil }
  }

  private final class End {
    let socket: UnixSocket
    init(_ path: FilePath) throws {
      socket = try UnixSocket.connect(path)
      try socket.fd.setNonblocking()
      removeFile(path)
    }
  }

  init() throws {
    let paths = (0..<2).map { _ in
      FilePath("/tmp/udmabridge-bench-\(getpid())-\(UInt64.random(in: 0...UInt64.max))")
    }
    let registry = Registry()
    device = try OneResource()
    var limits = PortLimits()
    (limits.linesPerSecond, limits.burst) = (1_000_000, 1_000_000)
    let logger = Logger(label: "bench") { _ in SwiftLogNoOpLogHandler() }
    port = try LendingPort(
      UnixSocket.listen(paths[0]), registry: registry, devices: [device], limits: limits, loop: loop,
      logger: logger, admits: { _ in true })
    server = try VarlinkServer(
      UnixSocket.listen(paths[1]), info: VarlinkInfo(vendor: "", product: "", version: "", url: ""),
      interfaces: [BuffersInterface(registry, loop: loop)], loop: loop, admits: { _ in true })
    agent = try End(paths[0])
    importer = try End(paths[1])
    let session = String(repeating: "0", count: 32)
    _ = try ask(
      agent, #"{"execute":"hello","arguments":{"version":1,"session":"\#(session)"},"id":0}"# + "\n",
      until: session)
  }

  /// - Returns: what was said.
  func life() throws -> [Message] {
    let lend =
      #"{"execute":"lend","arguments":{"device":0,"epoch":1,"resource":1,"lender":1,"offset":0,"size":4096},"id":1}"#
    let (text, lent) = try ask(agent, lend + "\n", until: #""buffer":""#)
    let id = String(decoding: text[#"{"return":{"buffer":""#.utf8.count...].prefix(32), as: UTF8.self)
    let call = { (method: String) in
      #"{"method":"io.udmabridge.Buffers.\#(method)","parameters":{"id":"\#(id)"}}"# + "\0"
    }
    let imported = try ask(importer, call("Import"), until: "fileDescriptor").1
    try check(imported.descriptors == 2, "an import has two descriptors")
    let released = try ask(importer, call("Release"), until: "parameters").1
    let takeBack = #"{"execute":"return","arguments":{"buffer":"\#(id)","lender":1},"id":2}"#
    let returned = try ask(agent, takeBack + "\n", until: #""event":"returned""#).1
    return [lent, imported, released, returned]
  }

  private func ask(_ end: End, _ question: String, until word: String) throws -> ([UInt8], Message) {
    _ = unsafe try end.socket.send(Array(question.utf8).span.bytes)
    while try loop.turn(waiting: .zero) > 0 {}
    var bytes: [UInt8] = []
    var descriptors = ReceivedDescriptors()
    _ = try end.socket.receive(into: &bytes, upTo: 8192, descriptors: &descriptors)
    let isThere = unsafe bytes.withUnsafeBytes { unsafe cb_contains($0.baseAddress, $0.count, word) }
    try check(isThere, "the answer to \(question) is \(String(decoding: bytes, as: UTF8.self))")
    return (
      bytes,
      Message(
        isForPort: end === agent, asked: question.utf8.count, answered: bytes.count,
        descriptors: descriptors.count)
    )
  }
}

/// Two connections, and what they pass.
private final class Peer {
  private let passed = try! Memfd.create(name: "bench", size: 4096)
  private var ends: [Kept] = []
  /// Of `serve`.
  private var loop: CInt = -1
  private var token: CInt = -1

  private final class Kept {
    let fd: FD
    init(_ fd: consuming FD) { self.fd = fd }
  }

  init() throws {
    for _ in 0..<2 {
      try UnixSocket.pair { first, second in
        ends.append(Kept(try first.fd.duplicate()))
        ends.append(Kept(try second.fd.duplicate()))
        loop = ends.last!.fd.withRaw { cb_watch($0) }
        try check(loop >= 0, "the peer has a loop")
      }
    }
  }

  func pass(_ messages: [Message]) throws {
    for message in messages {
      try exchange(message) { near, far, fd in
        cb_pass(near, far, message.asked, message.answered, fd, message.descriptors)
      }
    }
  }

  func serve(_ messages: [Message]) throws {
    for message in messages {
      try exchange(message) { near, far, fd in
        unsafe cb_answer(
          loop, near, far, message.asked, message.answered, message.descriptors > 0 ? fd : -1, &token)
      }
    }
  }

  private func exchange(_ message: Message, _ body: (CInt, CInt, CInt) -> CInt) throws {
    let first = message.isForPort ? 0 : 2
    let result = ends[first].fd.withRaw { near in
      ends[first + 1].fd.withRaw { far in passed.withDescriptor { $0.withRaw { body(near, far, $0) } } }
    }
    try check(result == 0, "the messages of the peer arrive")
  }
}
