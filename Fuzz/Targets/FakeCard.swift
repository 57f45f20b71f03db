internal import Linux
internal import Scanout
internal import SystemPackage

/// A display that shows nothing, and does as the input says: it takes what it is given, refuses it or is slow.
/// It writes down what it is asked, and finds fault with what a sink must not be asked.
final class FakeCard: ScanoutSink {
  /// What it does with what comes next.
  struct Mood {
    /// Why it does not take a frame in, if so.
    var refusal: SinkError.Refusal?
    /// It has no memory for copies.
    var isFull = false
    /// Its copies are wider than the picture, have rows that are longer, and the picture stands inside.
    var isRoomy = false
    /// Presentations wait until `flip`; otherwise they are on the screen when the loop has its turn.
    var isSlow = false
    /// Presentations fail.
    var fails = false
    /// There is somebody to look at it.
    var isAttended = true
  }

  private enum Report {
    case presented(Presentation)
    case failed(UInt64, SinkError)
  }

  private(set) var outputs: [SinkOutput]
  private let screens: [SinkOutput]
  weak var observer: (any ScanoutObserver)?
  var mood = Mood()

  private var working: Deferred?
  private let lanes: [PresentationQueue]
  private var prepared: [(frame: UInt64, source: Rectangle, scanout: UInt32)] = []
  private var forgotten: Set<UInt64> = []
  /// The highest frame number that was seen.
  private var sequences: [UInt64]
  /// Presentations of which nothing was reported yet.
  private var unreported: [Set<UInt64>]
  private var reports: [(scanout: Int, report: Report)] = []

  init(_ outputs: [SinkOutput], _ loop: EventLoop) throws {
    (self.outputs, screens) = (outputs, outputs)
    lanes = outputs.map { _ in PresentationQueue() }
    sequences = outputs.map { _ in 0 }
    unreported = outputs.map { _ in [] }
    working = Deferred(loop) { [unowned self] in work() }
    for (index, lane) in lanes.enumerated() {
      lane.whenReplaced = { [unowned self] in
        noteReport($0, index)
        observer?.replaced($0, on: ScanoutID(UInt32(index)))
      }
    }
  }

  var isAttended: Bool { mood.isAttended }

  // MARK: What the device asks

  func prepare(_ frame: Frame, source: Rectangle, on scanout: ScanoutID) throws(SinkError) {
    if let refusal = mood.refusal { throw SinkError(refusal, "not in the mood") }
    check(scanout)
    expect(!forgotten.contains(frame.id), "a frame comes back after it was forgotten")
    expect(
      source.fits(width: frame.layout.width, height: frame.layout.height), "\(source) of \(frame.layout)")
    expect(!source.isEmpty, "nothing is to be shown")
    prepared.append((frame.id, source, scanout.rawValue))
  }

  func allocate(
    width: UInt32, height: UInt32, format: FourCC, on scanout: ScanoutID
  ) throws(SinkError) -> Canvas {
    check(scanout)
    if mood.isFull || UInt64(width) * UInt64(height) > 1 << 16 { throw SinkError(.other, "no memory") }
    guard mood.isRoomy else { return try MemfdShadow.canvas(width: width, height: height, format: format) }
    let all = try MemfdShadow.canvas(width: width + 3, height: height + 2, format: format)
    let place = Rectangle(x: 2, y: 1, width: width, height: height)
    return Canvas(memory: all.memory, layout: all.layout, area: place)
  }

  func present(_ presentation: Presentation, on scanout: ScanoutID) {
    check(scanout)
    let (index, source, damage) = (Int(scanout.rawValue), presentation.source, presentation.damage)
    expect(
      prepared.contains {
        $0.frame == presentation.frame.id && $0.source == source && $0.scanout == scanout.rawValue
      }, "frame \(presentation.frame.id) is presented without being prepared, or after it was forgotten")
    expect(presentation.sequence > sequences[index], "sequence numbers count up")
    expect(!damage.isEmpty && damage.intersection(source) == damage, "damage \(damage) of \(source)")
    sequences[index] = presentation.sequence
    unreported[index].insert(presentation.sequence)
    if lanes[index].submit(.present(presentation)) { working?.schedule() }
  }

  func turnOff(_ scanout: ScanoutID) {
    check(scanout)
    if lanes[Int(scanout.rawValue)].submit(.turnOff) { working?.schedule() }
  }

  func setCursor(_ image: CursorImage?, at position: CursorPosition, on scanout: ScanoutID) {
    check(scanout)
    expect(outputs[Int(scanout.rawValue)].hasCursor, "scanout \(scanout) has no cursor")
  }

  func moveCursor(to position: CursorPosition, on scanout: ScanoutID) {
    check(scanout)
    expect(outputs[Int(scanout.rawValue)].hasCursor, "scanout \(scanout) has no cursor")
  }

  func forget(_ frame: Frame) {
    expect(forgotten.insert(frame.id).inserted, "a frame is forgotten twice")
    prepared.removeAll { $0.frame == frame.id }
    for (index, lane) in lanes.enumerated() {
      let removal = lane.remove(frame)
      for lost in [removal.inFlight, removal.waiting].compactMap(\.self) {
        reports.append((index, .failed(lost.sequence, SinkError(.other, "taken back"))))
      }
    }
    expect(frame.uses == 0, "a frame is used after it was forgotten")
    working?.schedule()
  }

  private func check(_ scanout: ScanoutID) {
    expect(scanout.rawValue < UInt32(outputs.count), "there is no scanout \(scanout)")
  }

  // MARK: What the display does

  /// The step that the display is at is done.
  /// - Returns: false if there was none.
  @discardableResult
  func flip(_ index: Int) -> Bool {
    guard let step = lanes[index].current else { return false }
    guard case .present(let presentation) = step else { return finish { lanes[index].completed() } }
    if mood.fails {
      reports.append((index, .failed(presentation.sequence, SinkError(.busy, "not in the mood"))))
      return finish { lanes[index].failed() }
    }
    reports.append((index, .presented(presentation)))
    return finish { lanes[index].completed() }
  }

  private func finish(_ advance: () -> Bool) -> Bool {
    _ = advance()
    working?.schedule()
    return true
  }

  /// Goes on with what waited, after a change of mood.
  func wakeUp() { working?.schedule() }

  /// The screen is pulled, or comes back under another name.
  func plug(_ index: Int) {
    outputs[index].name += "'"
    outputs[index].modes = outputs[index].modes.isEmpty ? screens[index].modes : []
    observer?.outputsChanged()
  }

  private func work() {
    if !mood.isSlow { for index in lanes.indices { flip(index) } }
    let ready = reports
    reports.removeAll()
    for (index, report) in ready {
      let scanout = ScanoutID(UInt32(index))
      switch report {
      case .presented(let presentation):
        noteReport(presentation.sequence, index)
        observer?.presented(presentation.sequence, frame: presentation.frame, on: scanout)
      case .failed(let sequence, let error):
        noteReport(sequence, index)
        observer?.failed(sequence, on: scanout, error)
      }
    }
  }

  private func noteReport(_ sequence: UInt64, _ index: Int) {
    expect(unreported[index].remove(sequence) != nil, "presentation \(sequence) is reported twice")
  }

  /// Every presentation was reported on, and nothing waits.
  var isQuiet: Bool { unreported.allSatisfy(\.isEmpty) && lanes.allSatisfy { !$0.isBusy } }
  /// Nothing is held of any frame.
  var isEmpty: Bool { isQuiet && prepared.isEmpty && lanes.allSatisfy { $0.shown == nil } }
}
