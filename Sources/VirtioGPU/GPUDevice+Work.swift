internal import Buffers
internal import Linux
internal import Pictures
internal import Scanout

/// A presentation whose picture is being copied.
struct PictureCopy {
  let sequence: UInt64
  let source: ByteSource
  var update: Shadow.Update
}

/// What transfers bring into a store, and has not arrived there yet: all that came before, and then the part that was
/// transferred.
struct StoreCopy {
  /// Rows that lie one behind the other on both sides, in bytes from the start of each.
  struct Rows {
    var count: Int
    let length: Int
    var from, to: Int
  }

  let source: ByteSource
  let store: PixelStore
  let stride: Int
  /// The guest has its pages back when the command is answered.
  let isLast: Bool
  var before: Rows?
  var part: Rows
  /// In bytes, so far.
  private(set) var copied: UInt64 = 0

  init(_ source: ByteSource, _ store: PixelStore, stride: Int, before: Rows?, part: Rows) {
    (self.source, self.store, self.stride, isLast) = (source, store, stride, false)
    (self.before, self.part) = (before, part)
  }

  /// All that there is room for, of pages that go back to the guest then.
  init(all source: ByteSource, _ store: PixelStore) {
    let (piece, size) = (4096, store.mapping.length)
    let whole = size / piece
    (self.source, self.store, stride, isLast) = (source, store, piece, true)
    before = whole > 0 ? Rows(count: whole, length: piece, from: 0, to: 0) : nil
    part = Rows(
      count: size % piece > 0 ? 1 : 0, length: size % piece, from: whole * piece, to: whole * piece)
  }

  /// Copies a band at least, and then until `end`, in nanoseconds of the monotonic clock.
  /// - Returns: true if all is copied.
  mutating func proceed(until end: Int64) -> Bool {
    var sinceLook = 0
    while var rows = before ?? (part.count > 0 ? part : nil) {
      let count = CopyBand.rows(of: rows.length, atMost: rows.count)
      copied += source.copyRows(
        count, of: rows.length, from: rows.from, stride: stride, to: store.mapping, at: rows.to,
        targetStride: stride)
      rows.count -= count
      rows.from += count * stride
      rows.to += count * stride
      if before == nil { part = rows } else { before = rows.count > 0 ? rows : nil }
      sinceLook += count * rows.length
      guard sinceLook >= CopyBand.bytes else { continue }
      sinceLook = 0
      if monotonicNanoseconds() >= end { return before == nil && part.count == 0 }
    }
    return true
  }
}

/// Memory of a copy that nobody needs any more, on its way back to the kernel.
struct SpentMemory {
  /// So much goes back in one go, in bytes.
  static let atOnce = 8 << 20

  let mapping: Mapping
  private var done = 0

  init(_ mapping: Mapping) { self.mapping = mapping }

  /// Gives back a part of it.
  /// - Returns: true if nothing of it is left.
  mutating func giveBack() -> Bool {
    let count = min(Self.atOnce, mapping.length - done)
    guard mapping.discard(count, at: done) else { return true }
    done += count
    return done == mapping.length
  }
}

// What a guest asks for with one command may be more than fits into a turn of the loop. What is left when the turn
// ends goes on in the next turns, and the control queue waits until it is done: so its commands keep their order, and
// whatever takes pages back finds nobody who reads them. The cursor queue goes on.
extension GPUDevice {
  /// Something that was begun goes on in later turns.
  var isBusy: Bool { storing != nil || !spent.isEmpty || scanouts.contains { $0.copy != nil } }

  /// Starts a turn: what takes time looks at `turnEnd`.
  func beginTurn() {
    turnEnd = monotonicNanoseconds() + patience.turn
    discarded = 0
  }

  /// Goes on with what did not fit into an earlier turn.
  func proceed() {
    // The last copy may have been abandoned, for another picture or none: then the command that began it is done.
    guard isBusy || pending.contains(where: \.isAtWork) else { return }
    beginTurn()
    while !spent.isEmpty {
      if spent[spent.count - 1].giveBack() { spent.removeLast() }
      if monotonicNanoseconds() >= turnEnd { break }
    }
    if spent.isEmpty {
      if let copy = storing.take() { proceed(copy) }
      // Those of a store that is not complete go on waiting.
      for index in scanouts.indices {
        guard let copy = scanouts[index].copy.take() else { continue }
        proceed(copy, index)
      }
    }
    if isBusy { wake() } else { settleFinished() }
  }

  /// Copies what there is time for into a store.
  func proceed(_ copy: StoreCopy) {
    var copy = copy
    let before = copy.copied
    let isDone = copy.proceed(until: turnEnd)
    buffers.statistics.bytesCopied += copy.copied - before
    if isDone { return }
    storing = copy
    wake()
  }

  /// Copies what there is time for, and presents the picture when it is complete.
  func proceed(_ copy: PictureCopy, _ index: Int) {
    guard case .shadow(let shadow) = scanouts[index].binding?.picture else {
      preconditionFailure("a copy ends with its picture")
    }
    var copy = copy
    let before = copy.update.copied
    defer { buffers.statistics.bytesCopied += copy.update.copied - before }
    // What it is made from may not be complete itself.
    guard storing == nil, shadow.proceed(&copy.update, from: copy.source, until: turnEnd) else {
      scanouts[index].copy = copy
      return wake()
    }
    let changed = shadow.finish(
      &copy.update, from: copy.source, cursor: blends(index) ? scanouts[index].cursor : nil)
    hand(copy.sequence, shadow, changed, index)
  }

  /// Another picture takes its place on the scanout, or none.
  func abandonCopy(_ index: Int) {
    guard let copy = scanouts[index].copy.take() else { return }
    if case .shadow(let shadow) = scanouts[index].binding?.picture { shadow.isStale = true }
    replaced(copy.sequence, on: scanouts[index].id)
  }

  /// Copies go no further, and what there is of them is shown.
  func endCopies() {
    if storing?.isLast == true { storing = nil }
    for index in scanouts.indices {
      guard let copy = scanouts[index].copy.take() else { continue }
      guard case .shadow(let shadow) = scanouts[index].binding?.picture else {
        preconditionFailure("a copy ends with its picture")
      }
      shadow.isStale = true
      hand(copy.sequence, shadow, shadow.frame.layout.bounds, index)
    }
    if !isBusy { settleFinished() }
  }

  /// Answers the command that took so long. Whoever shows the picture has as long for it as after any other command.
  private func settleFinished() {
    let now = monotonicNanoseconds()
    for release in releases { release.finishWork(now + patience.release) }
    for response in pending { response.finishWork(now + patience.fence) }
    // The time of others may have come meanwhile.
    cutOffReleases(now)
    settle()
    armTimer()
  }

  /// The memory of a copy that nobody needs. It goes back with the last reference to it, but for what is more than a
  /// turn has time for: the kernel looks at each page.
  func discard(_ memory: Mapping) {
    discarded += memory.length
    if discarded <= SpentMemory.atOnce { return }
    spent.append(SpentMemory(memory))
    wake()
  }
}
