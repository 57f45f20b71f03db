internal import Buffers
internal import Linux
internal import Pictures
internal import Scanout

// What a guest asks for with one command may be more than fits into a turn of the loop. What is left when the turn
// ends goes on in the next turns, and the control queue waits until it is done: so its commands keep their order, and
// whatever takes pages back finds nobody who reads them. The cursor queue goes on.
extension Scanouts {
  /// Something that was begun goes on in later turns.
  var isBusy: Bool {
    if work.isBusy { return true }
    for scanout in all where scanout.copy != nil { return true }
    return false
  }

  /// Starts a turn: what takes time looks at its end.
  func beginTurn() { work.beginTurn(patience.turn) }

  var isTurnOver: Bool { Instant.now >= work.turnEnd }

  /// Goes on with what did not fit into an earlier turn.
  /// - Parameter isAwaited: a command waits for it to be done. The last copy may have been abandoned, for another picture or
  ///   none: then that command is done too.
  func proceed(isAwaited: Bool) {
    guard isBusy || isAwaited else { return }
    beginTurn()
    if work.proceed() {
      // Those of a store that is not complete go on waiting.
      for scanout in all {
        guard let copy = scanout.copy.take() else { continue }
        proceed(copy, scanout)
      }
    }
    if isBusy { owner.wake() } else { owner.finishedWork() }
  }

  /// Copies what there is time for, and presents the picture when it is complete.
  func proceed(_ copy: PictureCopy, _ scanout: GuestScanout) {
    guard case .shadow(let shadow) = scanout.binding?.picture else {
      preconditionFailure("a copy ends with its picture")
    }
    var copy = copy
    let before = copy.update.copied
    defer { work.count(copied: copy.update.copied - before) }
    // What it is made from may not be complete itself.
    guard !work.isStoring, shadow.proceed(&copy.update, from: copy.source, until: work.turnEnd) else {
      scanout.copy = copy
      return owner.wake()
    }
    let changed = shadow.finish(
      &copy.update, from: copy.source, cursor: drawsCursor(scanout) ? scanout.cursor : nil)
    hand(copy.sequence, shadow, changed, scanout)
  }

  /// Another picture takes its place on the scanout, or none.
  func abandonCopy(_ scanout: GuestScanout) {
    guard let copy = scanout.copy.take() else { return }
    if case .shadow(let shadow) = scanout.binding?.picture { shadow.isStale = true }
    replaced(copy.sequence, on: scanout.id)
  }

  /// Copies go no further, and what there is of them is shown.
  func endCopies() {
    if work.isKeeping { work.abandonStore() }
    for scanout in all {
      guard let copy = scanout.copy.take() else { continue }
      guard case .shadow(let shadow) = scanout.binding?.picture else {
        preconditionFailure("a copy ends with its picture")
      }
      shadow.isStale = true
      hand(copy.sequence, shadow, shadow.frame.layout.bounds, scanout)
    }
    if !isBusy { owner.finishedWork() }
  }

  /// Copies what there is time for into a store.
  func store(_ copy: StoreCopy) { if !work.store(copy) { owner.wake() } }

  /// Gives back the memory of a copy that nobody needs.
  func discard(_ memory: Mapping) { if !work.discard(memory) { owner.wake() } }
}
