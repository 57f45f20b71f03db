internal import Buffers
internal import Linux

/// Work for a guest that may not fit into one turn of the loop: copies into stores, and memory that goes back to the
/// kernel. The rest goes on in the next turns.
struct LongWork {
  /// The end of the turn, when long work leaves the loop to others.
  private(set) var turnEnd = Instant.now
  private var storing: StoreCopy?
  private(set) var spent: [SpentMemory] = []
  /// The bytes that went back in this turn.
  private var discarded = 0
  /// The bytes copied so far.
  private(set) var bytesCopied: UInt64 = 0

  /// Whether work was left for later turns.
  var isBusy: Bool { storing != nil || !spent.isEmpty }
  /// Whether a store is not complete.
  var isStoring: Bool { storing != nil }
  /// Whether the guest gets its pages back when that store is complete.
  var isKeeping: Bool { storing?.isLast == true }

  mutating func beginTurn(_ length: TimeSpan) {
    turnEnd = Instant.now + length
    discarded = 0
  }

  /// Copies as much as there is time for. One copy at a time goes on in later turns.
  /// - Returns: true if it is complete.
  @discardableResult
  mutating func store(_ copy: StoreCopy) -> Bool {
    var copy = copy
    let before = copy.copied
    let isDone = copy.proceed(until: turnEnd)
    bytesCopied += copy.copied - before
    if !isDone { storing = copy }
    return isDone
  }

  /// Gives back the memory of a copy that nobody needs. It goes back with its last reference. A large one goes back in
  /// parts over several turns, because the kernel looks at each page.
  /// - Returns: true if nothing is left for later.
  mutating func discard(_ memory: Mapping) -> Bool {
    discarded += memory.length
    if discarded <= SpentMemory.atOnce { return true }
    spent.append(SpentMemory(memory))
    return false
  }

  /// Continues the work of earlier turns, memory first.
  /// - Returns: true if there is time for the copies of pictures.
  mutating func proceed() -> Bool {
    while !spent.isEmpty {
      if spent[spent.count - 1].giveBack() { spent.removeLast() }
      if Instant.now >= turnEnd { break }
    }
    guard spent.isEmpty else { return false }
    if let copy = storing.take() { store(copy) }
    return true
  }

  mutating func count(copied bytes: UInt64) { bytesCopied += bytes }

  /// Ends a copy that nobody needs any more, complete or not.
  mutating func abandonStore() { storing = nil }
}
