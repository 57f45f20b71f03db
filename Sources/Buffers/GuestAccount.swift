internal import Udmabuf

/// What one guest uses of the host right now, within its quotas. Whoever takes something for the guest admits it first,
/// and dismisses it when it is given back.
package final class GuestAccount {
  /// What a resource costs in bookkeeping before its page list is counted: generous, in bytes.
  private static let resourceCost: UInt64 = 1024

  package let quotas: Quotas
  /// Resources that exist.
  package private(set) var resources: UInt64 = 0
  /// Dma-bufs that exist, and the bytes of guest memory that they pin.
  package private(set) var lent: (dmabufs: UInt64, bytes: UInt64) = (0, 0)
  /// Bytes of memory that copies take.
  package private(set) var shadowBytes: UInt64 = 0
  /// Bytes that this process spends on keeping account of resources and their page lists.
  private var bookkeeping: UInt64 = 0

  package init(_ quotas: Quotas = Quotas()) { self.quotas = quotas }

  // MARK: Resources

  package func admitResource() throws(LendError) {
    try within(.resources, resources + 1, UInt64(quotas.resources))
    try within(.bookkeepingBytes, bookkeeping + Self.resourceCost, quotas.bookkeepingBytes)
    resources += 1
    bookkeeping += Self.resourceCost
  }

  package func dismissResource() {
    resources -= 1
    bookkeeping -= Self.resourceCost
  }

  /// Checks a page list's length before the list itself is read.
  package func checkEntries(_ count: UInt64) throws(LendError) {
    try within(.entries, count, UInt64(quotas.entries))
  }

  // MARK: Buffers

  func admitRanges(_ count: Int) throws(LendError) {
    let cost = Self.cost(ofRanges: count)
    try within(.bookkeepingBytes, bookkeeping + cost, quotas.bookkeepingBytes)
    bookkeeping += cost
  }

  func dismissRanges(_ count: Int) { bookkeeping -= Self.cost(ofRanges: count) }

  /// Checks what `admitLent` and `admitRanges` would take, before a dma-buf is made.
  func checkLent(_ bytes: UInt64, ranges: Int) throws(LendError) {
    try within(.pinnedBytes, lent.bytes + bytes, quotas.pinnedBytes)
    try within(
      .bookkeepingBytes, bookkeeping + Self.cost(ofRanges: ranges), quotas.bookkeepingBytes)
  }

  func admitLent(_ bytes: UInt64) { lent = (lent.dmabufs + 1, lent.bytes + bytes) }

  func dismissLent(_ bytes: UInt64) { lent = (lent.dmabufs - 1, lent.bytes - bytes) }

  private static func cost(ofRanges count: Int) -> UInt64 { UInt64(count * MemoryLayout<MemfdRange>.stride) }

  // MARK: Copies

  /// Takes account of memory for a copy, before it is allocated.
  package func admitShadow(_ bytes: UInt64) throws(LendError) {
    try within(.shadowBytes, shadowBytes + bytes, quotas.shadowBytes)
    shadowBytes += bytes
  }

  /// What is there already, such as a canvas that is larger than what was asked for, is no reason to refuse it.
  package func countShadow(_ bytes: UInt64) { shadowBytes += bytes }

  package func dismissShadow(_ bytes: UInt64) { shadowBytes -= bytes }

  // MARK: What it says

  package func report(into statistics: inout Statistics) {
    statistics.liveResources = resources
    (statistics.liveDMABufs, statistics.pinnedBytes) = lent
    statistics.shadowBytes = shadowBytes
  }

  private func within(_ quota: LendError.Quota, _ needed: UInt64, _ limit: UInt64) throws(LendError) {
    if needed > limit { throw .quota(quota, needed: needed, limit: limit) }
  }
}
