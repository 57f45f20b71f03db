/// The presentations of one scanout: at most one is shown, one is on its way, and one waits, which the next
/// one replaces. Holds a use of each frame in it, so that the one on screen stays until its successor is
/// shown.
public final class PresentationQueue {
  public enum Step {
    case present(Presentation)
    case turnOff
  }

  /// What is on the screen now.
  public private(set) var shown: Presentation?
  private var inFlight: Step?
  private var waiting: Step?
  private let replaced: (UInt64) -> Void

  /// `replaced` is told the sequence number of each presentation that leaves the queue before its turn.
  public init(replaced: @escaping (UInt64) -> Void) { self.replaced = replaced }

  /// Something was handed to the display and has not been confirmed.
  public var isBusy: Bool { inFlight != nil }

  /// Takes a step in turn.
  /// - Returns: true if it is this caller's to start now: ask `current`.
  public func submit(_ step: Step) -> Bool {
    var step = step
    if case .present(var presentation) = step {
      presentation.frame.acquire()
      if case .present(let last) = waiting ?? inFlight ?? shown.map(Step.present),
        last.frame === presentation.frame, last.source == presentation.source
      {
        if waiting != nil { presentation.damage = presentation.damage.union(last.damage) }
      } else {
        // Damage is what changed within one frame; another frame is new as a whole.
        presentation.damage = presentation.source
      }
      step = .present(presentation)
    }
    if inFlight == nil {
      inFlight = step
      return true
    }
    let dropped = waiting
    waiting = step
    if case .present(let presentation) = dropped {
      replaced(presentation.sequence)
      presentation.frame.release()
    }
    return false
  }

  /// The step that was handed, or is to be handed, to the display.
  public var current: Step? { inFlight }

  /// The display confirmed the current step. The frame that was shown before is let go.
  /// - Returns: true if another step is `current` now, to be started.
  public func completed() -> Bool {
    let before = shown
    switch inFlight {
    case .present(let presentation): shown = presentation
    case .turnOff: shown = nil
    case nil: return false
    }
    advance()
    before?.frame.release()
    return inFlight != nil
  }

  /// The display refused the current step; what was shown stays.
  /// - Returns: true if another step is `current` now, to be started.
  public func failed() -> Bool {
    let refused = inFlight
    advance()
    if case .present(var next) = inFlight {
      next.damage = next.source  // What the refused one would have brought is still missing.
      inFlight = .present(next)
    }
    if case .present(let presentation) = refused { presentation.frame.release() }
    return inFlight != nil
  }

  /// Lets go of everything, as when the display is gone. What was not shown yet counts as replaced.
  public func removeAll() {
    let before = shown
    let unshown = [inFlight, waiting]
    (shown, inFlight, waiting) = (nil, nil, nil)
    for case .present(let presentation) in unshown {
      replaced(presentation.sequence)
      presentation.frame.release()
    }
    before?.frame.release()
  }

  private func advance() {
    inFlight = waiting
    waiting = nil
  }
}
