import Guest
import Linux
import Programs
import QEMU
import Udmabuf

/// What a guest's page list becomes. It is joined while the list is read, whose entries are not kept.
struct JoinedPages {
  private let memory: PlannedMemory
  private let limit, needed: UInt64
  private let most: UInt64
  private(set) var entries = 0
  /// Of the entries, in bytes.
  private var named: UInt64 = 0
  /// How many ranges there are after joining.
  private(set) var count = 0
  /// Of the ranges, in bytes.
  private(set) var size: UInt64 = 0
  /// The first ones of the ranges.
  private(set) var ranges: [MemfdRange] = []
  private var last: MemfdRange?
  /// They wait for what follows: only the last entry of all is completed.
  private var waiting: [ByteRange] = []
  /// What is wrong with the first wrong entry, once the number of all entries is known.
  private var failure: ((_ count: Int) -> Trouble)?

  /// - Parameters:
  ///   - limit: as `GuestMemory.resolve` takes it, and `needed` its `length`.
  ///   - most: no more of the ranges than these are kept.
  init(_ memory: PlannedMemory, upTo limit: UInt64, completing needed: UInt64, keeping most: UInt64) {
    (self.memory, self.limit, self.needed, self.most) = (memory, limit, needed, most)
  }

  /// Takes the next entries of the list.
  mutating func add(_ entries: [ByteRange]) {
    if entries.isEmpty { return }
    resolveWaiting(completing: .max)
    waiting = entries
  }

  /// The end of the list.
  mutating func finish() throws {
    resolveWaiting(completing: needed == .max ? .max : needed - min(needed, size))
    if let failure { throw failure(entries) }
  }

  private mutating func resolveWaiting(completing length: UInt64) {
    defer { (entries, waiting) = (entries + waiting.count, []) }
    if failure == nil { failure = resolve(waiting, completing: length) }
  }

  private mutating func resolve(
    _ ranges: [ByteRange], completing length: UInt64
  ) -> ((_ count: Int) -> Trouble)? {
    let before = entries
    for (index, entry) in ranges.enumerated() {
      let (sum, overflow) = named.addingReportingOverflow(entry.length)
      if overflow { return { entry.tooManyBytes(before + index, of: $0) } }
      named = sum
    }
    do throws(GuestMemoryError) {
      let joined = try memory.table.resolve(ranges.map(\.ofGuest), upTo: limit - size, completing: length)
      for range in joined { append(range) }
      return nil
    } catch {
      guard case .hole(let item, let address) = error else {
        return { _ in Trouble("\(error.behind(before)); the helper would answer the guest with an error") }
      }
      let absence = memory.layout.absence(at: address)
      return { count in
        Trouble(
          "the range \(ranges[item]) (\(before + item + 1) of \(count)) is not the guest's memory, or not all of it: "
            + "\(absence); the helper would answer the guest with an error")
      }
    }
  }

  private mutating func append(_ range: MemfdRange) {
    size += range.length
    if var before = last, before.memfd === range.memfd, before.offset + before.length == range.offset {
      before.length += range.length
      last = before
      if count == ranges.count { ranges[ranges.count - 1] = before }
    } else {
      last = range
      count += 1
      if count <= most { ranges.append(range) }
    }
  }
}
