package import Guest
internal import Linux
package import SystemPackage
package import Udmabuf

/// Lends a guest's memory: makes buffers of page lists, with a dma-buf over the pages themselves if possible. A buffer
/// need not be a picture. It counts against its guest's account until `dismiss`.
package final class Lender {
  package let account: GuestAccount
  private let device: Result<UdmabufDevice, Errno>
  /// The counts of buffers whose own dma-buf was on a screen.
  private var shown = Shown()

  private struct Shown {
    var (buffers, entries, items, pages, bytes): (UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0)
  }

  /// A missing device is reported only when a buffer is to be lent.
  package init(device: Result<UdmabufDevice, Errno>, account: GuestAccount = GuestAccount()) {
    (self.device, self.account) = (device, account)
  }

  /// Takes the first `length` bytes of the memory that `entries` name. `choice` decides between lending whole pages and
  /// copying. If a list ends inside its last page, all of that page is lent, if the guest has it. The buffer counts against
  /// the quotas until `dismiss`.
  package func take(
    _ entries: [GuestRange], of memory: GuestMemory, length: UInt64, as choice: BackingChoice
  ) throws(LendError) -> Buffer {
    let ranges: [MemfdRange]
    do throws(GuestMemoryError) {
      // Only the pages that the image needs are lent, even from a longer list. A range that still does not begin or end at
      // a page is refused below.
      ranges = try memory.resolve(entries, upTo: wholePages(length), completing: length)
    } catch {
      throw .memory(error)
    }
    let backing: Buffer.Backing
    do throws(LendError) {
      if choice == .shadow {
        backing = .shadow(ShadowCause(.chosen, "the user chose copies"))
      } else {
        backing = .lent(try lend(ranges, length))
      }
    } catch {
      guard choice == .auto, let cause = ShadowCause(error) else { throw error }
      backing = .shadow(cause)
    }
    try account.admitRanges(ranges.count)
    let buffer = Buffer(ranges: ranges, of: memory, entries: entries.count, backing: backing)
    if case .lent = backing { account.admitLent(buffer.size) }
    return buffer
  }

  /// Lends the first `length` bytes, rounded up to whole pages, of the memory that `entries` name.
  package func lend(
    _ entries: [GuestRange], of memory: GuestMemory, length: UInt64
  ) throws(LendError) -> Buffer {
    try take(entries, of: memory, length: length, as: .lent)
  }

  /// Tries again to lend a buffer that exceeded a limit. The cost is one look at the limits, or nothing if the cause cannot
  /// have passed.
  /// - Returns: true if the buffer is lent now.
  package func lendAgain(_ buffer: Buffer) -> Bool {
    guard case .shadow(let cause) = buffer.backing, cause.mayPass,
      let dmabuf = try? lend(buffer.ranges, buffer.size)
    else { return false }
    buffer.backing = .lent(dmabuf)
    account.admitLent(buffer.size)
    return true
  }

  /// Ends the accounting of a buffer. Its dma-buf closes with the last reference to it.
  package func dismiss(_ buffer: Buffer) {
    // No account has memory of the host.
    if buffer.isOfHost { return }
    account.dismissRanges(buffer.ranges.count)
    if case .lent = buffer.backing { account.dismissLent(buffer.size) }
  }

  private func lend(_ ranges: [MemfdRange], _ length: UInt64) throws(LendError) -> DMABuf {
    let total = ranges.reduce(0) { $0 + $1.length }
    if total < length { throw .short(bytes: total, needed: length) }
    try account.checkLent(wholePages(length), ranges: ranges.count)
    return try create(ranges)
  }

  private func create(_ ranges: [MemfdRange]) throws(LendError) -> DMABuf {
    let quotas = account.quotas
    switch device {
    case .failure(let errno): throw .noDevice(errno)
    case .success(let device):
      let dmabuf: DMABuf
      do throws(UdmabufError) {
        dmabuf = ranges.count == 1 ? try device.create(ranges[0]) : try device.create(ranges)
      } catch {
        if error == .kernel(.tooManyOpenFiles) { throw .descriptors(limit: quotas.descriptors) }
        throw LendError(error)
      }
      guard dmabuf.withDescriptor({ $0.isBelow(quotas.ownDescriptors) }) else {
        throw .descriptors(limit: quotas.descriptors)
      }
      return dmabuf
    }
  }

  // MARK: Statistics

  /// Counts a buffer as lent, once, when its own dma-buf was on a screen.
  package func countShown(_ buffer: Buffer) {
    if buffer.wasShown || buffer.isOfHost { return }
    buffer.wasShown = true
    shown.buffers += 1
    shown.entries += UInt64(buffer.entries)
    shown.items += UInt64(buffer.ranges.count)
    shown.pages += buffer.size / systemPageSize
    shown.bytes += buffer.size
  }

  package func report(into statistics: inout Statistics) {
    account.report(into: &statistics)
    (statistics.buffersLent, statistics.entriesReported) = (shown.buffers, shown.entries)
    (statistics.itemsJoined, statistics.pagesLent) = (shown.items, shown.pages)
    statistics.bytesLent = shown.bytes
  }
}
