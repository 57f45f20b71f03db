import Lending
import LendingProtocol
import Linux
import TestSupport
import Testing

@testable import LendingService

/// What those are told who watch.
@Suite struct BuffersWatchTests {
  private let rig: LendingRig

  init() throws { rig = try LendingRig() }

  private func watch() throws -> Asker {
    let asker = try rig.connect()
    try asker.watch()
    return asker
  }

  private func fill(_ lent: LendingRig.Lent, _ asker: Asker, _ bytes: Int) throws {
    try asker.tell("Fill", lent)
    try asker.tell("Filled", #"{"id":"\#(lent.id)","bytesUsed":\#(bytes)}"#)
  }

  @Test("a watcher hears of what is lent, then of each change, then of the end")
  func changes() throws {
    let values = BufferMetadata(values: ["a": "b"])
    let lent = try rig.lend(use: .fill, metadata: values)
    let (watcher, asker) = (try watch(), try rig.connect())
    func told() throws -> BuffersEvent {
      let events = try watcher.events()
      #expect(events.count == 1)
      return try #require(events.first)
    }
    var event = try told()
    #expect(event.event == .lent && event.buffer?.id == lent.id && event.metadata == values)
    let holding = try Holding(asker, lent)
    #expect(try watcher.events().isEmpty)
    let other = BufferMetadata(values: ["c": "d"])
    try rig.registry.setMetadata(other, of: lent.id, by: lent.owner)
    event = try told()
    #expect(event.event == .metadata && event.metadata == other && event.buffer?.users == 1)
    try rig.registry.beginAccess(.readWrite, to: lent.id, by: lent.owner)
    event = try told()
    #expect(event.event == .accessBegun && event.mode == .readWrite)
    try rig.registry.endAccess(to: lent.id, by: lent.owner)
    #expect(try told().event == .accessEnded)
    try fill(lent, asker, 7)
    event = try told()
    #expect(event.event == .filled && event.filling?.bytesUsed == 7 && event.lost == 0)
    try asker.tell("Fill", lent)
    #expect(try watcher.events().isEmpty)
    try asker.tell("Release", lent)
    #expect(try told().event == .fillAborted && holding.isCutOff)
    let again = try Holding(asker, lent)
    try rig.takeBack(lent, patience: .seconds(9))
    event = try told()
    #expect(event.event == .returning && event.buffer?.state == .returning && event.buffer?.returns != nil)
    try asker.tell("Release", lent)
    event = try told()
    #expect(event.event == .returned && event.buffer?.state == .returned && again.isCutOff)
    let next = try rig.lend()
    #expect(try told().event == .lent)
    rig.revoke(next)
    event = try told()
    #expect(event.event == .revoked && event.reason == .resourceGone && event.buffer?.id == next.id)
    rig.interface.end()
    #expect(try told() == BuffersEvent(.end))
    #expect(!watcher.isClosed)
  }

  @Test("a watcher hears that the session has ended before it hears of the end")
  func sessionEnds() throws {
    let lent = try rig.lend()
    let watcher = try watch()
    #expect(try watcher.events().map(\.event) == [.lent])
    rig.registry.endSession()
    rig.interface.end()
    let events = try watcher.events()
    #expect(events.map(\.event) == [.revoked, .end] && events[0].reason == .sessionEnded)
    #expect(events[0].buffer?.id == lent.id)
  }

  @Test("a watcher hears nothing of a buffer that is over, though its filler goes later")
  func over() throws {
    let lent = try rig.lend(use: .fill)
    let (watcher, asker) = (try watch(), try rig.connect())
    let holding = try Holding(asker, lent)
    try asker.tell("Fill", lent)
    rig.revoke(lent)
    #expect(try watcher.events().map(\.event) == [.lent, .revoked])
    try rig.pass(.seconds(2))
    #expect(holding.isCutOff)
    #expect(try watcher.events().isEmpty)
  }

  @Test("a watcher that does not read loses fills, learns how many, and delays nobody")
  func slow() throws {
    let lent = try rig.lend(use: .fill)
    let (slow, quick, asker) = (try watch(), try watch(), try rig.connect())
    let holding = try Holding(asker, lent)
    #expect(try slow.events().count == 1 && quick.events().count == 1)
    let count = 600
    var (heard, lost) = (0, 0)
    for number in 1...count {
      try fill(lent, asker, number)
      if number % 10 == 0 {
        let events = try quick.events()
        heard += events.count
        lost += events.reduce(0) { $0 + $1.lost! }
      }
    }
    #expect(heard == count && lost == 0)
    try rig.takeBack(lent)
    try asker.tell("Release", lent)
    let events = try slow.events()
    let fills = events.filter { $0.event == .filled }
    #expect(fills.count < count && fills.reduce(fills.count) { $0 + $1.lost! } == count)
    #expect(fills.last?.filling?.bytesUsed == count)
    // That it was on its way back is no news any more.
    #expect(events.suffix(2).map(\.event) == [.filled, .returned] && holding.isCutOff)
  }

  @Test("a slow watcher hears of the end of each buffer that it heard of, and misses others")
  func cameAndWent() throws {
    let watcher = try watch()
    let metadata = BufferMetadata(values: ["a": String(repeating: "x", count: 4000)])
    var ids: [BufferID] = []
    for _ in 0..<600 {
      let lent = try rig.lend(metadata: metadata)
      ids.append(lent.id)
      try rig.settle()
      try rig.takeBack(lent)
      try rig.settle()
    }
    let events = try watcher.events()
    var live: Set<BufferID> = []
    for event in events {
      let id = try #require(event.buffer?.id)
      switch event.event {
      case .lent: #expect(live.insert(id).inserted)
      case .returned: #expect(live.remove(id) != nil)
      default: #expect(event.event == .returning)
      }
    }
    #expect(live.isEmpty)
    // The socket was full before the last one.
    let heard = Set(events.compactMap(\.buffer?.id))
    #expect(heard.contains(ids[0]) && heard.count < 600)
    // It goes on.
    let lent = try rig.lend()
    #expect(try watcher.events().map(\.buffer?.id) == [lent.id])
  }

  @Test("a watcher whose connection ends is forgotten")
  func gone() throws {
    do {
      let watcher = try watch()
      #expect(try watcher.events().isEmpty && rig.registry.statistics.watchers == 1)
    }
    try rig.waitUntil("its end is known") { rig.registry.statistics.watchers == 0 }
    _ = try rig.lend()
    try rig.settle()
  }

  @Test("a watcher beyond the limit is refused, until another one goes")
  func limit() throws {
    let rig = try LendingRig(watchers: 3)
    var watchers = try (0..<3).map { _ in try rig.connect() }
    for watcher in watchers { try watcher.watch() }
    let late = try rig.connect()
    try late.watch()
    let answer = try late.messages().map { String(decoding: $0, as: UTF8.self) }
    #expect(answer == [#"{"error":"io.udmabridge.Buffers.TooManyWatchers","parameters":{"limit":3}}"#])
    watchers.removeLast()
    try rig.waitUntil("a place is free") { rig.registry.statistics.watchers == 2 }
    try late.watch()
    let lent = try rig.lend()
    for watcher in watchers + [late] { #expect(try watcher.events().map(\.buffer?.id) == [lent.id]) }
  }
}
