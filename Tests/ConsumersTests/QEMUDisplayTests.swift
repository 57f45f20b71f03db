import Fixtures
import Linux
import Logging
import SystemPackage
import TestSupport
import Testing
import Udmabuf

@testable import Consumers
@testable import Scanout

/// QEMU's own display as a sink.
@Suite struct QEMUDisplayTests {
  typealias Message = QEMUDisplayFrontEnd.Received

  // MARK: Buffers

  @Test("a lent frame is announced once, and then updated, one update at a time")
  func lends() throws {
    let rig = try QEMURig.attended()
    let frame = try rig.lent()
    guard case .lent(let dmabuf) = frame.memory else { throw TroubleInTest("the frame is not lent") }
    #expect(!dmabuf.isShared)
    rig.present(frame)
    #expect(try rig.messages() == [rig.announcement(frame), rig.update(0, 0, 64, 48)])
    #expect(dmabuf.isShared, "QEMU has it")
    #expect(rig.takeReports() == [], "it counts when QEMU says so")
    try rig.reply(10)
    #expect(rig.takeReports() == ["presented 1 of 1 on 0"])

    rig.present(frame, Rectangle(x: 1, y: 2, width: 3, height: 4))
    #expect(try rig.messages() == [rig.update(1, 2, 3, 4)])
    // One at a time; what comes meanwhile is one change.
    rig.present(frame, Rectangle(x: 10, y: 10, width: 2, height: 2))
    rig.present(frame, Rectangle(x: 20, y: 20, width: 2, height: 2))
    #expect(try rig.messages() == [])
    try rig.reply(10)
    #expect(rig.takeReports() == ["replaced 3", "presented 2 of 1 on 0"])
    #expect(try rig.messages() == [rig.update(10, 10, 12, 12)])
    try rig.reply(10)
    #expect(rig.takeReports() == ["presented 4 of 1 on 0"])
  }

  @Test("an old QEMU gets DMABUF_SCANOUT", arguments: [0, 1] as [UInt64])
  func lendsWithoutAModifier(_ features: UInt64) throws {
    let rig = try QEMURig.attended(features)
    let frame = try rig.lent()
    rig.present(frame)
    #expect(try rig.messages() == [rig.announcement(frame, isFirst: true), rig.update(0, 0, 64, 48)])
  }

  @Test("features that only QEMU knows are ignored")
  func choosesFeatures() throws {
    let rig = try QEMURig.attended(0xffff_ffff_ffff_fffc)
    let frame = try rig.lent()
    rig.present(frame)
    #expect(try rig.messages().first?.request == 9)
  }

  @Test("a frame is in use until QEMU has shown another one, or nothing")
  func holds() throws {
    let rig = try QEMURig.attended()
    let (first, second) = (try rig.lent(), try rig.lent())
    try rig.show(first)
    #expect(first.uses == 1)
    rig.present(second)
    #expect(try rig.messages() == [rig.announcement(second), rig.update(0, 0, 64, 48)])
    #expect(first.uses == 1 && second.uses == 1)
    try rig.reply(10)
    #expect(first.uses == 0 && second.uses == 1)

    rig.sink.turnOff(ScanoutID(0))
    #expect(try rig.messages() == [QEMURig.noBuffer(), QEMURig.size(0, 0), QEMURig.barrier])
    #expect(second.uses == 1)
    try rig.reply(1)
    #expect(second.uses == 0)
    // It is off already.
    rig.sink.turnOff(ScanoutID(0))
    #expect(try rig.messages() == [])
  }

  @Test("the upper left part of an image is an image of its own")
  func showsAPart() throws {
    let rig = try QEMURig.attended()
    let layout = FrameLayout(width: 64, height: 48, format: .argb8888, stride: 256)
    let part = Rectangle(x: 0, y: 0, width: 32, height: 20)
    let frame = try rig.lent(layout, source: part)
    rig.present(frame, source: part)
    // Without a meaning for alpha.
    #expect(try rig.messages() == [rig.announcement(frame, 32, 20), rig.update(0, 0, 32, 20)])
  }

  static let refused: [(String, FrameLayout, Rectangle, SinkError.Refusal)] = {
    let layout = FrameLayout(width: 64, height: 48, format: .xrgb8888, stride: 256)
    var (late, odd) = (layout, layout)
    late.offset = 4096
    odd.format = .bgrx8888
    return [
      ("x", layout, Rectangle(x: 1, y: 0, width: 8, height: 8), .offset),
      ("y", layout, Rectangle(x: 0, y: 1, width: 8, height: 8), .offset),
      ("an offset", late, late.bounds, .offset), ("a format", odd, odd.bounds, .format),
    ]
  }()

  @Test("a picture that QEMU's display cannot show is refused with its reason", arguments: refused.indices)
  func refuses(_ index: Int) throws {
    let (_, layout, source, refusal) = Self.refused[index]
    let rig = try QEMURig()
    let frame = try rig.lent(layout, prepares: false)
    let error = #expect(throws: SinkError.self) {
      try rig.sink.prepare(frame, source: source, on: ScanoutID(0))
    }
    #expect(error?.refusal == refusal && refusal.isMendedByCopying)
    #expect(throws: SinkError.self) {
      try rig.sink.prepare(frame, source: source, on: ScanoutID(2))
    }
  }

  // MARK: Pixels

  @Test("pixels are sent after their size, and are shown when QEMU has read them")
  func sendsPixels() throws {
    let rig = try QEMURig.attended()
    let frame = try rig.copied(100, 30)
    rig.present(frame)
    let whole = Rectangle(x: 0, y: 0, width: 100, height: 30)
    #expect(try rig.messages() == [QEMURig.size(100, 30), rig.pixels(frame, whole), QEMURig.barrier])
    #expect(rig.takeReports() == [])
    try rig.reply(1)
    #expect(rig.takeReports() == ["presented 1 of 1 on 0"])

    let part = Rectangle(x: 7, y: 3, width: 5, height: 6)
    rig.present(frame, part)
    #expect(try rig.messages() == [rig.pixels(frame, part), QEMURig.barrier])
    try rig.reply(1)
    #expect(rig.takeReports() == ["presented 2 of 1 on 0"])
    rig.sink.turnOff(ScanoutID(0))
    #expect(try rig.messages() == [QEMURig.size(0, 0), QEMURig.barrier])
  }

  @Test("a large picture is sent in parts of whole rows")
  func sendsPixelsInParts() throws {
    let rig = try QEMURig.attended()
    let frame = try rig.copied(1000, 700)
    rig.present(frame)
    let messages = try rig.messages()
    #expect(messages.first == QEMURig.size(1000, 700) && messages.last == QEMURig.barrier)
    var row: UInt32 = 0
    for message in messages.dropFirst().dropLast() {
      let rows = UInt32(message.payload.count - 20) / 4000
      #expect(message.payload.count <= 20 + rig.sink.lanes[0].bandBytes && rows > 0)
      #expect(message == rig.pixels(frame, Rectangle(x: 0, y: row, width: 1000, height: rows)))
      row += rows
    }
    #expect(row == 700)
    try rig.reply(1)
    #expect(rig.takeReports() == ["presented 1 of 1 on 0"])
  }

  @Test("a picture in many parts takes several turns of the loop, however fast QEMU reads")
  func leavesTurnsToOthers() throws {
    let rig = try QEMURig.attended()
    // The 48 rows of the picture are 12 parts.
    (rig.sink.lanes[0].bandBytes, rig.sink.lanes[0].bandsPerTurn) = (4 * 256, 5)
    let frame = try rig.copied(64, 48)
    rig.present(frame)
    var row: UInt32 = 0
    for (parts, others) in [(5, [QEMURig.size(64, 48)]), (5, []), (2, [QEMURig.barrier])] {
      let expected = (0..<parts).map { _ in
        defer { row += 4 }
        return rig.pixels(frame, Rectangle(x: 0, y: row, width: 64, height: 4))
      }
      var messages: [QEMURig.Message] = []
      while let message = try rig.frontEnd.next() { messages.append(message) }
      #expect(messages == (parts == 5 ? others + expected : expected + others))
      try rig.loop.turn(waiting: .zero)
    }
    try rig.reply(1)
    #expect(rig.takeReports() == ["presented 1 of 1 on 0"])
  }

  @Test(
    "between pixels and buffers QEMU is told to leave the buffer, on a new socket too",
    arguments: [false, true])
  func changesTheKind(isNewSocket: Bool) throws {
    let rig = try QEMURig.attended()
    let (lent, copied) = (try rig.lent(), try rig.copied())
    try rig.show(lent)
    if isNewSocket {
      rig.frontEnd.hangUp()
      try rig.settle()
      rig.present(copied)
      try rig.introduce()
    } else {
      rig.present(copied)
    }
    let whole = copied.layout.bounds
    let expected = [
      QEMURig.noBuffer(), QEMURig.size(64, 48), rig.pixels(copied, whole), QEMURig.barrier,
    ]
    #expect(try rig.messages() == expected)
    try rig.reply(1)
    rig.present(lent)
    #expect(try rig.messages() == [rig.announcement(lent), rig.update(0, 0, 64, 48)])
    try rig.reply(10)
    #expect(copied.uses == 0 && lent.uses == 1)
  }

  // MARK: Sockets

  @Test("the frame and the cursor are told anew on the next socket", arguments: [false, true])
  func tellsAnew(isLent: Bool) throws {
    let rig = try QEMURig.attended()
    let frame = isLent ? try rig.lent() : try rig.copied()
    let image = CursorImage(pixels: [UInt8](repeating: 9, count: 64 * 64 * 4), hotX: 1, hotY: 2)
    rig.present(frame)
    rig.sink.setCursor(image, at: CursorPosition(x: 5, y: 6), on: ScanoutID(0))
    let first = try rig.messages()
    try rig.reply(isLent ? 10 : 1)
    #expect(rig.takeReports() == ["presented 1 of 1 on 0"])
    rig.frontEnd.hangUp()
    try rig.settle()
    #expect(!rig.sink.isAttended && frame.uses == 1, "QEMU shows it still")

    try rig.introduce()
    #expect(rig.sink.isAttended)
    #expect(try rig.messages() == first)
    try rig.reply(isLent ? 10 : 1)
    #expect(rig.takeReports() == [], "it was shown before")
    rig.present(frame, Rectangle(x: 1, y: 1, width: 1, height: 1))
    #expect(try rig.messages().count == (isLent ? 1 : 2))
  }

  @Test("a frame that QEMU did not answer before a stop is shown after it")
  func showsAfterAStop() throws {
    let rig = try QEMURig.attended()
    let (first, second) = (try rig.lent(), try rig.lent())
    rig.present(first)
    let told = try rig.messages()
    // Replaced while the old one is open, as on a reset.
    try rig.introduce()
    #expect(try rig.messages() == told)
    rig.frontEnd.hangUp()
    try rig.settle()
    rig.present(second)
    #expect(rig.takeReports() == [])
    try rig.introduce()
    #expect(try rig.messages() == told)
    try rig.reply(10)
    #expect(rig.takeReports() == ["presented 1 of 1 on 0"])
    #expect(try rig.messages() == [rig.announcement(second), rig.update(0, 0, 64, 48)])
  }

  @Test("a scanout that went dark between two sockets is told so")
  func turnsOffBetweenSockets() throws {
    let rig = try QEMURig.attended()
    let frame = try rig.lent()
    try rig.show(frame)
    rig.frontEnd.hangUp()
    try rig.settle()
    rig.present(try rig.lent())
    rig.sink.turnOff(ScanoutID(0))
    #expect(frame.uses == 0, "nobody can be waited for")
    #expect(rig.takeReports().last == "replaced 2")
    try rig.introduce()
    #expect(try rig.messages() == [QEMURig.noBuffer(), QEMURig.size(0, 0), QEMURig.barrier])
    try rig.reply(1)
    rig.present(frame)
    #expect(try rig.messages() == [rig.announcement(frame), rig.update(0, 0, 64, 48)])
  }

  @Test("nothing is in use when QEMU's device is gone")
  func isAbandoned() throws {
    let rig = try QEMURig.attended()
    let (first, second) = (try rig.lent(), try rig.lent())
    try rig.show(first)
    rig.present(second)
    rig.sink.abandon()
    #expect(first.uses == 0 && second.uses == 0 && !rig.sink.isAttended)
    rig.sink.turnOff(ScanoutID(0))
    try rig.introduce()
    #expect(try rig.messages() == [])
  }

  @Test("without a socket from QEMU frames are presented at once, and not held")
  func isNotThere() throws {
    let rig = try QEMURig()
    let frame = try rig.lent()
    rig.present(frame)
    rig.present(frame)
    #expect(frame.uses == 0)
    #expect(rig.takeReports() == [], "it is told from the loop")
    try rig.settle()
    #expect(rig.takeReports() == ["presented 1 of 1 on 0", "presented 2 of 1 on 0"])
    rig.sink.turnOff(ScanoutID(0))
    try rig.introduce()
    #expect(try rig.messages() == [])
  }

  @Test("a socket on which nonsense comes is given up, and the next one serves")
  func givesUp() throws {
    let rig = try QEMURig.attended()
    let frame = try rig.lent()
    rig.present(frame)
    let told = try rig.messages()
    try rig.frontEnd.reply(99)
    try rig.settle()
    try rig.waitUntil("it is given up") { try rig.frontEnd.isOver }
    #expect(!rig.sink.isAttended)
    try rig.introduce()
    #expect(try rig.messages() == told)
  }

  // MARK: A QEMU that is slow

  @Test("an update that QEMU never answers ends with the answer to a question after it")
  func asksAfterwards() throws {
    let patience = TimeSpan.milliseconds(100)
    let rig = try QEMURig.attended(patience: patience)
    let frame = try rig.lent()
    let start = Instant.now
    rig.present(frame)
    var told: [Message] = []
    func wait(for count: Int) throws {
      try rig.loop.turn(until: "\(count) messages") {
        told += try rig.messages()
        return told.count >= count
      }
    }
    try wait(for: 3)
    #expect(told[2] == QEMURig.barrier)
    #expect(.now - start >= patience)
    // It is asked once: nothing more comes before a timer that takes longer.
    var isOver = false
    let timer = try Timer(rig.loop) { isOver = true }
    timer.arm(after: patience * 2)
    try rig.loop.turn(until: "a timer fires") { isOver }
    #expect(try rig.messages() == [])
    try rig.reply(1)
    #expect(rig.takeReports() == ["presented 1 of 1 on 0"])
  }

  @Test("a QEMU that does not read gets the newest state when it does")
  func coalesces() throws {
    let rig = try QEMURig.attended()
    let frame = try rig.copied(800, 600)
    let other = try rig.lent()
    for step in 0..<200 {
      rig.present(frame)
      let pixels = [UInt8](repeating: UInt8(step), count: 64 * 64 * 4)
      rig.sink.setCursor(
        CursorImage(pixels: pixels, hotX: 0, hotY: 0), at: CursorPosition(x: Int32(step), y: 0),
        on: ScanoutID(1))
      try rig.settle()
    }
    rig.present(other)
    let messages = try rig.messages()
    let cursors = messages.filter { $0.request == 6 }
    #expect(cursors.count < 50 && cursors.last?.payload.last == 199)
    #expect(messages.filter { $0.request == 7 } == [QEMURig.size(800, 600)])
    try rig.reply(1)
    #expect(try rig.messages() == [rig.announcement(other), rig.update(0, 0, 64, 48)])
    try rig.reply(10)
    #expect(rig.reports.last == "presented 201 of 2 on 0")
    #expect(rig.reports.count == 201, "each is reported once")
  }

  // MARK: Frames that are taken back

  @Test("a frame that is taken back leaves QEMU's display")
  func isCutOff() throws {
    let rig = try QEMURig.attended()
    let (first, second) = (try rig.lent(), try rig.lent())
    try rig.show(first)
    _ = rig.takeReports()
    rig.present(second)
    _ = try rig.messages()
    // QEMU has not answered for the second one.
    rig.sink.forget(second)
    #expect(second.uses == 0)
    #expect(rig.reports == [], "it is told from the loop")
    #expect(try rig.messages() == [QEMURig.noBuffer(), QEMURig.size(0, 0), QEMURig.barrier])
    #expect(rig.takeReports() == ["failed 2"])
    #expect(first.uses == 0)
    // The answer to what was given up comes late.
    try rig.reply(10)
    try rig.reply(1)
    #expect(rig.takeReports() == [])
    rig.present(first)
    #expect(try rig.messages() == [rig.announcement(first), rig.update(0, 0, 64, 48)])
    rig.present(second)
    rig.sink.forget(second)
    try rig.settle()
    #expect(rig.takeReports() == ["failed 4"])
    try rig.reply(10)
    rig.sink.forget(first)
    #expect(try rig.messages() == [QEMURig.noBuffer(), QEMURig.size(0, 0), QEMURig.barrier])
    #expect(first.uses == 0)
  }

  @Test("each scanout has its own announcement, update and report")
  func showsOnSeveral() throws {
    let rig = try QEMURig.attended()
    let (first, second) = (try rig.lent(), try rig.lent())
    rig.present(first)
    rig.present(second, on: 1)
    #expect(
      try rig.messages() == [
        rig.announcement(first), rig.update(0, 0, 64, 48), rig.announcement(second, on: 1),
        rig.update(0, 0, 64, 48, on: 1),
      ])
    try rig.reply(10)
    #expect(rig.takeReports() == ["presented 1 of 1 on 0"])
    try rig.reply(10)
    #expect(rig.takeReports() == ["presented 1 of 2 on 1"])
  }

  // MARK: The cursor

  @Test("QEMU is told of the cursor: its image, its moves and its end") func tellsOfTheCursor() throws {
    let rig = try QEMURig.attended()
    let pixels = (0..<64 * 64 * 4).map { UInt8(truncatingIfNeeded: $0) }
    let image = CursorImage(pixels: pixels, hotX: 3, hotY: 4)
    // There is none yet.
    rig.sink.moveCursor(to: CursorPosition(x: 1, y: 1), on: ScanoutID(0))
    #expect(try rig.messages() == [])
    rig.sink.setCursor(image, at: CursorPosition(x: -5, y: 6), on: ScanoutID(0))
    let x = UInt32(bitPattern: -5)
    #expect(try rig.messages() == [Message(6, QEMURig.words(0, x, 6, 3, 4) + pixels)])
    rig.sink.moveCursor(to: CursorPosition(x: 7, y: 8), on: ScanoutID(0))
    #expect(try rig.messages() == [Message(4, QEMURig.words(0, 7, 8))])
    rig.sink.setCursor(image, at: CursorPosition(x: 9, y: 8), on: ScanoutID(0))
    #expect(try rig.messages() == [Message(4, QEMURig.words(0, 9, 8))], "the image is the same")
    rig.sink.setCursor(nil, at: CursorPosition(x: 0, y: 0), on: ScanoutID(0))
    #expect(try rig.messages() == [Message(5, QEMURig.words(0, 0, 0))])
    rig.sink.moveCursor(to: CursorPosition(x: 1, y: 1), on: ScanoutID(0))
    rig.sink.setCursor(image, at: CursorPosition(x: 1, y: 1), on: ScanoutID(5))
    #expect(try rig.messages() == [])
  }

  // MARK: What the display is like

  @Test("the guest's questions wait for QEMU's answers, and each question is asked once")
  func asksForScreens() throws {
    let rig = try QEMURig()
    var heard: [String] = []
    func ask() -> Bool { rig.sink.inquire { heard.append("outputs") } }
    func askEDID(_ scanout: UInt32) -> Bool {
      rig.sink.inquireEDID(of: ScanoutID(scanout)) { heard.append("edid of \(scanout): \($0?.count ?? -1)") }
    }
    #expect(!ask() && !askEDID(0), "there is nobody to be asked")
    try rig.connect()
    // Before QEMU has said anything.
    #expect(askEDID(0) && askEDID(1) && ask() && ask() && !askEDID(2))
    #expect(try rig.messages() == [Message(1), Message(3)], "once for all")
    try rig.frontEnd.reply(1, QEMURig.both.bytes)
    #expect(try rig.messages() == [Message(2, QEMURig.both.bytes)])
    #expect(heard == [])
    try rig.frontEnd.reply(3, QEMUDisplayFrontEnd.displayInfo([(1280, 800)]))
    #expect(try rig.messages() == [Message(11, QEMURig.words(0))], "the second one is not enabled")
    #expect(heard == ["outputs", "outputs", "edid of 1: -1"])
    #expect(rig.takeReports() == ["outputs"])
    #expect(rig.sink.outputs.map { $0.modes.map(\.description) } == [["1280x800@60"], []])
    try rig.frontEnd.reply(11, QEMUDisplayFrontEnd.edid([UInt8](repeating: 1, count: 256)))
    try rig.settle()
    #expect(heard.last == "edid of 0: 256")

    // The window has another size now, and there is a second one.
    heard = []
    #expect(ask() && !askEDID(1))
    #expect(try rig.messages() == [Message(3)])
    try rig.frontEnd.reply(3, QEMUDisplayFrontEnd.displayInfo([(1024, 768), (640, 480)]))
    try rig.settle()
    #expect(heard == ["outputs"] && rig.takeReports() == ["outputs"])
    #expect(askEDID(1))
    #expect(try rig.messages() == [Message(11, QEMURig.words(1))])
    // QEMU leaves it out.
    #expect(ask())
    try rig.frontEnd.reply(3, QEMUDisplayFrontEnd.displayInfo([(1024, 768), (640, 480)]))
    try rig.settle()
    #expect(heard == ["outputs", "edid of 1: -1", "outputs"] && rig.takeReports() == [])
  }

  @Test("a question whose QEMU goes away is never answered")
  func losesQuestions() throws {
    let rig = try QEMURig.attended()
    var heard = 0
    #expect(rig.sink.inquire { heard += 1 })
    #expect(rig.sink.inquireEDID(of: ScanoutID(0)) { _ in heard += 1 })
    rig.frontEnd.hangUp()
    try rig.settle()
    #expect(heard == 0 && !rig.sink.inquire {})
    try rig.introduce()
    #expect(heard == 0)
  }

  @Test("a QEMU without EDIDs is not asked for them")
  func asksForNoEDID() throws {
    let rig = try QEMURig.attended(2)
    #expect(!rig.sink.inquireEDID(of: ScanoutID(0)) { _ in })
  }

  @Test("with sizes of the user's QEMU's screens change nothing")
  func asksNothing() throws {
    let rig = try QEMURig(asks: false)
    #expect(!rig.sink.inquire {} && !rig.sink.inquireEDID(of: ScanoutID(0)) { _ in })
    try rig.connect()
    #expect(!rig.sink.inquire {} && !rig.sink.inquireEDID(of: ScanoutID(0)) { _ in })
    // Only for its answer, should that be the first one.
    #expect(try rig.messages() == [Message(1), Message(3)])
    try rig.frontEnd.reply(1, QEMURig.both.bytes)
    #expect(try rig.messages() == [Message(2, QEMURig.both.bytes)])
    let before = rig.sink.outputs
    try rig.frontEnd.reply(3, QEMUDisplayFrontEnd.displayInfo([(800, 600)]))
    try rig.settle()
    #expect(rig.sink.outputs == before && rig.takeReports() == [])
    #expect(rig.sink.outputs.map(\.hasCursor) == [true, true])
  }

  @Test("after QEMU's display is abandoned a frame is presented at once")
  func forgetsItsDisplay() throws {
    let rig = try QEMURig.attended()
    try rig.show(rig.lent())
    _ = rig.takeReports()
    rig.sink.abandon()
    let frame = try rig.lent()
    rig.present(frame)
    try rig.settle()
    #expect(rig.takeReports() == ["presented 2 of 2 on 0"])
    #expect(frame.uses == 0)
  }

  @Test(
    "a display that knows no protocol features, as libkrun's, has the base protocol",
    arguments: [false, true])
  func knowsNoFeatures(asks: Bool) throws {
    let rig = try QEMURig(asks: asks)
    for turn in 0..<2 {
      try rig.connect()
      var heard = 0
      #expect(rig.sink.inquire { heard += 1 } == asks)
      #expect(try rig.messages() == [Message(1), Message(3)])
      let frame = try rig.lent()
      rig.present(frame)
      #expect(try rig.messages() == [], "it may still say what it can do")
      try rig.frontEnd.reply(3, QEMUDisplayFrontEnd.displayInfo([(1280, 800)]))
      // Nothing is chosen of features, and no EDID is asked for.
      #expect(try rig.messages() == [rig.announcement(frame, isFirst: true), rig.update(0, 0, 64, 48)])
      try rig.reply(10)
      #expect(heard == (asks ? 1 : 0))
      #expect(!rig.sink.inquireEDID(of: ScanoutID(0)) { _ in })
      #expect(
        rig.takeReports() == (asks && turn == 0 ? ["outputs"] : []) + [
          "presented \(turn * 2 + 1) of \(frame.id) on 0"
        ])
      #expect(rig.sink.outputs[0].modes.map(\.description) == [asks ? "1280x800@60" : "1920x1080@60"])
      // What has no answer of its own is done when it says again which screens it has.
      let copied = try rig.copied()
      rig.present(copied)
      let whole = Rectangle(x: 0, y: 0, width: 64, height: 48)
      #expect(
        try rig.messages() == [
          QEMURig.noBuffer(), QEMURig.size(64, 48), rig.pixels(copied, whole), Message(3),
        ])
      #expect(rig.takeReports() == [])
      try rig.frontEnd.reply(3, QEMUDisplayFrontEnd.displayInfo([(640, 480)]))
      try rig.settle()
      #expect(rig.takeReports() == ["presented \(turn * 2 + 2) of \(copied.id) on 0"])
    }
    let said = rig.log.lines.filter { $0.level >= .notice }
    #expect(said.count == 1 && said.first?.text.contains("GET_PROTOCOL_FEATURES") == true)
  }

  @Test("with the base protocol a late update makes the sink ask for the screens")
  func asksABasicDisplayAfterwards() throws {
    let rig = try QEMURig(patience: .milliseconds(1))
    try rig.connect()
    _ = try rig.messages()
    try rig.frontEnd.reply(3, QEMUDisplayFrontEnd.displayInfo([(1280, 800)]))
    let frame = try rig.lent()
    rig.present(frame)
    var messages: [Message] = []
    let deadline = Instant.now + .seconds(60)
    while messages.count < 3, .now < deadline {
      messages += try rig.messages()
      try rig.loop.turn(waiting: .milliseconds(10))
    }
    #expect(messages == [rig.announcement(frame, isFirst: true), rig.update(0, 0, 64, 48), Message(3)])
    try rig.frontEnd.reply(3, QEMUDisplayFrontEnd.displayInfo([(1280, 800)]))
    try rig.settle()
    #expect(rig.takeReports().last == "presented 1 of 1 on 0")
  }

  @Test("questions beyond the bound are refused until the others are answered")
  func boundsQuestions() throws {
    let rig = try QEMURig.attended()
    let bound = 64
    for count in 0..<bound + 10 {
      #expect(rig.sink.inquire {} == (count < bound))
      #expect(rig.sink.inquireEDID(of: ScanoutID(0)) { _ in } == (count < bound))
    }
    var answered = 0
    for _ in 0..<bound * 4 {
      for message in try rig.messages() {
        answered += 1
        try rig.frontEnd.reply(
          message.request,
          message.request == 3
            ? QEMUDisplayFrontEnd.displayInfo([(1920, 1080)]) : QEMUDisplayFrontEnd.edid([]))
      }
      try rig.settle()
    }
    #expect(answered == bound + 1)
    #expect(rig.sink.inquire {})
  }
}
