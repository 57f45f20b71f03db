import DisplayProtocol
import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

@testable import Consumers
@testable import Scanout

/// What other processes get of the frames, and what their holds do to the one who shows them.
@Suite struct FrameTests {
  private let rig: Rig

  init() throws { rig = try Rig(scanouts: 2) }

  private func getFrame(_ caller: Caller, _ parameters: String = "{}") throws -> DisplayFrameReply {
    try caller.ask("GetFrame", parameters)
  }

  @Test("the served definition is the one in docs")
  func definition() throws {
    let text = try readText(repository.appending("docs/io.udmabridge.Display.varlink"))
    #expect(displayDescription == text)
  }

  @Test("GetOutputs has each scanout with its modes and its frame")
  func outputs() throws {
    let caller = try rig.connect()
    let frame = try rig.frame()
    rig.present(frame, on: 1)
    let outputs = try caller.ask("GetOutputs", as: DisplayOutputs.self).outputs
    #expect(outputs.map(\.name) == ["out-0", "out-1"])
    #expect(outputs.map(\.scanout) == [0, 1])
    #expect(outputs[0].modes.map { "\($0.width)x\($0.height)" } == ["640x480"])
    #expect(outputs[0].frame == nil)
    #expect(outputs[1].frame?.buffer == 1)
    #expect(outputs[1].frame?.scanout == 1)
  }

  @Test("GetFrame gives a frame's layout, and a descriptor with its pixels")
  func pixels() throws {
    let caller = try rig.connect()
    let frame = try rig.frame()
    rig.present(frame)
    let reply = try getFrame(caller)
    #expect(reply.frame.buffer == 1 && reply.frame.sequence == 1 && reply.frame.scanout == 0)
    #expect(reply.frame.kind == .shadow && reply.frame.memory == .memfd)
    #expect(reply.frame.width == 64 && reply.frame.height == 48 && reply.frame.stride == 256)
    #expect(reply.frame.format == "XR24" && reply.frame.fourcc == 0x3432_5258 && reply.frame.modifier == 0)
    #expect(reply.frame.size == 12288 && reply.frame.offset == 0)
    #expect(reply.damage == reply.frame.source && reply.damage.width == 64)
    guard let fd = caller.takeDescriptor() else { throw TroubleInTest("no descriptor came") }
    let mapping = try Mapping(fd, offset: 0, length: 12288, writable: false)
    for pixel: UInt32 in [0, 1, 63, 64, 3071] {
      #expect(mapping.load(UInt32.self, at: Int(pixel) * 4) == pixel ^ 1 << 24)
    }
  }

  /// What stands for the dma-buf here is a memfd.
  @Test("a lent frame's dma-buf goes to a caller of GetFrame, and not with GetOutputs")
  func lent() throws {
    let caller = try rig.connect()
    let memfd = try Memfd.create(name: "frame", size: 12288)
    let dmabuf = try DMABuf(adopting: memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() })
    let layout = FrameLayout(width: 64, height: 48, format: .xrgb8888, stride: 256)
    rig.present(Frame(id: 7, memory: .lent(dmabuf), layout: layout))
    #expect(try caller.ask("GetOutputs", as: DisplayOutputs.self).outputs[0].frame?.buffer == 7)
    #expect(!dmabuf.isShared)
    let reply = try getFrame(caller)
    let came = caller.takeDescriptor() != nil
    #expect(reply.frame.kind == .lent && reply.frame.memory == .dmabuf && came)
    #expect(dmabuf.isShared)
  }

  /// What is asked, and the name and the number of the error.
  @Test(
    "a call about something that is not there is refused by name and number",
    arguments: [
      ("GetFrame", "{}", "NoFrame 0"), ("GetFrame", #"{"scanout":1}"#, "NoFrame 1"),
      ("GetFrame", #"{"scanout":2}"#, "NoSuchScanout 2"),
      ("GetFrame", #"{"scanout":-1}"#, "NoSuchScanout -1"),
      ("GetCursor", #"{"scanout":2}"#, "NoSuchScanout 2"), ("Hold", #"{"buffer":1}"#, "NoSuchBuffer 1"),
      ("Hold", #"{"buffer":-1}"#, "NoSuchBuffer -1"), ("Release", #"{"buffer":1}"#, "NoSuchBuffer 1"),
    ])
  func refusals(_ method: String, _ parameters: String, _ error: String) throws {
    #expect(try rig.connect().fail(method, parameters) == error)
  }

  @Test("the damage since an earlier picture is what changed, or all if that is not known")
  func damage() throws {
    let caller = try rig.connect()
    let (one, two) = (try rig.frame(), try rig.frame())
    func part(_ x: UInt32) -> Rectangle { Rectangle(x: x, y: 2, width: 4, height: 4) }
    rig.present(one)  // 1
    rig.present(one, part(0))  // 2
    rig.present(one, part(10))  // 3
    func since(_ sequence: Int) throws -> String {
      let damage = try getFrame(caller, #"{"since":\#(sequence)}"#).damage
      return "\(damage.width)x\(damage.height)+\(damage.x)+\(damage.y)"
    }
    #expect(try since(3) == "0x0+0+0")
    #expect(try since(2) == "4x4+10+2")
    #expect(try since(1) == "14x4+0+2")
    #expect(try since(0) == "64x48+0+0")
    #expect(try since(99) == "0x0+0+0")
    // Another buffer is another picture.
    rig.present(two, part(0))  // 4
    #expect(try since(3) == "64x48+0+0")
    rig.present(two, part(20))  // 5
    #expect(try since(4) == "4x4+20+2")
    #expect(try since(3) == "64x48+0+0")
    // It is not remembered for ever.
    for _ in 0..<63 { rig.present(two, part(0)) }
    #expect(try since(5) == "4x4+0+2")
    rig.present(two, part(0))
    rig.present(two, part(0))
    #expect(try since(5) == "64x48+0+0")
  }

  // MARK: What is in use

  @Test("a shown frame is in use until the next one, and reported at the loop's next turn")
  func uses() throws {
    let (one, two) = (try rig.frame(), try rig.frame())
    rig.present(one)
    #expect(one.uses == 1 && rig.reports == [])
    try rig.settle()
    #expect(rig.reports == ["presented 1 of 1"])
    rig.present(two)
    #expect(one.uses == 0 && two.uses == 1)
    rig.sink.turnOff(ScanoutID(0))
    #expect(two.uses == 0)
    try rig.settle()
    #expect(rig.reports == ["presented 1 of 1", "presented 2 of 2"])
  }

  @Test("a hold keeps a buffer in use until Release or the end of the connection")
  func holds() throws {
    let (one, two) = (try rig.frame(), try rig.frame())
    do {
      let (first, second) = (try rig.connect(), try rig.connect())
      rig.present(one)
      _ = try getFrame(first, #"{"hold":true}"#)
      _ = try second.ask("Hold", #"{"buffer":1}"#, as: [String: Int].self)
      #expect(one.uses == 3)
      rig.present(two)
      #expect(one.uses == 2)
      // What is held by somebody can be held by others, and what is not by oneself not released.
      let third = try rig.connect()
      #expect(try third.fail("Release", #"{"buffer":1}"#) == "NoSuchBuffer 1")
      _ = try third.ask("Hold", #"{"buffer":1}"#, as: [String: Int].self)
      #expect(one.uses == 3)
      _ = try second.ask("Release", #"{"buffer":1}"#, as: [String: Int].self)
      #expect(try second.fail("Release", #"{"buffer":1}"#) == "NoSuchBuffer 1")
      #expect(one.uses == 2)
    }
    try rig.waitUntil("their end is known") { one.uses == 0 }
    #expect(two.uses == 1)
    #expect(try rig.connect().fail("Hold", #"{"buffer":1}"#) == "NoSuchBuffer 1")
  }

  @Test("a connection may have eight holds, and no more")
  func tooManyHolds() throws {
    let caller = try rig.connect()
    let frame = try rig.frame()
    rig.present(frame)
    for _ in 0..<8 { _ = try getFrame(caller, #"{"hold":true}"#) }
    #expect(try caller.fail("GetFrame", #"{"hold":true}"#) == "TooManyHolds 8")
    #expect(try caller.fail("Hold", #"{"buffer":1}"#) == "TooManyHolds 8")
    #expect(frame.uses == 9)
    #expect(try rig.connect().ask("Hold", #"{"buffer":1}"#, as: [String: Int].self).isEmpty)
  }

  @Test("a frame waits until its predecessor is let go")
  func waits() throws {
    let caller = try rig.connect()
    let (one, two) = (try rig.frame(), try rig.frame())
    rig.present(one)
    _ = try getFrame(caller, #"{"hold":true}"#)
    // The same buffer again takes the place of nothing.
    rig.present(one)
    try rig.settle()
    #expect(rig.reports == ["presented 1 of 1", "presented 2 of 1"])
    rig.present(two)
    try rig.settle()
    #expect(rig.reports.count == 2)
    // What comes next takes its place.
    rig.present(two)
    try rig.settle()
    #expect(rig.reports[2...] == ["replaced 3", "presented 4 of 2"])
    rig.present(one)
    rig.present(two)
    try rig.settle()
    #expect(rig.reports.count == 5, "\(rig.reports)")
    _ = try caller.ask("Release", #"{"buffer":1}"#, as: [String: Int].self)
    #expect(rig.reports[4...] == ["presented 5 of 1", "presented 6 of 2"])
  }

  @Test("a frame waits a tenth of a second for a holder, and later ones do not wait")
  func patience() throws {
    rig.sink.patience = .milliseconds(100)
    let caller = try rig.connect()
    let (one, two) = (try rig.frame(), try rig.frame())
    rig.present(one)
    _ = try getFrame(caller, #"{"hold":true}"#)
    try rig.settle()
    rig.reports = []
    let start = Instant.now
    rig.present(two)
    try rig.loop.turn(until: "patience ends", isToldOf: true) { !rig.reports.isEmpty }
    #expect(.now - start >= .milliseconds(100))
    for frame in [one, two, one, two] { rig.present(frame) }
    try rig.settle()
    #expect(rig.reports == (2...6).map { "presented \($0) of \($0 % 2 == 0 ? 2 : 1)" })
    let control = try statistics(caller)
    #expect(control.overdue == 1 && control.holds == 1 && control.frames == 6)
  }

  @Test("a frame that is taken back is shown no more, and its holder is cut off")
  func takenBack() throws {
    let (holding, other) = (try rig.connect(), try rig.connect())
    let (one, two) = (try rig.frame(), try rig.frame())
    rig.present(one)
    for _ in 0..<2 { _ = try getFrame(holding, #"{"hold":true}"#) }
    rig.present(two)
    #expect(one.uses == 2)
    rig.sink.forget(one)
    #expect(one.uses == 0)
    try rig.settle()
    #expect(rig.reports == ["presented 1 of 1", "presented 2 of 2"])
    try rig.waitUntil("it is cut off") { try holding.messages().isEmpty && holding.isClosed }
    #expect(try statistics(other).cutOff == 2)
    rig.sink.forget(two)
    #expect(two.uses == 0)
    #expect(try other.fail("GetFrame") == "NoFrame 0")
  }

  @Test("a waiting frame that is taken back, and one whose scanout goes dark, are reported once")
  func waitingEnds() throws {
    let caller = try rig.connect()
    let (one, two) = (try rig.frame(), try rig.frame())
    rig.present(one)
    _ = try getFrame(caller, #"{"hold":true}"#)
    rig.present(two)
    rig.sink.forget(two)
    try rig.settle()
    #expect(rig.reports == ["presented 1 of 1", "failed 2"])
    rig.present(one)
    let three = try rig.frame()
    rig.present(three)
    rig.sink.turnOff(ScanoutID(0))
    try rig.settle()
    #expect(rig.reports[2...] == ["presented 3 of 1", "presented 4 of 3"])
    #expect(three.uses == 0 && one.uses == 1)
  }

  private struct StatisticsReply: Decodable {
    let device: [String: Int]
    let control: ControlStatistics
  }

  private func statistics(_ caller: Caller) throws -> ControlStatistics {
    let reply = try caller.ask("Statistics", as: StatisticsReply.self)
    #expect(reply.device == ["flushes": 3])
    return reply.control
  }

  // MARK: The cursor

  @Test("GetCursor has the cursor's image and place, or says that it is hidden")
  func cursor() throws {
    let caller = try rig.connect()
    #expect(try caller.ask("GetCursor", as: DisplayCursorReply.self).fileDescriptor == nil)
    let pixels = (0..<64 * 64 * 4).map { UInt8(truncatingIfNeeded: $0 * 7) }
    rig.sink.setCursor(
      CursorImage(pixels: pixels, hotX: 3, hotY: 4), at: CursorPosition(x: -5, y: 9), on: ScanoutID(0))
    rig.sink.moveCursor(to: CursorPosition(x: -6, y: 10), on: ScanoutID(0))
    let reply = try caller.ask("GetCursor", as: DisplayCursorReply.self)
    #expect(
      reply.cursor
        == DisplayCursor(scanout: 0, visible: true, x: -6, y: 10, hotX: 3, hotY: 4, image: 1))
    guard let fd = caller.takeDescriptor() else { throw TroubleInTest("no descriptor came") }
    #expect(
      try Mapping(fd, offset: 0, length: pixels.count, writable: false).bytes(at: 0, count: pixels.count)
        == pixels)
    rig.sink.setCursor(nil, at: CursorPosition(x: 0, y: 0), on: ScanoutID(0))
    #expect(try caller.ask("GetCursor", as: DisplayCursorReply.self).cursor.visible == false)
  }
}
