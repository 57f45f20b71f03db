internal import Linux
internal import Scanout

/// What one output is at. At most one commit of it is in the card.
final class KMSLane {
  /// What is in the card, waits for the card to be ready, or waits to be settled.
  enum Work {
    /// The queue's current step.
    case step
    /// What the queue knows nothing of: the cursor alone, or what is shown once more.
    case extra
  }

  let scanout: ScanoutID
  let output: KMSOutput
  let queue = PresentationQueue()
  var work: Work?
  /// The tag of the commit whose flip event is awaited.
  var awaited: UInt64?
  /// Since when the card has been busy with something else.
  var busySince: Instant?
  /// What became of the work, to be settled from the event loop.
  var outcome: Result<Void, SinkError>?
  /// What is shown is to be shown anew: the screen was away.
  var needsRefresh = false
  /// How often the card refused to switch the output off, which is tried until it does.
  var refusedTurnOffs = 0
  /// The mode that the guest is to prefer.
  var preferred: PixelSize?

  init(_ index: Int, _ output: KMSOutput) { (scanout, self.output) = (ScanoutID(UInt32(index)), output) }

  /// The card has accepted the queue's current step.
  var stepIsStarted: Bool {
    guard case .step = work else { return false }
    if awaited != nil { return true }
    if case .success = outcome { return true }
    return false
  }

  /// The work is no longer anybody's business.
  func drop() { (work, awaited, busySince, outcome) = (nil, nil, nil, nil) }
}
