internal import Udmabuf

/// The guest's present use of the host, within its quotas. Each use is admitted before it begins, and dismissed at its end.
package final class GuestAccount {
  /// The bookkeeping for a resource without its page list, in bytes, estimated generously.
  private static let resourceCost: UInt64 = 1024

  package let quotas: Quotas
  /// The number of resources.
  package private(set) var resources: UInt64 = 0
  /// The number of dma-bufs, and the bytes of guest memory that they pin.
  package private(set) var lent: (dmabufs: UInt64, bytes: UInt64) = (0, 0)
  /// The bytes of copies.
  package private(set) var shadowBytes: UInt64 = 0
  /// The bytes of this process's bookkeeping for resources and their page lists.
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

  /// Checks whether `admitLent` and `admitRanges` would fit, before a dma-buf is made.
  func checkLent(_ bytes: UInt64, ranges: Int) throws(LendError) {
    try within(.pinnedBytes, lent.bytes + bytes, quotas.pinnedBytes)
    try within(
      .bookkeepingBytes, bookkeeping + Self.cost(ofRanges: ranges), quotas.bookkeepingBytes)
  }

  func admitLent(_ bytes: UInt64) { lent = (lent.dmabufs + 1, lent.bytes + bytes) }

  func dismissLent(_ bytes: UInt64) { lent = (lent.dmabufs - 1, lent.bytes - bytes) }

  private static func cost(ofRanges count: Int) -> UInt64 { UInt64(count * MemoryLayout<MemfdRange>.stride) }

  // MARK: Copies

  /// Counts the memory of a copy, before it is allocated.
  package func admitShadow(_ bytes: UInt64) throws(LendError) {
    try within(.shadowBytes, shadowBytes + bytes, quotas.shadowBytes)
    shadowBytes += bytes
  }

  /// Counts existing memory, such as a canvas that is larger than requested, without a check of the quota.
  package func countShadow(_ bytes: UInt64) { shadowBytes += bytes }

  package func dismissShadow(_ bytes: UInt64) { shadowBytes -= bytes }

  // MARK: Statistics

  package func report(into statistics: inout Statistics) {
    statistics.liveResources = resources
    (statistics.liveDMABufs, statistics.pinnedBytes) = lent
    statistics.shadowBytes = shadowBytes
  }

  private func within(_ quota: LendError.Quota, _ needed: UInt64, _ limit: UInt64) throws(LendError) {
    if needed > limit { throw .quota(quota, needed: needed, limit: limit) }
  }
}
