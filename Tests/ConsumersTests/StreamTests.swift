import DisplayProtocol
import Fixtures
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import Consumers
@testable import Scanout
@testable import Varlink

/// What a caller of Stream is sent, who answers as QEMU does, or does not.
@Suite struct StreamTests {
  private let rig: Rig

  init() throws { rig = try Rig(scanouts: 2) }

  private typealias Received = QEMUDisplayFrontEnd.Received

  private func stream(features: UInt64? = 0b11) throws -> QEMUDisplayFrontEnd {
    let caller = try rig.connect()
    try caller.send("Stream", upgrade: true)
    #expect(try caller.messages(upTo: 18) == [Array(#"{"parameters":{}}"#.utf8)])
    let frontEnd = QEMUDisplayFrontEnd(adopting: try caller.takeSocket())
    if let features {
      try rig.settle()
      #expect(try frontEnd.all() == [Received(1)])
      try frontEnd.reply(1, features.bytes)
      try rig.settle()
      #expect(try frontEnd.next() == Received(2, (features & 0b10).bytes))
    }
    return frontEnd
  }

  private func heard(_ frontEnd: QEMUDisplayFrontEnd) throws -> [Received] {
    try rig.settle()
    return try frontEnd.all()
  }

  private func words(_ words: UInt32...) -> [UInt8] { words.flatMap(\.bytes) }

  /// Memory that another process can import.
  private final class Buffer: ShadowMemory {
    let memory: any ShadowMemory
    init(_ memory: any ShadowMemory) { self.memory = memory }
    var mapping: Mapping { memory.mapping }
    var isDMABuf: Bool { true }
    func descriptor() throws(Errno) -> FD { try memory.descriptor() }
    func isBelow(_ bound: Int) -> Bool { memory.isBelow(bound) }
  }

  private func buffer() throws -> (frame: Frame, inode: UInt64) {
    let frame = try rig.frame()
    guard case .shadow(let memory) = frame.memory else { throw TroubleInTest("not a copy") }
    let inode = try memory.descriptor().status().inode
    return (Frame(id: frame.id, memory: .shadow(Buffer(memory)), layout: frame.layout), inode)
  }

  private let area = { (x: UInt32, y: UInt32, width: UInt32, height: UInt32) in
    [x, y, width, height].flatMap(\.bytes)
  }

  @Test("a stream sends a memfd's pixels, then the changed ones, and the end of the picture")
  func pixels() throws {
    let frame = try rig.frame()
    rig.present(frame)
    let frontEnd = try stream()
    guard case .shadow(let memory) = frame.memory else { throw TroubleInTest("not a copy") }
    #expect(
      try heard(frontEnd) == [
        Received(7, words(0, 64, 48)),
        Received(8, words(0) + area(0, 0, 64, 48) + memory.mapping.bytes(at: 0, count: 64 * 48 * 4)),
        Received(1),
      ])
    try frontEnd.reply(1, (3 as UInt64).bytes)
    rig.present(frame, Rectangle(x: 2, y: 3, width: 1, height: 2))
    let changed = [3, 4].flatMap { memory.mapping.bytes(at: ($0 * 64 + 2) * 4, count: 4) }
    #expect(try heard(frontEnd) == [Received(8, words(0) + area(2, 3, 1, 2) + changed), Received(1)])
    try frontEnd.reply(1, (3 as UInt64).bytes)
    rig.sink.turnOff(ScanoutID(0))
    #expect(try heard(frontEnd) == [Received(7, words(0, 0, 0)), Received(1)])
  }

  /// Which message announces a buffer: of 48 bytes with the modifier, of 40 without.
  @Test(
    "a stream sends a buffer's descriptor once, then the areas that change",
    arguments: [(0b11, 12, 48), (0, 9, 40)])
  func buffers(_ features: UInt64, _ request: UInt32, _ size: Int) throws {
    let frontEnd = try stream(features: features)
    let (frame, inode) = try buffer()
    func announced(_ scanout: UInt32) -> Received {
      let layout = words(scanout) + area(0, 0, 64, 48) + words(64, 48, 256, 0, 0x3432_5258)
      return Received(request, layout + [UInt8](repeating: 0, count: size - layout.count), inode: inode)
    }
    rig.present(frame)
    #expect(try heard(frontEnd) == [announced(0), Received(10, words(0) + area(0, 0, 64, 48))])
    // Until it has answered it hears of nothing else on this scanout.
    for x: UInt32 in [1, 3] { rig.present(frame, Rectangle(x: x, y: 0, width: 1, height: 1)) }
    rig.present(frame, on: 1)
    #expect(try heard(frontEnd) == [announced(1), Received(10, words(1) + area(0, 0, 64, 48))])
    try frontEnd.reply(10)
    #expect(try heard(frontEnd) == [Received(10, words(0) + area(1, 0, 3, 1))])
  }

  @Test("a buffer that a stream has not answered is held, and later frames wait only so long")
  func held() throws {
    let frontEnd = try stream()
    let (one, two) = (try buffer().frame, try buffer().frame)
    rig.present(one)
    try rig.settle()
    rig.present(two)
    try rig.settle()
    #expect(rig.reports == ["presented 1 of 1"])
    try frontEnd.reply(10)
    try rig.settle()
    #expect(rig.reports == ["presented 1 of 1", "presented 2 of 2"])
    #expect(one.uses == 1)  // Until the other one is on its screen.
    try frontEnd.reply(10)
    try rig.settle()
    #expect(one.uses == 0 && two.uses == 2)
    // It says nothing more.
    rig.sink.patience = .milliseconds(100)
    rig.present(one)
    try rig.settle()
    rig.present(two)
    try rig.loop.turn(until: "patience ends") { rig.reports.count == 4 }
    #expect(rig.sink.statistics.overdue == 1)
  }

  @Test("a frame that is taken back is free at once, and the stream that did not answer is cut off")
  func takenBack() throws {
    let (good, bad) = (try stream(), try stream())
    let (one, two) = (try buffer().frame, try buffer().frame)
    rig.present(one)
    _ = try heard(good)
    try good.reply(10)
    _ = try heard(bad)
    rig.present(two)
    rig.sink.forget(one)
    try rig.settle()
    #expect(one.uses == 0)
    #expect(try bad.all().isEmpty)
    try rig.waitUntil("it is cut off") { try bad.isOver }
    #expect(try !good.isOver && rig.server.connectionCount == 1)
    #expect(rig.sink.feeds.count == 1)
  }

  @Test("a stream that hangs up is forgotten with all that it held", arguments: [false, true])
  func hangsUp(_ inTheMiddle: Bool) throws {
    let frame: Frame
    do {
      let frontEnd = try stream(features: inTheMiddle ? 0b11 : nil)
      frame = try buffer().frame
      rig.present(frame)
      try rig.settle()
      frontEnd.hangUp()
    }
    try rig.waitUntil("its end is known") { rig.sink.feeds.isEmpty }
    #expect(rig.server.connectionCount == 0 && rig.sink.currentStatistics.holds == 0)
    rig.sink.turnOff(ScanoutID(0))
    #expect(frame.uses == 0)
  }

  @Test("a stream that answers what was not asked is cut off, and no other is")
  func unasked() throws {
    let (good, bad) = (try stream(), try stream())
    try bad.reply(10)
    try rig.settle()
    try rig.waitUntil("it is cut off") { try bad.isOver }
    #expect(try !good.isOver)
    rig.present(try buffer().frame)
    #expect(try heard(good).map(\.request) == [12, 10])
  }

  @Test("a frame that the protocol cannot describe is sent as no picture")
  func wordless() throws {
    let frontEnd = try stream()
    let (frame, _) = try buffer()
    rig.present(frame)
    #expect(try heard(frontEnd).map(\.request) == [12, 10])
    try frontEnd.reply(10)
    var layout = frame.layout
    layout.offset = 256
    rig.present(Frame(id: 100, memory: frame.memory, layout: layout))
    #expect(try heard(frontEnd).map(\.request) == [9, 7, 1])
  }

  @Test("a stream is sent the cursor's image, its moves and its end")
  func cursor() throws {
    let frontEnd = try stream()
    let image = CursorImage(pixels: (0..<16384).map { UInt8($0 % 251) }, hotX: 1, hotY: 2)
    rig.sink.setCursor(image, at: CursorPosition(x: 7, y: 8), on: ScanoutID(1))
    rig.sink.moveCursor(to: CursorPosition(x: 9, y: 8), on: ScanoutID(1))
    rig.sink.setCursor(nil, at: CursorPosition(x: 9, y: 8), on: ScanoutID(1))
    #expect(
      try heard(frontEnd) == [
        Received(6, words(1, 7, 8, 1, 2) + image.pixels), Received(4, words(1, 9, 8)),
        Received(5, words(1, 9, 8)),
      ])
  }
}
