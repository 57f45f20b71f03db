import DisplayProtocol
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import Consumers
@testable import Scanout
@testable import Varlink

/// What a caller of Watch hears, however slow it is.
@Suite struct WatchTests {
  private let rig: Rig

  init() throws { rig = try Rig(scanouts: 2) }

  private func watch() throws -> Caller {
    let caller = try rig.connect()
    try caller.send("Watch", more: true)
    return caller
  }

  private func words(_ events: [DisplayEvent]) -> [String] {
    events.map { event in
      switch event.event {
      case .frame:
        "frame \(event.frame!.sequence) of \(event.frame!.buffer) on \(event.scanout!), lost \(event.lost!), "
          + "\(event.damage!.width)x\(event.damage!.height)+\(event.damage!.x)+\(event.damage!.y)"
      case .off: "off \(event.scanout!)"
      case .cursor: "cursor \(event.cursor!.x) \(event.cursor!.visible)"
      case .outputs: "outputs \(event.outputs!.count)"
      case .end: "end"
      }
    }
  }

  @Test("a call of Watch or Stream beyond the limit is refused, until another one goes")
  func limit() throws {
    let rig = try Rig(watchers: 3)
    var callers = try (0..<5).map { _ in try rig.connect() }
    for caller in callers[..<2] { try caller.send("Watch", more: true) }
    try callers[2].send("Stream", upgrade: true)
    try callers[3].send("Stream", upgrade: true)
    try callers[4].send("Watch", more: true)
    let refusal = #"{"error":"io.udmabridge.Display.TooManyWatchers","parameters":{"limit":3}}"#
    for caller in callers[3...] {
      #expect(try caller.messages().map { String(decoding: $0, as: UTF8.self) } == [refusal])
    }
    #expect(rig.sink.feeds.count == 3)
    callers.remove(at: 1)
    try rig.waitUntil("its end is known") { rig.sink.feeds.count == 2 }
    try callers[3].send("Watch", more: true)
    #expect(try callers[3].events().map(\.event) == [.outputs])
  }

  @Test("a oneway call of Watch makes no watcher")
  func oneway() throws {
    let caller = try rig.connect()
    for _ in 0..<3 { try caller.send("Watch", more: true, oneway: true) }
    #expect(rig.sink.statistics.watchers == 0)
    rig.present(try rig.frame())
    #expect(try caller.events().isEmpty)
  }

  @Test("a watcher hears of what there is, then of each change, then of the end")
  func changes() throws {
    let (one, two) = (try rig.frame(), try rig.frame())
    rig.present(one)
    let caller = try watch()
    #expect(words(try caller.events()) == ["outputs 2", "frame 1 of 1 on 0, lost 0, 64x48+0+0"])
    rig.present(one, Rectangle(x: 1, y: 2, width: 3, height: 4))
    rig.present(two)
    rig.present(one, on: 1)
    rig.sink.turnOff(ScanoutID(0))
    rig.sink.turnOff(ScanoutID(0))
    #expect(
      words(try caller.events()) == [
        "frame 2 of 1 on 0, lost 0, 3x4+1+2", "frame 3 of 2 on 0, lost 0, 64x48+0+0",
        "frame 1 of 1 on 1, lost 0, 64x48+0+0", "off 0",
      ])
    rig.sink.setCursor(
      CursorImage(pixels: [UInt8](repeating: 0, count: 16384), hotX: 0, hotY: 0),
      at: CursorPosition(x: 7, y: 8),
      on: ScanoutID(1))
    rig.sink.moveCursor(to: CursorPosition(x: 9, y: 8), on: ScanoutID(1))
    rig.sink.outputs = rig.sink.outputs.map { SinkOutput(name: $0.name, modes: []) }
    #expect(words(try caller.events()) == ["cursor 7 true", "cursor 9 true", "outputs 2"])
    rig.sink.end()
    #expect(words(try caller.events()) == ["end"])
    #expect(!caller.isClosed)
  }

  @Test("a watcher that does not read loses frames and delays nobody, and others lose none")
  func slow() throws {
    let (slow, quick) = (try watch(), try watch())
    let (one, two) = (try rig.frame(), try rig.frame())
    var heard = 0
    for number in 0..<10_000 {
      rig.present(number % 2 == 0 ? one : two)
      if number % 100 == 0 { heard += try quick.events().count { $0.event == .frame } }
    }
    heard += try quick.events().count { $0.event == .frame }
    #expect(heard == 10_000)
    #expect(rig.reports.count == 10_000 && rig.reports.allSatisfy { $0.hasPrefix("presented") })
    // What it could be told is told, and then the newest.
    let frames = try slow.events().filter { $0.event == .frame }
    #expect(frames.count < 5000, "\(frames.count)")
    #expect(frames.last?.frame?.sequence == 10_000)
    #expect(frames.count + frames.reduce(0) { $0 + $1.lost! } == 10_000)
    #expect(frames.last!.lost! > 1000)
    #expect(frames.last?.damage?.width == 64)
    rig.present(one, Rectangle(x: 0, y: 0, width: 1, height: 1))
    #expect(words(try slow.events()) == ["frame 10001 of 1 on 0, lost 0, 64x48+0+0"])
  }

  @Test("watchers that have gone are noticed at the next frame, before the loop turns", arguments: [1, 5])
  func goneUnnoticed(_ count: Int) throws {
    var watching = try (0..<count).map { _ in try watch() }
    let stays = try watch()
    watching.removeAll()
    // The loop has not turned since.
    let frame = try rig.frame()
    for _ in 0..<3 { rig.present(frame) }
    #expect(rig.sink.feeds.count == 1)
    #expect(try stays.events().count == 4)
    rig.sink.end()
  }

  @Test("at the end all watchers are forgotten, and a slow one is cut off")
  func endUnnoticed() throws {
    let slow = try watch()
    do { _ = try watch() }
    let frame = try rig.frame()
    for _ in 0..<10_000 { rig.present(frame) }
    do { _ = try watch() }
    rig.sink.end()
    #expect(rig.sink.feeds.isEmpty)
    try rig.waitUntil("it is cut off") {
      _ = try slow.events()
      return slow.isClosed
    }
  }

  @Test("a watcher whose connection ends is forgotten")
  func gone() throws {
    do { _ = try watch() }
    try rig.waitUntil("its end is known") { rig.sink.feeds.isEmpty }
    #expect(rig.server.connectionCount == 0)
    rig.present(try rig.frame())
  }
}
