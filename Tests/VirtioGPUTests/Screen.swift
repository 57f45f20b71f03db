import Linux
import Scanout
import SystemPackage
import Testing
import Udmabuf

/// A display of the tests: what is presented waits until the test says `flip`. It writes down what it is
/// asked, and finds fault with what a sink must not be asked.
final class Screen: ScanoutSink {
  /// What was handed to the display, in order.
  enum Event: Equatable {
    case shows(frame: UInt64, source: Rectangle, damage: Rectangle, scanout: UInt32)
    case dark(UInt32)
  }

  var outputs: [SinkOutput]
  weak var observer: (any ScanoutObserver)?
  /// Why `prepare` refuses, if it does.
  var refusal: SinkError?
  /// Of what is lent alone: copies are prepared all the same.
  var lentRefusal: SinkError?
  var allocationRefusal: SinkError?
  /// What canvases are made of; nil for what is asked for.
  var canvasFormat: FourCC?
  var canvasSize: (width: UInt32, height: UInt32)?
  /// Who waits for what the screen is like; nil where the screen knows that itself.
  var inquirers: [() -> Void]?
  var edidInquirers: [(ScanoutID, ([UInt8]?) -> Void)] = []
  /// There is somebody to look at it.
  var isAttended = true
  private(set) var allocateCount = 0
  private(set) var cursors: [UInt32: (image: CursorImage, position: CursorPosition)] = [:]
  private(set) var events: [Event] = []
  private(set) var forgotten: [UInt64] = []
  private(set) var prepareCount = 0
  /// How many presentations came, and how many of them have been reported on.
  private(set) var presentCount = 0
  private(set) var reportCount = 0

  private var reporting: Deferred?
  private let lanes: [PresentationQueue]
  private var prepared: [(frame: UInt64, source: Rectangle, scanout: UInt32)] = []
  private var sequences: [UInt64]
  private var reports: [(scanout: UInt32, sequence: UInt64, error: SinkError)] = []

  init(_ outputs: [SinkOutput], _ loop: EventLoop) throws {
    self.outputs = outputs
    lanes = outputs.map { _ in PresentationQueue() }
    sequences = outputs.map { _ in 0 }
    reporting = Deferred(loop) { [unowned self] in report() }
    for (index, lane) in lanes.enumerated() {
      lane.whenReplaced = { [unowned self] in
        reportCount += 1
        observer?.replaced($0, on: ScanoutID(UInt32(index)))
      }
    }
  }

  // MARK: What the device asks

  func prepare(_ frame: Frame, source: Rectangle, on scanout: ScanoutID) throws(SinkError) {
    prepareCount += 1
    if let refusal { throw refusal }
    if let lentRefusal, frame.dmabuf != nil { throw lentRefusal }
    #expect(!forgotten.contains(frame.id), "a forgotten frame comes back")
    #expect(source.fits(width: frame.layout.width, height: frame.layout.height) && !source.isEmpty)
    prepared.append((frame.id, source, scanout.rawValue))
  }

  func allocate(
    width: UInt32, height: UInt32, format: FourCC, on scanout: ScanoutID
  ) throws(SinkError) -> Canvas {
    allocateCount += 1
    if let allocationRefusal { throw allocationRefusal }
    guard let mode = canvasSize else {
      return try MemfdShadow.canvas(width: width, height: height, format: canvasFormat ?? format)
    }
    let canvas = try MemfdShadow.canvas(
      width: mode.width, height: mode.height, format: canvasFormat ?? format)
    let (shownWidth, shownHeight) = (min(width, mode.width), min(height, mode.height))
    return Canvas(
      memory: canvas.memory, layout: canvas.layout,
      area: Rectangle(
        x: (mode.width - shownWidth) / 2, y: (mode.height - shownHeight) / 2, width: shownWidth,
        height: shownHeight))
  }

  func inquire(_ finished: @escaping () -> Void) -> Bool {
    inquirers?.append(finished)
    return inquirers != nil
  }

  func inquireEDID(of scanout: ScanoutID, _ finished: @escaping ([UInt8]?) -> Void) -> Bool {
    if inquirers != nil { edidInquirers.append((scanout, finished)) }
    return inquirers != nil
  }

  func setCursor(_ image: CursorImage?, at position: CursorPosition, on scanout: ScanoutID) {
    #expect(outputs[Int(scanout.rawValue)].hasCursor)
    cursors[scanout.rawValue] = image.map { ($0, position) }
  }

  func moveCursor(to position: CursorPosition, on scanout: ScanoutID) {
    #expect(cursors[scanout.rawValue] != nil, "a cursor that is not shown moves")
    cursors[scanout.rawValue]?.position = position
  }

  func present(_ presentation: Presentation, on scanout: ScanoutID) {
    let (index, source, damage) = (Int(scanout.rawValue), presentation.source, presentation.damage)
    #expect(
      prepared.contains {
        $0.frame == presentation.frame.id && $0.source == source && $0.scanout == scanout.rawValue
      }, "presented without being prepared")
    #expect(presentation.sequence > sequences[index], "sequence numbers count up")
    #expect(!damage.isEmpty && damage.intersection(source) == damage, "damage \(damage) of \(source)")
    sequences[index] = presentation.sequence
    presentCount += 1
    if lanes[index].submit(.present(presentation)) { start(index) }
  }

  func turnOff(_ scanout: ScanoutID) {
    let index = Int(scanout.rawValue)
    if lanes[index].submit(.turnOff) { start(index) }
  }

  func forget(_ frame: Frame) {
    #expect(!forgotten.contains(frame.id), "a frame is forgotten once")
    forgotten.append(frame.id)
    prepared.removeAll { $0.frame == frame.id }
    for (index, lane) in lanes.enumerated() {
      let removal = lane.remove(frame)
      for lost in [removal.inFlight, removal.waiting].compactMap(\.self) {
        fail(lost.sequence, index, SinkError(.other, "taken back"))
      }
      if removal.inFlight != nil { start(index) }
    }
  }

  private func start(_ index: Int) {
    switch lanes[index].current {
    case .present(let presentation):
      events.append(
        .shows(
          frame: presentation.frame.id, source: presentation.source, damage: presentation.damage,
          scanout: UInt32(index)))
    case .turnOff: events.append(.dark(UInt32(index)))
    case nil: break
    }
  }

  private func fail(_ sequence: UInt64, _ index: Int, _ error: SinkError) {
    reports.append((UInt32(index), sequence, error))
    reporting?.schedule()
  }

  private func report() {
    let failures = reports
    reports.removeAll()
    for (scanout, sequence, error) in failures {
      reportCount += 1
      observer?.failed(sequence, on: ScanoutID(scanout), error)
    }
  }

  // MARK: What the display does

  /// The step that was handed to the display is on the screen now.
  /// - Returns: false if there was none.
  @discardableResult
  func flip(_ scanout: UInt32 = 0) -> Bool {
    let lane = lanes[Int(scanout)]
    guard let step = lane.current else { return false }
    if lane.completed() { start(Int(scanout)) }
    if case .present(let presentation) = step {
      reportCount += 1
      observer?.presented(presentation.sequence, frame: presentation.frame, on: ScanoutID(scanout))
    }
    return true
  }

  /// Flips until nothing waits on any screen.
  func flipAll() {
    for index in lanes.indices { while flip(UInt32(index)) {} }
  }

  /// The display refuses the step that was handed to it.
  func refuse(_ scanout: UInt32 = 0, _ error: SinkError = SinkError(.mode, "no such mode")) {
    let lane = lanes[Int(scanout)]
    guard case .present(let presentation) = lane.current else { return }
    if lane.failed() { start(Int(scanout)) }
    fail(presentation.sequence, Int(scanout), error)
  }

  /// The frame on the screen.
  func shown(_ scanout: UInt32 = 0) -> Frame? { lanes[Int(scanout)].shown?.frame }

  /// The frame that was handed to the display.
  func next(_ scanout: UInt32 = 0) -> Frame? {
    if case .present(let presentation) = lanes[Int(scanout)].current { presentation.frame } else { nil }
  }

  /// Every presentation was reported on once.
  var isQuiet: Bool { presentCount == reportCount && lanes.allSatisfy { !$0.isBusy } }
}

extension Frame {
  /// The guest's own pages, if the frame is made of these.
  var dmabuf: DMABuf? { if case .lent(let dmabuf) = memory { dmabuf } else { nil } }

  /// What a screen would show of it: the bytes of each pixel in rows without a gap.
  func pixels() throws -> [[UInt8]] {
    let mapping = try mapping()
    return (0..<Int(layout.height)).flatMap { row in
      (0..<Int(layout.width)).map { column in
        mapping.bytes(at: Int(layout.offset) + row * Int(layout.stride) + column * 4, count: 4)
      }
    }
  }

  /// The memory that the picture is in.
  func mapping() throws -> Mapping {
    switch memory {
    case .lent(let dmabuf): try dmabuf.map()
    case .shadow(let memory): memory.mapping
    }
  }
}
