/// The presentations of one scanout: at most one is shown, one is on its way, and one waits, which the next
/// one replaces. Holds a use of each frame in it, so that the one on screen stays until its successor is
/// shown.
///
/// A use ends when the queue's own state is settled, so `Frame.whenIdle` may call whoever owns the queue.
package final class PresentationQueue {
  package enum Step {
    case present(Presentation)
    case turnOff
  }

  /// Where a frame stood that was taken out.
  package struct Removal {
    package fileprivate(set) var wasShown = false
    package fileprivate(set) var inFlight: Presentation?
    package fileprivate(set) var waiting: Presentation?
  }

  /// What is on the screen now.
  package private(set) var shown: Presentation?
  private var inFlight: Step?
  private var waiting: Step?
  /// Is told the sequence number of each presentation that leaves the queue because of what came after it.
  package var whenReplaced: ((UInt64) -> Void)?

  package init() {}

  /// Something was handed to the display and has not been confirmed.
  package var isBusy: Bool { inFlight != nil }

  /// Takes a step in turn.
  /// - Returns: true if it is this caller's to start now: ask `current`.
  package func submit(_ step: Step) -> Bool {
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
    let replaced = waiting
    waiting = step
    giveUp(replaced)
    return false
  }

  /// The step that was handed, or is to be handed, to the display.
  package var current: Step? { inFlight }

  /// The display confirmed the current step. The frame that was shown before is let go.
  /// - Returns: true if another step is `current` now, to be started.
  package func completed() -> Bool {
    let before = shown
    switch inFlight {
    case .present(let presentation): shown = presentation
    case .turnOff: shown = nil
    case nil: return false
    }
    advance()
    let hasNext = inFlight != nil
    before?.frame.release()
    return hasNext
  }

  /// The display refused the current step; what was shown stays.
  /// - Returns: true if another step is `current` now, to be started.
  package func failed() -> Bool {
    let refused = inFlight
    advance()
    renewCurrent()
    let hasNext = inFlight != nil
    release(refused)
    return hasNext
  }

  /// Takes a frame out, wherever it stands; whoever calls has cut it off. One that was on its way leaves the
  /// display dark, and the step that waited behind it is `current` then, to be started.
  ///
  /// - Parameter isStarted: the display has taken the current step on. One that it has not leaves what is shown
  ///   as it is.
  package func remove(_ frame: Frame, isStarted: Bool = true) -> Removal {
    var removal = Removal()
    var ended: [Step?] = []
    if let presentation = presentation(in: waiting, of: frame) {
      removal.waiting = presentation
      ended.append(waiting)
      waiting = nil
    }
    removal.wasShown = shown?.frame === frame
    if let presentation = presentation(in: inFlight, of: frame) {
      removal.inFlight = presentation
      ended.append(inFlight)
      advance()
      renewCurrent()
    }
    if removal.wasShown || removal.inFlight != nil && isStarted {
      ended.append(shown.map(Step.present))
      shown = nil
    }
    for step in ended { release(step) }
    return removal
  }

  /// Lets go of everything, as when the display is given up. What was not shown yet counts as replaced.
  package func removeAll() {
    let before = shown.map(Step.present)
    let unshown = [inFlight, waiting]
    (shown, inFlight, waiting) = (nil, nil, nil)
    for step in unshown { giveUp(step) }
    release(before)
  }

  private func advance() {
    inFlight = waiting
    waiting = nil
  }

  /// What the step before would have brought is still missing: all of the current one is new.
  private func renewCurrent() {
    if case .present(var next) = inFlight {
      next.damage = next.source
      inFlight = .present(next)
    }
  }

  private func presentation(in step: Step?, of frame: Frame) -> Presentation? {
    if case .present(let presentation) = step, presentation.frame === frame { presentation } else { nil }
  }

  private func giveUp(_ step: Step?) {
    guard case .present(let presentation) = step else { return }
    whenReplaced?(presentation.sequence)
    presentation.frame.release()
  }

  private func release(_ step: Step?) {
    if case .present(let presentation) = step { presentation.frame.release() }
  }
}
