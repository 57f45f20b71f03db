internal import Linux
internal import Scanout

/// The work for one output. At most one commit of an output is in the card.
final class KMSLane {
  /// The commit that is in the card, waits for the card to be ready, or waits to be settled.
  enum Work {
    /// The commit does the queue's current step.
    case step
    /// The queue knows nothing of the commit: it shows the cursor alone, or the same picture once more.
    case extra
  }

  let scanout: ScanoutID
  let output: KMSOutput
  let queue = PresentationQueue()
  var work: Work?
  /// The tag of the commit whose flip event has not come yet.
  var awaited: UInt64?
  /// When the card began to be busy with something else; nil if it is not.
  var busySince: Instant?
  /// The result of the work, to be settled from the event loop.
  var outcome: Result<Void, SinkError>?
  /// Whether the picture must be shown once more, because the screen was away.
  var needsRefresh = false
  /// The number of times that the card has refused to switch the output off. The sink tries until it succeeds.
  var refusedTurnOffs = 0
  /// The size that the user has chosen for the guest to prefer; nil for none.
  var preferred: PixelSize?

  init(_ index: Int, _ output: KMSOutput) { (scanout, self.output) = (ScanoutID(UInt32(index)), output) }

  /// Whether the card has accepted the commit for the queue's current step.
  var stepIsStarted: Bool {
    guard case .step = work else { return false }
    if awaited != nil { return true }
    if case .success = outcome { return true }
    return false
  }

  /// Forgets the work: nobody waits for its result any more.
  func drop() { (work, awaited, busySince, outcome) = (nil, nil, nil, nil) }
}
