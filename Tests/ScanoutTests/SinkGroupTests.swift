import Linux
import SystemPackage
import Testing
import Udmabuf

@testable import Scanout

/// Two sinks as one. What a sink does is written down.
@Suite struct SinkGroupTests {
  private final class Sink: ScanoutSink {
    let outputs: [SinkOutput]
    weak var observer: (any ScanoutObserver)?
    var calls: [String] = []

    init(_ names: String...) { outputs = names.map { SinkOutput(name: $0, modes: []) } }

    func prepare(_ frame: Frame, source: Rectangle, on scanout: ScanoutID) throws(SinkError) {
      calls.append("prepare \(frame.id) on \(scanout)")
      if frame.id == 13 { throw SinkError(.format, "unlucky") }
    }
    func allocate(
      width: UInt32, height: UInt32, format: FourCC, on scanout: ScanoutID
    ) throws(SinkError) -> Canvas {
      calls.append("allocate on \(scanout)")
      throw SinkError(.other, "no memory")
    }
    func present(_ presentation: Presentation, on scanout: ScanoutID) {
      calls.append("present \(presentation.frame.id) on \(scanout)")
    }
    func turnOff(_ scanout: ScanoutID) { calls.append("turn off \(scanout)") }
    func setCursor(_ image: CursorImage?, at position: CursorPosition, on scanout: ScanoutID) {
      calls.append("cursor on \(scanout)")
    }
    func moveCursor(to position: CursorPosition, on scanout: ScanoutID) {
      calls.append("move to \(position.x) on \(scanout)")
    }
    func forget(_ frame: Frame) { calls.append("forget \(frame.id)") }
  }

  private final class Listener: ScanoutObserver {
    var heard: [String] = []
    func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID) {
      heard.append("presented \(sequence) on \(scanout)")
    }
    func replaced(_ sequence: UInt64, on scanout: ScanoutID) {
      heard.append("replaced \(sequence) on \(scanout)")
    }
    func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError) {
      heard.append("failed \(sequence) on \(scanout)")
    }
    func outputsChanged() { heard.append("changed") }
  }

  private let left = Sink("A", "C")
  private let right = Sink("B")
  private let listener = Listener()
  private let group: SinkGroup

  init() {
    // The order of a user: A, B, C.
    group = SinkGroup(
      [left, right],
      routes: [
        .init(sink: 0, scanout: ScanoutID(0)), .init(sink: 1, scanout: ScanoutID(0)),
        .init(sink: 0, scanout: ScanoutID(1)),
      ])
    group.observer = listener
  }

  private func frame(_ id: UInt64) throws -> Frame {
    let memory = try DMABuf(adopting: FD.open("/proc/self/exe", writable: false))
    return Frame(
      id: id, memory: .lent(memory),
      layout: FrameLayout(width: 64, height: 48, format: .xrgb8888, stride: 256))
  }

  @Test("the scanouts of several sinks have consecutive numbers") func numbersThrough() throws {
    #expect(group.outputs.map(\.name) == ["A", "B", "C"])
    let frame = try frame(1)
    try group.prepare(frame, source: frame.layout.bounds, on: ScanoutID(2))
    group.present(
      Presentation(frame: frame, source: frame.layout.bounds, damage: frame.layout.bounds, sequence: 1),
      on: ScanoutID(2))
    group.turnOff(ScanoutID(1))
    group.setCursor(nil, at: CursorPosition(x: 0, y: 0), on: ScanoutID(2))
    group.moveCursor(to: CursorPosition(x: 4, y: 0), on: ScanoutID(0))
    #expect(throws: SinkError.self) {
      try group.allocate(width: 1, height: 1, format: .xrgb8888, on: ScanoutID(1))
    }
    #expect(left.calls == ["prepare 1 on 1", "present 1 on 1", "cursor on 1", "move to 4 on 0"])
    #expect(right.calls == ["turn off 0", "allocate on 0"])
  }

  /// A frame is forgotten by those who took it in, and by nobody else.
  @Test("a frame is forgotten by the sinks that know it, and by no others") func forgetsWhereItIsKnown()
    throws
  {
    let (one, two, unlucky) = (try frame(1), try frame(2), try frame(13))
    for scanout in UInt32(0)..<3 {
      try group.prepare(one, source: one.layout.bounds, on: ScanoutID(scanout))
    }
    try group.prepare(two, source: two.layout.bounds, on: ScanoutID(1))
    #expect(throws: SinkError.self) {
      try group.prepare(unlucky, source: unlucky.layout.bounds, on: ScanoutID(0))
    }
    left.calls.removeAll()
    right.calls.removeAll()
    group.forget(two)
    #expect(left.calls.isEmpty && right.calls == ["forget 2"])
    group.forget(one)
    group.forget(one)
    group.forget(unlucky)
    #expect(left.calls == ["forget 1"] && right.calls == ["forget 2", "forget 1"])
  }

  @Test("reports have the group's numbers of scanouts") func tellsWithItsOwnNumbers() throws {
    let frame = try frame(1)
    left.observer?.presented(7, frame: frame, on: ScanoutID(1))
    right.observer?.replaced(8, on: ScanoutID(0))
    left.observer?.failed(9, on: ScanoutID(0), SinkError(.busy, ""))
    right.observer?.outputsChanged()
    #expect(listener.heard == ["presented 7 on 2", "replaced 8 on 1", "failed 9 on 0", "changed"])
  }

  @Test("a frame for a missing scanout is refused, and other calls for it do nothing")
  func scanoutsThatAreNotThere() throws {
    let frame = try frame(1)
    let error = #expect(throws: SinkError.self) {
      try group.prepare(frame, source: frame.layout.bounds, on: ScanoutID(3))
    }
    #expect(error?.refusal == .noOutput)
    group.turnOff(ScanoutID(3))
    group.moveCursor(to: CursorPosition(x: 0, y: 0), on: ScanoutID(UInt32.max))
    #expect(left.calls.isEmpty && right.calls.isEmpty)
  }
}
