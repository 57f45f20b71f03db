import Buffers
import Fixtures
import Glibc
import Lending
import LendingProtocol
import LendingService
import Linux
import SystemPackage
import Varlink

/// Measures what many buffers and many watchers cost one buffer.
func benchLendingScale() throws {
  heading("lending: one buffer is lent and returned beside many, told to the watchers that may see it")
  try measureCrowd()
  heading("lending: a buffer is filled, told to watchers over the control socket")
  try measureFills()
}

/// A registry with buffers of one guest, some of its watchers, and one more buffer that comes and goes.
private final class Crowd {
  private let registry: Registry
  private let owner: LenderID
  /// Those that see it: the others have nothing to hear.
  private let feeds: [LendingFeed]
  private let pages: Buffer
  private let request = LendingRequest(offset: 0, size: 4096, audiences: ["viewers"])
  private let others: Int

  /// - Parameters:
  ///   - others: buffers that stay lent, to the same audience.
  ///   - seeing: watchers of that audience.
  ///   - blind: watchers of none.
  init(others: Int, seeing: Int, blind: Int) throws {
    var limits = LendingLimits()
    limits.buffers = others + 1
    registry = Registry(limits: limits, audiences: ["viewers": Audience(users: [1], groups: [])])
    owner = LenderID(session: registry.beginSession(), number: 1)
    pages = try LendableBuffer().buffer
    let all = (0..<seeing + blind).map { number in
      LendingFeed(
        .importer(LendingCaller(pid: 1, user: number < seeing ? 1 : 2, groups: [], isTrusted: false)))
    }
    self.others = others
    for feed in all { registry.add(feed) }
    feeds = Array(all[..<seeing])
    for number in 0..<others { _ = try registry.lend(request, of: pages, at: place(number), by: owner) }
    drain()
  }

  @discardableResult private func drain() -> Int {
    feeds.reduce(0) { count, feed in
      var count = count
      while feed.next() != nil { count += 1 }
      return count
    }
  }

  private func place(_ number: Int) -> ResourcePlace {
    ResourcePlace(device: 0, epoch: 1, resource: UInt32(number) + 1)
  }

  /// - Returns: how many were told.
  func life() throws -> Int {
    let id = try registry.lend(request, of: pages, at: place(others), by: owner)
    let told = drain()
    try registry.takeBack(id, by: owner, after: .zero, patience: .zero)
    drain()
    return told
  }
}

private func measureCrowd() throws {
  let count = 200
  for (others, seeing, blind) in [(4095, 1, 0), (4095, 1, 63), (4095, 64, 0)] {
    let (crowd, alone) = (
      try Crowd(others: others, seeing: seeing, blind: blind), try Crowd(others: 0, seeing: seeing, blind: 0)
    )
    try check(try crowd.life() == seeing, "each that may see it is told")
    var pairs = Pairs()
    try pairs.measure(
      51, { try nanoseconds { for _ in 0..<count { _ = try crowd.life() } } / Double(count) },
      { try nanoseconds { for _ in 0..<count { _ = try alone.life() } } / Double(count) })
    row(
      "\(others + 1) buffers, \(seeing + blind) watchers, \(seeing) of them see it", pairs.ours.median, "ns",
      peer: "1 buffer, \(seeing) watcher\(seeing == 1 ? "" : "s")", pairs.theirs.median, ratio: pairs.ratio)
  }
}

private func measureFills() throws {
  let (loop, registry) = (try EventLoop(), Registry())
  let path = FilePath("/tmp/udmabridge-bench-\(getpid())-\(UInt64.random(in: 0...UInt64.max))")
  let server = try VarlinkServer(
    UnixSocket.listen(path), info: VarlinkInfo(vendor: "", product: "", version: "", url: ""),
    interfaces: [BuffersInterface(registry, loop: loop)], loop: loop, admits: { _ in true })
  defer { withExtendedLifetime(server) {} }
  final class End {
    let socket: UnixSocket
    init(_ path: FilePath) throws { socket = try UnixSocket.connect(path) }
    func read() throws -> [UInt8] {
      var bytes: [UInt8] = []
      var descriptors = ReceivedDescriptors()
      do throws(Errno) { _ = try socket.receive(into: &bytes, upTo: 8192, descriptors: &descriptors) } catch {
        guard error == .wouldBlock else { throw error }
      }
      return bytes
    }
  }
  let ends = try (0..<16).map { _ in
    let end = try End(path)
    while try loop.turn(waiting: .zero) > 0 {}
    return end
  }
  removeFile(path)
  let watch = #"{"method":"io.udmabridge.Buffers.Watch","more":true}"# + "\0"
  for end in ends {
    try end.socket.fd.setNonblocking()
    _ = unsafe try end.socket.send(Array(watch.utf8).span.bytes)
  }
  let pages = try LendableBuffer().buffer
  let owner = LenderID(session: registry.beginSession(), number: 1)
  let request = LendingRequest(offset: 0, size: 4096, use: .fill)
  let id = try registry.lend(
    request, of: pages, at: ResourcePlace(device: 0, epoch: 1, resource: 1), by: owner)
  let filler = try registry.importBuffer(
    id, for: LendingCaller(pid: 1, user: 0, groups: [], isTrusted: true), forWriting: true)
  while try loop.turn(waiting: .zero) > 0 {}
  for end in ends { try check(!end.read().isEmpty, "the watcher hears that the buffer is lent") }
  func fill() throws {
    try registry.beginFill(by: filler)
    try registry.endFill(Fill(bytesUsed: 4096, timestamp: nil, metadata: nil), by: filler)
    while try loop.turn(waiting: .zero) > 0 {}
    for end in ends {
      let told = try end.read()
      try check(told.count > 0 && told.filter { $0 == 0 }.count == 1, "one event comes for one fill")
    }
  }
  for _ in 0..<100 { try fill() }
  let times = try (0..<21).map { _ in try nanoseconds { for _ in 0..<100 { try fill() } } / 100 / 1000 }
  row("a fill, told to 16 watchers that read", times.median, "us", peer: "goal", 1000)
  row(
    "the same in a second, none lost", 1e6 / times.median, "events", peer: "goal", 1000,
    1e6 / times.median >= 1000 ? "" : "MISSED")
}
