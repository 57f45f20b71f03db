import CBench
import Fixtures
import Glibc
import Linux
import SystemPackage
import Udmabuf

/// Measures memory of the host on its way into a running guest: from the offer on the control socket until the guest's driver hears
/// that it is mapped.
///
/// The helper is a process of its own. This one is the offerer, the guest's agent, its driver, and QEMU, which says of each mapping
/// that it made it. The peer is a process in C that passes as many bytes and descriptors over the same kinds of sockets and
/// eventfds, maps the file once, and checks and keeps nothing.
func benchOffers() throws {
  try check(cb_stay_on_one_cpu(1) == 0, "the processes stay on one CPU")
  defer { _ = cb_stay_on_one_cpu(0) }
  heading("offers: memory of the host, from the offer until it is mapped in the guest, on one CPU")
  let helper = try OfferingHelper()
  let pairs = try measure(helper)
  row(
    "offered, told to the agent, mapped", pairs.ours.median, "us", peer: "as many bytes, in C",
    pairs.theirs.median, ratio: pairs.ratio)
  // The peer, which has copies of the connections, has ended.
  try check(helper.end() == 0, "the helper ends well")
}

private func measure(_ helper: OfferingHelper) throws -> Pairs {
  let memory = try Memfd.create(name: "bench", size: 65536, seals: [.shrink, .grow])
  let peer = try OfferPeer(helper.measureSizes(memory), memory)
  defer { peer.end() }
  for _ in 0..<20 {
    _ = try helper.life(memory)
    _ = try peer.life()
  }
  var pairs = Pairs()
  try pairs.measure(301, { try helper.life(memory) / 1000 }, { try peer.life() / 1000 })
  return pairs
}

private final class OfferingHelper {
  private let control: UnixSocket
  private let port: UnixSocket
  private let channel = try! RequestChannel()
  private let card: GraphicsCard
  private var number: UInt64 = 0
  private static let (mapCode, unmapCode): (UInt32, UInt32) = (9, 10)

  init() throws {
    let paths = (0..<2).map { _ in
      FilePath("/tmp/udmabridge-bench-\(getpid())-\(UInt64.random(in: 0...UInt64.max))")
    }
    let process = try BackEndProcess.startHelper([
      "--profile", "share", "--control", paths[0].string, "--port", paths[1].string,
    ])
    control = try UnixSocket.connect(paths[0])
    port = try UnixSocket.connect(paths[1])
    for path in paths { removeFile(path) }
    card = try GraphicsCard(process, memory: 16 << 20, requests: channel)
    let session = String(repeating: "0", count: 32)
    _ = try ask(
      port, #"{"execute":"hello","arguments":{"version":1,"session":"\#(session)"},"id":0}"# + "\n", end: 0x0a
    )
  }

  func end() -> CInt { card.end() }

  private func ask(_ socket: borrowing UnixSocket, _ question: String, end: UInt8) throws -> String {
    unsafe try socket.fd.write(Array(question.utf8).span.bytes)
    return try line(socket, end: end)
  }

  private func line(_ socket: borrowing UnixSocket, end: UInt8) throws -> String {
    var bytes: [UInt8] = []
    while bytes.last != end {
      let more = try socket.fd.read(upTo: 4096)
      try check(!more.isEmpty, "the helper is there")
      bytes += more
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  private static let offer =
    #"{"method":"io.udmabridge.Buffers.Offer","parameters":{"fileDescriptor":0}}"# + "\0"

  /// - Returns: what was said, and the offer's number.
  private func offer(_ memory: Memfd) throws -> (answer: String, event: String, id: UInt64) {
    let sent = unsafe try control.send(Array(Self.offer.utf8).span.bytes, rawDescriptors: [memory.number])
    try check(sent == Self.offer.utf8.count, "an offer is short")
    let answer = try line(control, end: 0)
    let event = try line(port, end: 0x0a)
    guard let place = answer.firstRange(of: #""id":"#),
      let id = UInt64(answer[place.upperBound...].prefix(while: \.isNumber))
    else { throw WrongResult("an offer has a number: \(answer)") }
    return (answer, event, id)
  }

  /// Says that it was done, as QEMU does.
  private func acknowledge(_ code: UInt32) throws {
    try check(channel.waitUntilAsked(milliseconds: 10_000), "the helper asks in time")
    try check(try channel.next().map(\.code) == [code], "the helper asks for a mapping, or for its end")
    try channel.acknowledge(code)
  }

  /// - Returns: the nanoseconds until it was mapped.
  func life(_ memory: Memfd) throws -> Double {
    var id: UInt64 = 0
    let time = try nanoseconds {
      id = try offer(memory).id
      try card.send([Command.createHostBlob(1, 65536, offer: id)])
      try card.sendMap(Command.mapBlob(1))
      try acknowledge(Self.mapCode)
      try card.finish(2)
    }
    try card.send([Command.unmapBlob(1)])
    try acknowledge(Self.unmapCode)
    try card.finish(1)
    try card.run([Command.unref(1)])
    _ = try ask(
      control, #"{"method":"io.udmabridge.Buffers.Withdraw","parameters":{"id":\#(id)}}"# + "\0", end: 0)
    // Withdrawing, and withdrawn.
    var told = ""
    while !told.contains("withdrawn") { told += try line(port, end: 0x0a) }
    return time
  }

  func measureSizes(_ memory: Memfd) throws -> cb_offer_sizes {
    let offered = try offer(memory)
    _ = try ask(
      control, #"{"method":"io.udmabridge.Buffers.Withdraw","parameters":{"id":\#(offered.id)}}"# + "\0",
      end: 0)
    var told = ""
    while !told.contains("withdrawn") { told += try line(port, end: 0x0a) }
    return cb_offer_sizes(
      asked: Self.offer.utf8.count, answered: offered.answer.utf8.count, told: offered.event.utf8.count,
      // A header, the region, its place, the length, flags; and an acknowledgement.
      mapped: 12 + 40, acknowledged: 12 + 8, memory: 65536)
  }
}

/// There is one.
private final class OfferPeer {
  private let pid: pid_t
  private let memory: Memfd

  init(_ sizes: cb_offer_sizes, _ memory: Memfd) throws {
    self.memory = memory
    pid = cb_offer_start(sizes)
    try check(pid > 0, "the peer starts")
  }

  func end() {
    _ = cb_kill(pid)
    _ = cb_reap(pid)
  }

  func life() throws -> Double {
    try nanoseconds { try check(cb_offer_life(memory.number) == 0, "the peer maps it") }
  }
}
