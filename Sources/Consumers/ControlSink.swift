internal import DisplayProtocol
package import Linux
package import Scanout
package import SystemPackage
internal import Varlink

/// Offers each frame to other processes. Slow consumers miss frames, because nothing here waits longer than `patience`.
///
/// A frame counts as presented when it was offered and nobody holds its predecessor.
package final class ControlSink: ScanoutSink {
  /// The longest wait of a frame for the release of its predecessor.
  var patience = TimeSpan.milliseconds(100)
  static let holdsPerConsumer = 8

  package weak var observer: (any ScanoutObserver)?
  /// The outputs for the guest. With another sink they are that sink's outputs.
  package var outputs: [SinkOutput] { didSet { if outputs != oldValue { tellOfOutputs() } } }

  var statistics = ControlStatistics()
  private var lanes: [ControlLane]
  private var holds: [Hold] = []
  private(set) var feeds: [any Feed] = []

  let loop: EventLoop
  private var telling: Deferred?
  private var timer: Timer?
  /// The reports for the observer, which gets them from the loop.
  private let reports = ReportQueue()

  /// The state of one scanout.
  private struct ControlLane {
    var shown: Presentation?
    /// The presentation `shown`, while it waits until nobody holds its predecessor.
    var waiting: Waiting?
    var history = DamageHistory()
    var cursor: Cursor?
  }

  private struct Waiting {
    let presentation: Presentation
    let predecessor: Frame
    let deadline: Instant
  }

  private struct Hold {
    let frame: Frame
    let consumer: Consumer
    /// Whether a frame waited in vain for this one's release, so that no other frame waits for it.
    var isOverdue = false
  }

  /// The cursor of a scanout; `serial` is the image's number.
  struct Cursor {
    var image: CursorImage?
    var position: CursorPosition
    var serial: Int
  }

  /// - Parameter outputs: one for each scanout. Their count never changes.
  package init(outputs: [SinkOutput], loop: EventLoop) throws(Errno) {
    (self.outputs, self.loop) = (outputs, loop)
    lanes = outputs.map { _ in ControlLane() }
    telling = Deferred(loop) { [unowned self] in reports.deliver(to: observer) }
    timer = try Timer(loop) { [unowned self] in endPatience() }
  }

  private func check(_ scanout: ScanoutID) throws(SinkError) {
    guard scanout.rawValue < lanes.count else {
      throw SinkError(.noOutput, "there is no scanout \(scanout); there are \(lanes.count)")
    }
  }

  // MARK: ScanoutSink

  package func prepare(_ frame: Frame, source: Rectangle, on scanout: ScanoutID) throws(SinkError) {
    try check(scanout)
  }

  package func allocate(
    width: UInt32, height: UInt32, format: FourCC, on scanout: ScanoutID
  ) throws(SinkError) -> Canvas {
    try check(scanout)
    return try MemfdShadow.canvas(width: width, height: height, format: format)
  }

  package func present(_ presentation: Presentation, on scanout: ScanoutID) {
    let index = Int(scanout.rawValue)
    let before = lanes[index].shown
    presentation.frame.acquire()
    let isSame = before?.frame === presentation.frame && before?.source == presentation.source
    lanes[index].history.append(presentation.sequence, isSame ? presentation.damage : nil)
    lanes[index].shown = presentation
    if let waiting = lanes[index].waiting.take() {
      report(.replaced(waiting.presentation.sequence), on: scanout)
    }
    if let predecessor = before?.frame, predecessor !== presentation.frame, isWaitedFor(predecessor) {
      let deadline = Instant.now + patience
      lanes[index].waiting = Waiting(presentation: presentation, predecessor: predecessor, deadline: deadline)
      armTimer()
    } else {
      report(.presented(presentation), on: scanout)
    }
    statistics.frames += 1
    for feed in feeds { feed.changed(.picture, index) }
    before?.frame.release()
  }

  package func turnOff(_ scanout: ScanoutID) {
    let index = Int(scanout.rawValue)
    guard index < lanes.count, let before = lanes[index].shown.take() else { return }
    if let waiting = lanes[index].waiting.take() { report(.presented(waiting.presentation), on: scanout) }
    for feed in feeds { feed.changed(.picture, index) }
    before.frame.release()
  }

  package func setCursor(_ image: CursorImage?, at position: CursorPosition, on scanout: ScanoutID) {
    let index = Int(scanout.rawValue)
    guard index < lanes.count else { return }
    var serial = lanes[index].cursor?.serial ?? 0
    if image != nil, image != lanes[index].cursor?.image { serial += 1 }
    lanes[index].cursor = Cursor(image: image, position: position, serial: serial)
    for feed in feeds { feed.changed(.cursor, index) }
  }

  package func moveCursor(to position: CursorPosition, on scanout: ScanoutID) {
    let index = Int(scanout.rawValue)
    guard index < lanes.count else { return }
    lanes[index].cursor?.position = position
    for feed in feeds { feed.changed(.cursor, index) }
  }

  package func forget(_ frame: Frame) {
    var letGo = 0
    for index in lanes.indices where lanes[index].shown?.frame === frame {
      lanes[index].shown = nil
      letGo += 1
      if let waiting = lanes[index].waiting.take() {
        report(.failed(waiting.presentation.sequence, .takenBack), on: ScanoutID(UInt32(index)))
      }
      for feed in feeds { feed.changed(.picture, index) }
    }
    let late = holds.filter { $0.frame === frame }
    if !late.isEmpty {
      holds.removeAll { $0.frame === frame }
      letGo += late.count
      statistics.cutOff += late.count
      for hold in late { hold.consumer.cutOff() }
    }
    for _ in 0..<letGo { frame.release() }
    for feed in feeds { feed.forget(frame) }
    settle()
  }

  // MARK: Reports to the observer

  private func report(_ report: ReportQueue.Report, on scanout: ScanoutID) {
    telling?.schedule()
    reports.append(report, on: scanout)
  }

  // MARK: Holding

  private func isWaitedFor(_ frame: Frame) -> Bool { holds.contains { $0.frame === frame && !$0.isOverdue } }

  /// The frame of this id, if it is shown or held now.
  func frame(_ id: Int) -> Frame? {
    lanes.lazy.compactMap(\.shown?.frame).first { $0.id == id }
      ?? holds.lazy.map(\.frame).first { $0.id == id }
  }

  /// - Returns: false if the consumer already holds `holdsPerConsumer` frames.
  func hold(_ frame: Frame, for consumer: Consumer) -> Bool {
    guard holds.count(where: { $0.consumer === consumer }) < Self.holdsPerConsumer else { return false }
    frame.acquire()
    holds.append(Hold(frame: frame, consumer: consumer))
    return true
  }

  /// - Returns: false if the consumer does not hold the frame.
  func release(_ id: Int, by consumer: Consumer) -> Bool {
    guard let index = holds.firstIndex(where: { $0.consumer === consumer && $0.frame.id == id }) else {
      return false
    }
    let frame = holds.remove(at: index).frame
    frame.release()
    settle()
    return true
  }

  func releaseAll(of consumer: Consumer) {
    let ended = holds.filter { $0.consumer === consumer }
    holds.removeAll { $0.consumer === consumer }
    for hold in ended { hold.frame.release() }
    settle()
  }

  /// Reports the frames whose predecessors nobody holds any more.
  private func settle() {
    for index in lanes.indices {
      guard let waiting = lanes[index].waiting, !isWaitedFor(waiting.predecessor) else { continue }
      lanes[index].waiting = nil
      report(.presented(waiting.presentation), on: ScanoutID(UInt32(index)))
    }
  }

  private func armTimer() {
    guard let first = lanes.compactMap(\.waiting?.deadline).min() else { return }
    timer?.arm(after: first - .now)
  }

  private func endPatience() {
    let now = Instant.now
    for lane in lanes {
      guard let waiting = lane.waiting, waiting.deadline <= now else { continue }
      for index in holds.indices where holds[index].frame === waiting.predecessor && !holds[index].isOverdue {
        holds[index].isOverdue = true
        statistics.overdue += 1
      }
    }
    settle()
    armTimer()
  }

  // MARK: The present state

  var scanoutCount: Int { lanes.count }

  func shown(_ index: Int) -> Presentation? { lanes[index].shown }

  func cursor(_ index: Int) -> Cursor? { lanes[index].cursor }

  /// The scanout's present picture, and its changes since the picture `older`, nil for none.
  func picture(_ index: Int, since older: UInt64?) -> (frame: DisplayFrame, damage: DisplayRectangle)? {
    guard let shown = lanes[index].shown else { return nil }
    let damage =
      older.map { lanes[index].history.change(since: $0, to: shown.sequence, of: shown.source) }
      ?? shown.source
    return (DisplayFrame(shown, on: ScanoutID(UInt32(index))), DisplayRectangle(damage))
  }

  func displayCursor(_ index: Int) -> DisplayCursor {
    let (cursor, position) = (lanes[index].cursor, lanes[index].cursor?.position)
    return DisplayCursor(
      scanout: index, visible: cursor?.image != nil, x: Int(position?.x ?? 0), y: Int(position?.y ?? 0),
      hotX: Int(cursor?.image?.hotX ?? 0), hotY: Int(cursor?.image?.hotY ?? 0), image: cursor?.serial ?? 0)
  }

  func displayOutputs() -> [DisplayOutput] {
    outputs.enumerated().map { index, output in
      DisplayOutput(
        scanout: index, name: output.name, modes: output.modes.map(DisplayModeSize.init),
        frame: picture(index, since: nil)?.frame)
    }
  }

  var currentStatistics: ControlStatistics {
    var now = statistics
    (now.holds, now.watchers) = (holds.count, feeds.count)
    return now
  }

  // MARK: Watching

  func add(_ feed: any Feed) { feeds.append(feed) }

  func remove(_ feed: any Feed) { feeds.removeAll { $0 === feed } }

  private func tellOfOutputs() {
    for feed in feeds { feed.changed(.outputs, 0) }
  }

  /// Tells all feeds that nothing more will come.
  package func end() {
    for feed in feeds { feed.end() }
    feeds = []
  }
}
