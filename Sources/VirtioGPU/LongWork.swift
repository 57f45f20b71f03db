internal import Buffers
internal import Linux

/// Work on a guest's behalf that may be more than fits into a turn of the loop: copies into stores, and memory that goes
/// back to the kernel. What is left when the turn ends goes on in the next turns.
struct LongWork {
  /// When what takes time leaves the loop to others.
  private(set) var turnEnd = Instant.now
  private var storing: StoreCopy?
  private(set) var spent: [SpentMemory] = []
  /// How many bytes went back in this turn.
  private var discarded = 0
  /// Bytes that were copied so far.
  private(set) var bytesCopied: UInt64 = 0

  /// Something was left for later turns.
  var isBusy: Bool { storing != nil || !spent.isEmpty }
  /// A store is not complete.
  var isStoring: Bool { storing != nil }
  /// The guest has its pages back when that store is complete.
  var isKeeping: Bool { storing?.isLast == true }

  mutating func beginTurn(_ length: TimeSpan) {
    turnEnd = Instant.now + length
    discarded = 0
  }

  /// Copies what there is time for. One copy at a time goes on in later turns.
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

  /// Gives back the memory of a copy that nobody needs. It goes back with the last reference to it, but for what is more
  /// than a turn has time for: the kernel looks at each page.
  /// - Returns: true if nothing is left for later.
  mutating func discard(_ memory: Mapping) -> Bool {
    discarded += memory.length
    if discarded <= SpentMemory.atOnce { return true }
    spent.append(SpentMemory(memory))
    return false
  }

  /// Goes on with what did not fit into an earlier turn: memory first.
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

  /// Nobody needs the copy any more, complete or not.
  mutating func abandonStore() { storing = nil }
}
