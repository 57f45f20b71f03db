import DisplayProtocol
import Linux
import Logging
import SystemPackage
import TestSupport
import Testing

@testable import Consumers
@testable import Scanout

/// A sink that paces, and other processes beside it.
@Suite struct TeeTests {
  private final class Card: ScanoutSink {
    var outputs: [SinkOutput]
    weak var observer: (any ScanoutObserver)?
    var calls: [String] = []
    var refuses = false

    init(_ outputs: [SinkOutput]) { self.outputs = outputs }

    func prepare(_ frame: Frame, source: Rectangle, on scanout: ScanoutID) throws(SinkError) {
      if refuses { throw SinkError(.format, "no") }
      calls.append("prepare \(frame.id)")
    }
    func allocate(
      width: UInt32, height: UInt32, format: FourCC, on scanout: ScanoutID
    ) throws(SinkError) -> Canvas {
      calls.append("allocate")
      return try MemfdShadow.canvas(width: width * 2, height: height, format: .argb8888)
    }
    func present(_ presentation: Presentation, on scanout: ScanoutID) {
      calls.append("present \(presentation.sequence)")
    }
    func turnOff(_ scanout: ScanoutID) { calls.append("off") }
    func setCursor(_ image: CursorImage?, at position: CursorPosition, on scanout: ScanoutID) {
      calls.append("cursor")
    }
    func moveCursor(to position: CursorPosition, on scanout: ScanoutID) { calls.append("move") }
    func forget(_ frame: Frame) { calls.append("forget \(frame.id)") }
  }

  @Test("the card and the control socket get each call, and the card says what is shown")
  func both() throws {
    let rig = try Rig()
    let card = Card(rig.sink.outputs)
    let tee = TeeSink(card, rig.sink)
    tee.observer = rig
    rig.sink.observer = nil
    let caller = try rig.connect()
    let (frame, scanout) = (try rig.frame(), ScanoutID(0))
    #expect(try tee.allocate(width: 8, height: 8, format: .xrgb8888, on: scanout).layout.width == 16)
    try tee.prepare(frame, source: frame.layout.bounds, on: scanout)
    tee.present(
      Presentation(frame: frame, source: frame.layout.bounds, damage: frame.layout.bounds, sequence: 5),
      on: scanout)
    try rig.settle()
    #expect(rig.reports == [])
    card.observer?.presented(5, frame: frame, on: scanout)
    card.observer?.replaced(6, on: scanout)
    card.observer?.failed(7, on: scanout, SinkError(.busy, ""))
    card.outputs[0].modes = []
    card.observer?.outputsChanged()
    #expect(rig.reports == ["presented 5 of 1", "replaced 6", "failed 7", "outputs"])
    #expect(tee.outputs == card.outputs && rig.sink.outputs == card.outputs)
    #expect(try caller.ask("GetFrame", as: DisplayFrameReply.self).frame.sequence == 5)
    tee.setCursor(nil, at: CursorPosition(x: 0, y: 0), on: scanout)
    tee.moveCursor(to: CursorPosition(x: 1, y: 0), on: scanout)
    tee.turnOff(scanout)
    tee.forget(frame)
    #expect(frame.uses == 0)
    #expect(card.calls == ["allocate", "prepare 1", "present 5", "cursor", "move", "off", "forget 1"])
    card.refuses = true
    #expect(throws: SinkError.self) { try tee.prepare(frame, source: frame.layout.bounds, on: scanout) }
  }

  @Test("frames wait neither for a QEMU without a socket nor for a holder, and all are offered")
  func withoutQEMU() throws {
    let rig = try Rig()
    let qemu = try QEMUDisplaySink(
      outputs: rig.sink.outputs, asksForScreens: true, udmabuf: nil, loop: rig.loop,
      log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    let tee = TeeSink(qemu, rig.sink)
    tee.observer = rig
    rig.sink.observer = nil
    // Or nothing would be offered either.
    #expect(tee.isAttended && !qemu.isAttended)
    let (caller, scanout) = (try rig.connect(), ScanoutID(0))
    let frames = try (0..<3).map { _ in try rig.frame() }
    for (index, frame) in frames.enumerated() {
      let whole = frame.layout.bounds
      try tee.prepare(frame, source: whole, on: scanout)
      tee.present(
        Presentation(frame: frame, source: whole, damage: whole, sequence: UInt64(index + 1)), on: scanout)
      try rig.settle()
      #expect(rig.reports.last == "presented \(index + 1) of \(index + 1)")
      let told = try caller.ask("GetFrame", #"{"hold":true}"#, as: DisplayFrameReply.self)
      #expect(told.frame.sequence == index + 1)
    }
    #expect(rig.reports.count == 3)
    #expect(frames.map(\.uses) == [1, 1, 2], "nobody but who holds them, and the last one is shown")
    tee.turnOff(scanout)
    #expect(frames.map(\.uses) == [1, 1, 1])
  }
}
