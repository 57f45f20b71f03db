internal import Buffers
internal import Linux
internal import Logging
internal import Pictures
internal import Scanout

/// What the scanouts tell the device that they are of.
protocol ScanoutsOwner: AnyObject {
  /// The scanout has got as far as this presentation.
  func reached(_ sequence: UInt64, on scanout: ScanoutID)
  /// Copies that took longer than a turn of the loop are complete.
  func finishedWork()
  /// A screen was plugged in or out.
  func outputsHaveChanged()
  /// There is something to be done from the loop, when nobody is in the middle of something.
  func wake()
  /// Something waits for another time than before.
  func armTimer()
}

/// What is on the guest's scanouts, on its way there and on its way back: which resource each one shows, by which picture,
/// lent or copied, and with which cursor.
///
/// Scanouts, pictures, cursor and the return of pages are one state machine: a flush may need another picture, a
/// cursor a copy, a DETACH both, and each of them ends what another one waits for. This file has bindings and
/// presentations, `Scanouts+Pictures` what is lent and what is copied, `Scanouts+Copies` copies that take longer than a
/// turn of the loop, `Scanouts+Stores` bytes of resources in memory of ours, `Scanouts+Cursor` the cursor, `Scanouts+PageReturns`
/// how pages go back, and `Scanouts+Outputs` screens that come and go.
final class Scanouts {
  /// By number. Their count never changes.
  let all: [GuestScanout]
  let sink: (any ScanoutSink)?
  /// Nil if there is no sink.
  let maker: PictureMaker?
  let backing: BackingChoice
  let cursorChoice: CursorChoice
  let lender: Lender
  let resources: ResourceTable
  let objects: SharedObjects
  let mistakes: MistakeLog
  let logger: Logger
  let advice: Advice
  let returns: PageReturns
  /// Lives as long as this: it must not be dropped while it is told something.
  unowned let owner: any ScanoutsOwner
  var patience: GPUDevice.Patience

  var work = LongWork()
  /// Buffers by the id of their frame, as long as a sink may know it.
  var buffersByFrame: [UInt64: Buffer] = [:]
  /// Copies that are not to be shown any more, until nobody shows them.
  var goneShadows: [Shadow] = []
  /// Causes of copies that the log knows already.
  var announced: Set<ShadowCause.Name> = []
  /// Pictures that were shown by copying, by cause.
  var shadows: [ShadowCause.Name: UInt64] = [:]
  /// When the kernel's limits were last read for a buffer that they stand against.
  var lastLimitCheck: Instant?
  /// This driver names a resource when it moves a cursor: 0 means that it is hidden.
  var movesByName = false
  /// What became of the guest's flushes, counted once for each scanout.
  private var frames = FrameCounters()

  private struct FrameCounters {
    var (flushes, shown, coalesced, failed): (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
  }

  init(
    _ outputs: [SinkOutput], _ sink: (any ScanoutSink)?, backing: BackingChoice, cursor: CursorChoice,
    lender: Lender, resources: ResourceTable, objects: SharedObjects, returns: PageReturns,
    mistakes: MistakeLog, logger: Logger, advice: @escaping Advice, patience: GPUDevice.Patience,
    owner: any ScanoutsOwner
  ) {
    all = outputs.enumerated().map { GuestScanout(ScanoutID(UInt32($0)), $1) }
    (self.sink, maker, self.backing, cursorChoice) = (sink, sink.map(PictureMaker.init), backing, cursor)
    (self.lender, self.resources, self.objects, self.returns) = (lender, resources, objects, returns)
    (self.mistakes, self.logger, self.advice, self.patience) = (mistakes, logger, advice, patience)
    self.owner = owner
    sink?.observer = self
  }

  /// What cannot be shown itself may be shown as a copy.
  var mayCopy: Bool { backing != .lent && sink != nil }

  subscript(number: Int) -> GuestScanout { all[number] }

  func find(_ id: ScanoutID) throws(Mistake) -> GuestScanout {
    guard id.rawValue < UInt32(all.count) else {
      throw Mistake(
        .invalidScanout, .invalidScanout, "there is no scanout \(id); \(all.count) are offered")
    }
    return all[Int(id.rawValue)]
  }

  // MARK: Bindings

  /// An image that has no pages yet comes with a flush after it has some; a blob has its own from the start.
  /// - Parameter command: its name, for people.
  func show(
    _ resource: Resource, _ view: View, on scanout: GuestScanout, for command: String
  ) throws(Mistake) {
    if view.source.isEmpty {
      throw Mistake(
        .invalidParameter, .rectangle, "\(command): \(view.source) of resource \(resource.id) is empty")
    }
    guard resource.bytes != nil || resource.image != nil else {
      throw Mistake(
        .unspecified, .noBacking, "\(command) of resource \(resource.id), which has no backing")
    }
    bind(scanout, resource, view, try picture(of: resource, view, on: scanout))
  }

  func bind(_ scanout: GuestScanout, _ resource: Resource, _ view: View, _ picture: Picture?) {
    if scanout.binding?.picture?.frame !== picture?.frame {
      abandonCopy(scanout)
      // What was flushed while another picture was here, or none, has not been copied.
      if case .shadow(let shadow) = picture { shadow.isStale = true }
    }
    scanout.binding = GuestScanout.Binding(resource: resource, view: view, picture: picture)
    finishShadows()
  }

  func turnOff(_ scanout: GuestScanout) {
    abandonCopy(scanout)
    scanout.binding = nil
    finishShadows()
    darken(scanout)
  }

  /// Takes off the screen what is there; what SET_SCANOUT chose comes with its next flush.
  func darken(_ scanout: GuestScanout) {
    guard scanout.last != nil else { return }
    scanout.last = nil
    sink?.turnOff(scanout.id)
  }

  // MARK: Presentations

  /// Shows what a flush has changed, on each scanout that is bound to the resource.
  /// - Returns: the presentations that a fence waits for.
  func flush(_ resource: Resource, _ area: Rectangle) throws(Mistake) -> [Flip] {
    // Of a blob each scanout may show another image.
    var first: FrameLayout?
    var fits = false
    for scanout in all {
      guard let binding = scanout.binding, binding.resource === resource else { continue }
      let layout = binding.view.layout
      first = first ?? layout
      fits = fits || area.fits(width: layout.width, height: layout.height)
    }
    if let first, !fits {
      throw Mistake(
        .invalidParameter, .rectangle,
        "RESOURCE_FLUSH: \(area) is not inside the image of \(first.width)x\(first.height) in resource "
          + "\(resource.id)")
    }
    var flips: [Flip] = []
    for scanout in all {
      guard let binding = scanout.binding, binding.resource === resource else { continue }
      let layout = binding.view.layout
      let damage = area.clipped(width: layout.width, height: layout.height).intersection(binding.view.source)
      if damage.isEmpty { continue }
      switch binding.picture {
      case nil: rebind(scanout)
      case .shadow(let shadow): if isOutdated(shadow, resource, scanout) { rebind(scanout) }
      // A cursor may have come before the first flush.
      case .lent: if scanout.last == nil, drawsCursor(scanout), backing != .lent { rebind(scanout) }
      }
      if scanout.binding?.picture == nil { continue }
      frames.flushes += 1
      let sequence = present(scanout, damage: damage)
      if !scanout.isSilent { flips.append(Flip(scanout: scanout.id, sequence: sequence)) }
    }
    return flips
  }

  /// Shows the bound resource. The caller knows that there is one, and somebody to show it.
  @discardableResult
  func present(_ scanout: GuestScanout, damage: Rectangle, ownInitiative: Bool = false) -> UInt64 {
    guard let binding = scanout.binding, let picture = binding.picture else {
      preconditionFailure("only what has a picture is presented")
    }
    // The cursor is drawn where it is when the copy is complete.
    if ownInitiative, let copy = scanout.copy { return copy.sequence }
    abandonCopy(scanout)
    scanout.sequence += 1
    let sequence = scanout.sequence
    if ownInitiative { scanout.ownInitiative.append(sequence) }
    scanout.last = picture.frame
    switch picture {
    case .lent(let frame):
      hand(
        Presentation(frame: frame, source: binding.view.source, damage: damage, sequence: sequence), scanout)
    case .shadow(let shadow):
      if let source = binding.resource.bytes {
        proceed(PictureCopy(sequence: sequence, source: source, update: shadow.begin(damage)), scanout)
      } else {
        // The guest has taken it back: nothing changes.
        hand(sequence, shadow, Rectangle(x: 0, y: 0, width: 0, height: 0), scanout)
      }
    }
    return sequence
  }

  /// Hands a copy to the sink, of which `changed` is new.
  func hand(_ sequence: UInt64, _ shadow: Shadow, _ changed: Rectangle, _ scanout: GuestScanout) {
    // The sink is told of something at least: a fence waits for it.
    let damage = changed.isEmpty ? Rectangle(x: 0, y: 0, width: 1, height: 1) : changed
    let bounds = shadow.frame.layout.bounds
    hand(Presentation(frame: shadow.frame, source: bounds, damage: damage, sequence: sequence), scanout)
  }

  private func hand(_ presentation: Presentation, _ scanout: GuestScanout) {
    if scanout.isSilent, scanout.probe == nil { scanout.probe = (presentation.sequence, .now) }
    sink?.present(presentation, on: scanout.id)
  }

  // MARK: What it says

  /// Adds what it has counted.
  func report(into statistics: inout Statistics) {
    statistics.flushes += frames.flushes
    statistics.framesShown += frames.shown
    statistics.framesCoalesced += frames.coalesced
    statistics.framesFailed += frames.failed
    statistics.bytesCopied += work.bytesCopied
    for (cause, count) in shadows { statistics.shadows[cause.rawValue, default: 0] += count }
  }
}

// What the sink reports.
extension Scanouts: ScanoutObserver {
  func presented(_ sequence: UInt64, frame: Frame, on id: ScanoutID) {
    let scanout = self[Int(id.rawValue)]
    if isFlush(sequence, scanout) { frames.shown += 1 }
    if let buffer = buffersByFrame[frame.id] { lender.countShown(buffer) }
    ended(sequence, scanout)
  }

  func replaced(_ sequence: UInt64, on id: ScanoutID) {
    // A fence waits on, for what it was replaced by.
    if isFlush(sequence, self[Int(id.rawValue)]) { frames.coalesced += 1 }
  }

  func failed(_ sequence: UInt64, on id: ScanoutID, _ error: SinkError) {
    let scanout = self[Int(id.rawValue)]
    if isFlush(sequence, scanout) { frames.failed += 1 }
    mistakes.report(MistakeKind(error.refusal), "scanout \(id) could not show a frame: \(error)")
    ended(sequence, scanout)
  }

  private func ended(_ sequence: UInt64, _ scanout: GuestScanout) {
    if let probe = scanout.probe, probe.sequence <= sequence {
      scanout.probe = nil
      if Instant.now - probe.since < patience.fence { scanout.isSilent = false }
    }
    // Of a scanout that was turned off it was the last: what waited behind it gave way to nothing.
    owner.reached(scanout.last == nil ? .max : sequence, on: scanout.id)
  }

  private func isFlush(_ sequence: UInt64, _ scanout: GuestScanout) -> Bool {
    guard let own = scanout.ownInitiative.firstIndex(of: sequence) else { return true }
    scanout.ownInitiative.remove(at: own)
    return false
  }
}
