import DisplayProtocol
import Foundation
import Linux
import Scanout
import SystemPackage
import TestSupport
import Testing
import Varlink

@testable import Consumers
@testable import Streaming

/// What `stream` sends of what a helper offers, all of it in this process.
@Suite final class StreamerTests {
  private let guest: OfferingGuest
  private let told = Told()
  private var streamer: Streamer!
  private var path: FilePath { guest.directory.appending("stream") }
  private var loop: EventLoop { guest.loop }
  private var frames: [Frame] { guest.frames }
  private var holds: Int { guest.sink.currentStatistics.holds }

  /// What people are told.
  private final class Told {
    var pictures: [StreamedPicture] = []
    var clients: [StreamClientCounts] = []
    var complaints: [String] = []
  }

  init() throws {
    guest = try OfferingGuest()
    try start(.memory)
  }

  private func start(_ kind: CapsKind) throws {
    streamer?.close()
    removeFile(path)
    streamer = try Streamer(
      VarlinkClient(guest.control), guest.control, scanout: 0, as: kind, to: UnixSocket.listen(path),
      udmabuf: nil,
      loop: loop,
      onPicture: { [told] in told.pictures.append($0) }, onClient: { [told] in told.clients.append($0) },
      onComplaint: { [told] in told.complaints.append($0) })
    // A busy machine must not make a difference.
    streamer.server.patience = .seconds(3600)
    try streamer.start()
    try settle()
  }

  deinit { streamer.close() }

  private func settle() throws { try guest.settle() }

  // MARK: The guest

  /// Makes a buffer, whose bytes follow from their places and `seed`.
  @discardableResult
  private func make(_ width: UInt32, _ height: UInt32, stride: UInt32? = nil, seed: UInt8 = 0) throws -> Frame
  {
    let layout = FrameLayout(
      width: width, height: height, format: .xrgb8888, stride: stride ?? width * 4)
    let (frame, memory) = try guest.make(layout)
    for place in 0..<memory.mapping.length { memory.mapping.store(byte(place, seed), at: place) }
    return frame
  }

  private func byte(_ place: Int, _ seed: UInt8) -> UInt8 { UInt8(place * 7 % 251) ^ seed }

  private func show(_ frame: Frame, _ source: Rectangle? = nil) throws {
    try guest.show(frame, source)
    try settle()
  }

  // MARK: Clients

  private func connect() throws -> UnixFDClient {
    let client = try UnixFDClient(path)
    try settle()
    return client
  }

  private func buffer(_ client: UnixFDClient) throws -> UnixFDClient.Buffer {
    guard case .buffer(let buffer)? = try client.next() else { throw TroubleInTest("no buffer came") }
    return buffer
  }

  private func caps(_ client: UnixFDClient) throws -> String {
    guard case .caps(let text)? = try client.next() else { throw TroubleInTest("no caps came") }
    return text
  }

  private func expectNothing(_ client: UnixFDClient) throws {
    if let message = try client.next() { Issue.record("\(message) came") }
  }

  private func isClosed(_ client: UnixFDClient) throws -> Bool {
    if case .closed? = try client.next() { true } else { false }
  }

  // MARK: Pictures

  @Test("a client gets each picture once, and the guest's buffer is held until it lets go")
  func pictures() throws {
    let before = Instant.now.reading
    try show(make(64, 48))
    // Nobody looks: nothing is held.
    #expect(holds == 0)
    let client = try connect()
    #expect(try caps(client).hasPrefix("video/x-raw, format=(string)BGRx, width=(int)64, height=(int)48,"))
    let first = try buffer(client)
    #expect(try first.bytes() == (0..<64 * 48 * 4).map { byte($0, 0) })
    #expect((first.offset, first.offsetEnd, first.flags) == (1, 2, 0))
    #expect((before...Instant.now.reading).contains(first.pts))
    #expect((first.dts, first.duration) == (.max, .max))
    #expect((first.type, first.memories, first.metas, first.rest) == (0, 1, 0, []))
    #expect(holds == 1)
    try expectNothing(client)

    try show(make(64, 48, seed: 9))
    let second = try buffer(client)
    #expect(try second.bytes() == (0..<64 * 48 * 4).map { byte($0, 9) })
    #expect(second.offset == 2 && second.flags == 0 && second.pts >= first.pts && second.id != first.id)
    #expect(holds == 2)
    try client.release(second.id)
    try settle()
    #expect(holds == 1)
    try client.release(first.id)
    try settle()
    #expect(holds == 0)
    // The same buffer again.
    try show(frames[1])
    #expect(try buffer(client).offset == 3)
    #expect(told.complaints.isEmpty && told.pictures.map(\.copied) == [nil])
  }

  @Test("a buffer is held until all its clients have let go, or are gone")
  func twoClients() throws {
    try show(make(64, 48))
    let clients = [try connect(), try connect()]
    var ids: [UInt64] = []
    for client in clients {
      _ = try caps(client)
      ids.append(try buffer(client).id)
    }
    #expect(holds == 1)
    try clients[0].release(ids[0])
    try settle()
    #expect(holds == 1)
    var gone: UnixFDClient? = try connect()
    try show(frames[0])
    try clients[0].release(buffer(clients[0]).id)
    try clients[1].release(ids[1])
    try clients[1].release(buffer(clients[1]).id)
    try settle()
    #expect(holds == 1)
    withExtendedLifetime(gone) {}
    gone = nil
    try settle()
    #expect(holds == 0)
    #expect(told.clients.map(\.client) == [3] && told.clients[0].sent == 2)
    #expect(told.clients[0].end == "it closed the connection")
  }

  @Test("another size comes after caps of its own")
  func size() throws {
    try show(make(64, 48))
    let client = try connect()
    _ = try caps(client)
    _ = try buffer(client)
    try show(make(32, 16, seed: 3))
    #expect(try caps(client).contains("width=(int)32, height=(int)16,"))
    #expect(try buffer(client).bytes() == (0..<32 * 16 * 4).map { byte($0, 3) })
    #expect(told.pictures.count == 2)
  }

  @Test(
    "rows whose stride or offset GStreamer would mistake are copied, with the reason",
    arguments: [
      (256, nil, false), (320, nil, true), (256, Rectangle(x: 0, y: 16, width: 64, height: 32), false),
      (256, Rectangle(x: 16, y: 8, width: 32, height: 32), true),
    ] as [(UInt32, Rectangle?, Bool)])
  func rows(_ stride: UInt32, _ source: Rectangle?, _ isCopied: Bool) throws {
    let client = try connect()
    try expectNothing(client)
    for turn: UInt8 in 1...20 {
      let frame = try make(64, 48, stride: stride, seed: turn)
      try show(frame, source)
      if turn == 1 { _ = try caps(client) }
      let part = source ?? frame.layout.bounds
      let wanted = (Int(part.y)..<Int(part.y + part.height)).flatMap { y in
        (Int(part.x) * 4..<Int(part.x + part.width) * 4).map { byte(y * Int(stride) + $0, turn) }
      }
      let came = try buffer(client)
      #expect(try came.bytes() == wanted, "picture \(turn)")
      // A copy belongs to nobody but the client.
      #expect(holds == (isCopied ? 0 : 1))
      try client.release(came.id)
      try settle()
    }
    let cause =
      "its rows are \(stride) bytes apart, and GStreamer takes them to be \((source?.width ?? 64) * 4) bytes apart"
    #expect(told.pictures.map(\.copied) == [isCopied ? cause : nil])
    #expect(streamer.counts.copied == (isCopied ? 20 : 0))
  }

  @Test("clients cannot write into a copy, and one that they have is not written again")
  func copies() throws {
    try show(make(64, 48, stride: 320))
    let client = try connect()
    _ = try caps(client)
    var came = [try buffer(client)]
    let writable = try came[0].memory.withDescriptor { fd throws(Errno) in try fd.isWritable }
    #expect(!writable)
    for seed: UInt8 in 2...8 {
      try show(make(64, 48, stride: 320, seed: seed))
      came.append(try buffer(client))
    }
    // There are no more; the next one waits for the first that is given back.
    try show(make(64, 48, stride: 320, seed: 9))
    try expectNothing(client)
    #expect(told.complaints.count == 1 && told.complaints[0].contains(" 8 copies"))
    for (index, one) in came.enumerated() {
      #expect(try one.bytes()[0] == byte(0, index == 0 ? 0 : UInt8(index + 1)))
    }
    try client.release(came[3].id)
    try settle()
    #expect(try buffer(client).bytes()[0] == byte(0, 9))
  }

  @Test("a memfd is not streamed as a dma-buf, and the reason is told")
  func noDMABuf() throws {
    try start(.dmabuf)
    let client = try connect()
    try show(make(64, 48))
    try expectNothing(client)
    #expect(
      told.complaints == [
        "buffer 1 is a memfd, of which no dma-buf can be made here; plain memory can be streamed"
      ])
    #expect(holds == 0)
  }
}

extension StreamerTests {
  // MARK: Clients that are slow, or worse

  @Test("a client that does not let go gets 32 pictures, then the newest, and the others are counted")
  func slow() throws {
    let frame = try make(64, 48)
    try show(frame)
    var client: UnixFDClient? = try connect()
    let other = try connect()
    _ = try client.map(caps)
    _ = try caps(other)
    try other.release(buffer(other).id)
    var ids: [UInt64] = []
    for _ in 2...50 {
      try show(frame)
      try other.release(buffer(other).id)
      try settle()
    }
    while case .buffer(let buffer)? = try client?.next() { ids.append(buffer.id) }
    #expect(ids.count == 32)
    try client?.release(ids[0])
    try settle()
    let late = try #require(try client.map(buffer))
    // The 17 between are told by the number and by the flag for a gap.
    #expect(late.offset == 50 && late.flags == 0x40)
    for id in ids.dropFirst() + [late.id] { try client?.release(id) }
    try show(frame)
    #expect(try client.map(buffer)?.flags == 0)
    client = nil
    try settle()
    #expect(told.clients.map(\.sent) == [34] && told.clients.map(\.skipped) == [17])
  }

  @Test("a client that does not read misses pictures, and delays no other")
  func deaf() throws {
    let frame = try make(64, 48)
    try show(frame)
    let (deaf, other) = (try connect(), try connect())
    _ = try caps(other)
    try other.release(buffer(other).id)
    for _ in 2...200 {
      try show(frame)
      try other.release(buffer(other).id)
    }
    try settle()
    withExtendedLifetime(deaf) {}
    streamer.close()
    #expect(told.clients.map { $0.sent + $0.skipped } == [200, 200])
    #expect(told.clients.first { $0.client == 2 }?.sent == 200)
    let counts = streamer.counts
    #expect(counts.frames == 200 && counts.sent + counts.skipped == 400 && counts.clients == 2)
  }

  @Test("a picture that a client keeps too long is the guest's again, and may still be let go")
  func patience() throws {
    streamer.server.patience = .milliseconds(1)
    try show(make(64, 48))
    var client: UnixFDClient? = try connect()
    _ = try client.map(caps)
    let id = try #require(try client.map(buffer)?.id)
    try loop.turn(until: "it is let go") { holds == 0 }
    try client?.release(id)
    try settle()
    #expect(told.clients.isEmpty)
    client = nil
    try settle()
    #expect(told.clients.map(\.overdue) == [1])
  }

  @Test(
    "a client that breaks the protocol is cut off with the reason, and no other is",
    arguments: [
      ([0, 0, 0, 0], "it sent command 0"), ([9, 0, 0, 0, 8], "it sent command 9"),
      ([1, 0, 0, 0, 9, 0, 0, 0], "a payload of 9 bytes"),
      ([1, 0, 0, 0, 8, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0], "let go of buffer 99"),
      // The first one, twice.
      (
        [1, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        "let go of buffer 1"
      ),
      ([UInt8](repeating: 1, count: 100_000), "it sent command 16843009"),
    ] as [([UInt8], String)])
  func liars(_ words: [UInt8], _ reason: String) throws {
    try show(make(64, 48))
    let (liar, other) = (try connect(), try connect())
    _ = try caps(liar)
    #expect(try buffer(liar).id == 1)
    try liar.send(words)
    try settle()
    #expect(try isClosed(liar))
    #expect(told.clients.count == 1 && told.clients[0].end.contains(reason), "\(told.clients)")
    _ = try caps(other)
    try other.release(buffer(other).id)
    try show(frames[0])
    try other.release(buffer(other).id)
    try settle()
    #expect(holds == 0)
  }

  @Test("a client's answer may come byte by byte")
  func halves() throws {
    try show(make(64, 48))
    let client = try connect()
    _ = try caps(client)
    let id = try buffer(client).id
    for byte in [1, 0, 0, 0, 8, 0, 0, 0] + (0..<8).map({ UInt8(truncatingIfNeeded: id >> ($0 * 8)) }) {
      #expect(holds == 1)
      try client.send([byte])
      try settle()
    }
    #expect(holds == 0)
  }

  @Test("a seventeenth client is refused, until another one goes")
  func limit() throws {
    try show(make(64, 48))
    var clients = try (0..<16).map { _ in try connect() }
    #expect(try isClosed(connect()))
    clients.removeFirst()
    try settle()
    let next = try connect()
    _ = try caps(next)
    _ = try buffer(next)
    #expect(streamer.counts.refused == 1)
    for client in clients { _ = try caps(client) }
  }

  // MARK: Ends

  @Test("clients wait while the guest shows nothing, and go on with its next picture")
  func off() throws {
    try show(make(64, 48))
    let client = try connect()
    _ = try caps(client)
    try client.release(buffer(client).id)
    guest.turnOff()
    try settle()
    let late = try connect()
    try expectNothing(client)
    try expectNothing(late)
    try show(make(64, 48, seed: 1))
    #expect(try buffer(client).flags == 0)
    _ = try caps(late)
    #expect(try buffer(late).offset == 2)
  }

  @Test("when the helper takes back a held buffer, the stream connects anew and clients go on")
  func takenBack() throws {
    try show(make(64, 48))
    let client = try connect()
    _ = try caps(client)
    let id = try buffer(client).id
    guest.sink.forget(frames[0])
    try loop.turn(until: "its hold has ended") { holds == 0 }
    try client.release(id)
    try show(make(64, 48, seed: 5))
    var next: UnixFDClient.Buffer?
    try loop.turn(until: "the next picture has come") {
      if case .buffer(let buffer)? = try client.next() { next = buffer }
      return next != nil
    }
    #expect(try next?.bytes()[0] == byte(0, 5))
    #expect(streamer.failure == nil)
  }

  @Test("all clients are told of the end, after what they have not read yet")
  func end() throws {
    try show(make(64, 48))
    let (client, unread) = (try connect(), try connect())
    _ = try caps(client)
    _ = try buffer(client)
    streamer.end()
    try settle()
    for one in [client, unread] {
      if one === unread {
        _ = try caps(unread)
        _ = try buffer(unread)
      }
      guard case .end? = try one.next() else {
        Issue.record("no end was told")
        continue
      }
      #expect(try isClosed(one))
    }
    #expect(told.clients.map(\.end) == ["it was told of the end", "it was told of the end"])
    #expect(throws: (any Error).self) { try UnixFDClient(self.path) }
  }
}
