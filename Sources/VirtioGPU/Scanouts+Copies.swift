internal import Buffers
internal import Linux
internal import Pictures
internal import Scanout

// The work of one command may not fit into a turn of the loop. The rest goes on in the next turns, and the control queue
// waits until it is done. Its commands thus keep their order, and pages that go back have no reader. The cursor queue
// goes on.
extension Scanouts {
  /// Whether work goes on in later turns.
  var isBusy: Bool {
    if work.isBusy { return true }
    for scanout in all where scanout.copy != nil { return true }
    return false
  }

  /// Starts a turn, whose end limits long work.
  func beginTurn() { work.beginTurn(patience.turn) }

  var isTurnOver: Bool { Instant.now >= work.turnEnd }

  /// Continues the work of earlier turns.
  /// - Parameter isAwaited: whether a command waits for it. If the last copy was abandoned, for another picture or none, that
  ///   command is done too.
  func proceed(isAwaited: Bool) {
    guard isBusy || isAwaited else { return }
    beginTurn()
    if work.proceed() {
      // Pictures of an incomplete store wait on.
      for scanout in all {
        guard let copy = scanout.copy.take() else { continue }
        proceed(copy, scanout)
      }
    }
    if isBusy { owner.wake() } else { owner.finishedWork() }
  }

  /// Copies as much as there is time for, and presents the picture when it is complete.
  func proceed(_ copy: PictureCopy, _ scanout: GuestScanout) {
    guard case .shadow(let shadow) = scanout.binding?.picture else {
      preconditionFailure("a copy ends with its picture")
    }
    var copy = copy
    let before = copy.update.copied
    defer { work.count(copied: copy.update.copied - before) }
    // The store that it is made from may be incomplete.
    guard !work.isStoring, shadow.proceed(&copy.update, from: copy.source, until: work.turnEnd) else {
      scanout.copy = copy
      return owner.wake()
    }
    let changed = shadow.finish(
      &copy.update, from: copy.source, cursor: drawsCursor(scanout) ? scanout.cursor : nil)
    hand(copy.sequence, shadow, changed, scanout)
  }

  /// Abandons the copy: another picture, or none, takes its place on the scanout.
  func abandonCopy(_ scanout: GuestScanout) {
    guard let copy = scanout.copy.take() else { return }
    if case .shadow(let shadow) = scanout.binding?.picture { shadow.isStale = true }
    replaced(copy.sequence, on: scanout.id)
  }

  /// Ends the copies early, and shows them as they are.
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

  /// Copies as much into a store as there is time for.
  func store(_ copy: StoreCopy) { if !work.store(copy) { owner.wake() } }

  /// Gives back the memory of a copy that nobody needs.
  func discard(_ memory: Mapping) { if !work.discard(memory) { owner.wake() } }
}
