internal import Buffers
internal import Linux
internal import Logging
internal import Pictures
internal import Scanout

/// The scanouts' calls of their device.
protocol ScanoutsOwner: AnyObject {
  /// The scanout has reached this presentation.
  func reached(_ sequence: UInt64, on scanout: ScanoutID)
  /// Copies that took longer than a turn of the loop are complete.
  func finishedWork()
  /// A screen was plugged in or out.
  func outputsHaveChanged()
  /// There is work for the loop that must not interrupt other work.
  func wake()
  /// The earliest deadline has changed.
  func armTimer()
}

/// The guest's scanouts: which resource each one shows, by which picture, lent or copied, and with which cursor; also
/// pictures on their way to a screen, and pages on their way back.
///
/// Scanouts, pictures, cursor and the return of pages are one state machine. A flush may need another picture, a cursor a
/// copy, a DETACH both, and each can end another one's wait. This file has bindings and presentations. `Scanouts+Pictures`
/// chooses between lending and copying, `Scanouts+Copies` has copies that take longer than a turn of the loop,
/// `Scanouts+Stores` resources' bytes in memory of ours, `Scanouts+Cursor` the cursor, `Scanouts+PageReturns` the return of
/// pages, and `Scanouts+Outputs` screens that come and go.
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
  /// Kept here, so that it is not freed during a call of it.
  unowned let owner: any ScanoutsOwner
  var patience: GPUDevice.Patience

  var work = LongWork()
  /// Buffers by the id of their frame, as long as a sink may know the frame.
  var buffersByFrame: [UInt64: Buffer] = [:]
  /// Dropped copies, until nobody shows them.
  var goneShadows: [Shadow] = []
  /// Causes of copies that the log knows already.
  var announced: Set<ShadowCause.Name> = []
  /// The number of copied pictures, by cause.
  var shadows: [ShadowCause.Name: UInt64] = [:]
  /// When the kernel's limits were last read again for a buffer that exceeds them.
  var lastLimitCheck: Instant?
  /// Whether this driver names a resource when it moves the cursor, so that 0 hides it.
  var movesByName = false
  /// The results of the guest's flushes, counted once for each scanout.
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

  /// Whether a picture that cannot be shown itself may be shown as a copy.
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

  /// Binds a scanout. An image without pages is shown by a flush after it gets some; a blob has pages from the start.
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
      // Flushes that came while the scanout showed another picture, or none, were not copied.
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

  /// Darkens the screen. The choice of SET_SCANOUT comes with its next flush.
  func darken(_ scanout: GuestScanout) {
    guard scanout.last != nil else { return }
    scanout.last = nil
    sink?.turnOff(scanout.id)
  }

  // MARK: Presentations

  /// Shows the changes of a flush, on each scanout that is bound to the resource.
  /// - Returns: the presentations that a fence waits for.
  func flush(_ resource: Resource, _ area: Rectangle) throws(Mistake) -> [Flip] {
    // Each scanout may show another image of a blob.
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

  /// Shows the bound resource. The caller has checked that there is one, and somebody to show it.
  @discardableResult
  func present(_ scanout: GuestScanout, damage: Rectangle, ownInitiative: Bool = false) -> UInt64 {
    guard let binding = scanout.binding, let picture = binding.picture else {
      preconditionFailure("only what has a picture is presented")
    }
    // The cursor is drawn at its place when the copy is complete.
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
        // The guest has taken the pages back, so nothing changes.
        hand(sequence, shadow, Rectangle(x: 0, y: 0, width: 0, height: 0), scanout)
      }
    }
    return sequence
  }

  /// Hands a copy to the sink; `changed` is its new part.
  func hand(_ sequence: UInt64, _ shadow: Shadow, _ changed: Rectangle, _ scanout: GuestScanout) {
    // The sink always gets a presentation, because a fence waits for it.
    let damage = changed.isEmpty ? Rectangle(x: 0, y: 0, width: 1, height: 1) : changed
    let bounds = shadow.frame.layout.bounds
    hand(Presentation(frame: shadow.frame, source: bounds, damage: damage, sequence: sequence), scanout)
  }

  private func hand(_ presentation: Presentation, _ scanout: GuestScanout) {
    if scanout.isSilent, scanout.probe == nil { scanout.probe = (presentation.sequence, .now) }
    sink?.present(presentation, on: scanout.id)
  }

  // MARK: Statistics

  /// Adds the counts of this part.
  func report(into statistics: inout Statistics) {
    statistics.flushes += frames.flushes
    statistics.framesShown += frames.shown
    statistics.framesCoalesced += frames.coalesced
    statistics.framesFailed += frames.failed
    statistics.bytesCopied += work.bytesCopied
    for (cause, count) in shadows { statistics.shadows[cause.rawValue, default: 0] += count }
  }
}

// The sink's reports.
extension Scanouts: ScanoutObserver {
  func presented(_ sequence: UInt64, frame: Frame, on id: ScanoutID) {
    let scanout = self[Int(id.rawValue)]
    if isFlush(sequence, scanout) { frames.shown += 1 }
    if let buffer = buffersByFrame[frame.id] { lender.countShown(buffer) }
    ended(sequence, scanout)
  }

  func replaced(_ sequence: UInt64, on id: ScanoutID) {
    // The fence now waits for the presentation that replaced this one.
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
    // On a scanout that was turned off this was the last presentation, and nothing follows it.
    owner.reached(scanout.last == nil ? .max : sequence, on: scanout.id)
  }

  private func isFlush(_ sequence: UInt64, _ scanout: GuestScanout) -> Bool {
    guard let own = scanout.ownInitiative.firstIndex(of: sequence) else { return true }
    scanout.ownInitiative.remove(at: own)
    return false
  }
}
