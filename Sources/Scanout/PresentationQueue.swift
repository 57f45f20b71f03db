/// The presentations of one scanout. At most one is shown, one is on its way, and one waits. A newer one replaces the
/// one that waits. The queue holds a use of each frame in it, so that the frame on screen stays until its successor
/// is shown.
///
/// A use ends only after the queue's state is settled, so `Frame.whenIdle` may call the queue's owner.
package final class PresentationQueue {
  package enum Step {
    case present(Presentation)
    case turnOff
  }

  /// The place of a frame that was taken out.
  package struct Removal {
    package fileprivate(set) var wasShown = false
    package fileprivate(set) var inFlight: Presentation?
    package fileprivate(set) var waiting: Presentation?
  }

  /// The presentation on the screen.
  package private(set) var shown: Presentation?
  private var inFlight: Step?
  private var waiting: Step?
  /// Called with the sequence number of each presentation that a later step replaces.
  package var whenReplaced: ((UInt64) -> Void)?

  package init() {}

  /// Whether the display has a step that it has not confirmed.
  package var isBusy: Bool { inFlight != nil }

  /// Adds a step.
  /// - Returns: true if the caller must start it now; it is `current`.
  package func submit(_ step: Step) -> Bool {
    var step = step
    if case .present(var presentation) = step {
      presentation.frame.acquire()
      if case .present(let last) = waiting ?? inFlight ?? shown.map(Step.present),
        last.frame === presentation.frame, last.source == presentation.source
      {
        if waiting != nil { presentation.damage = presentation.damage.union(last.damage) }
      } else {
        // Damage counts within one frame; another frame is new as a whole.
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

  /// The step that the display has, or must get now.
  package var current: Step? { inFlight }

  /// The display confirmed the current step. The use of the frame before ends.
  /// - Returns: true if another step is now `current`, which the caller must start.
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

  /// The display refused the current step, and goes on showing the frame before.
  /// - Returns: true if another step is now `current`, which the caller must start.
  package func failed() -> Bool {
    let refused = inFlight
    advance()
    renewCurrent()
    let hasNext = inFlight != nil
    release(refused)
    return hasNext
  }

  /// Takes a frame out of every place, after the caller has cut it off. If it was on its way, the display goes dark, and
  /// the step behind it becomes `current`, which the caller must start.
  ///
  /// - Parameter isStarted: whether the display has taken the current step. Otherwise the display goes on showing the frame
  ///   before.
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

  /// Lets go of everything, as when the display is given up. Steps that were not shown count as replaced.
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

  /// The changes of a failed step are missing on the screen, so all of the current one is new.
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
