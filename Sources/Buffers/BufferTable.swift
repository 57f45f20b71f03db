package import Guest
internal import Linux
package import SystemPackage
package import Udmabuf

/// Why guest memory could not be lent.
package enum LendError: Error, Equatable {
  /// The guest named memory that it does not have.
  case memory(GuestMemoryError)
  /// The guest's list covers less than the image needs.
  case short(bytes: UInt64, needed: UInt64)
  /// An entry of the list does not begin or end at a page.
  case unaligned(UdmabufError)
  case udmabuf(UdmabufError)
  /// `/dev/udmabuf` could not be opened.
  case noDevice(Errno)
  /// This process may open no more descriptors.
  case descriptors(limit: Int)
  case quota(Quota, needed: UInt64, limit: UInt64)

  package enum Quota: String, Sendable {
    case resources, pinnedBytes, entries, bookkeepingBytes, shadowBytes
  }

  /// What udmabuf's checks find wrong with a guest's page list.
  package init(_ error: UdmabufError) {
    switch error {
    case .offsetMisaligned, .lengthMisaligned: self = .unaligned(error)
    default: self = .udmabuf(error)
    }
  }

  /// A short name for statistics.
  package var kind: String {
    switch self {
    case .memory: "memory"
    case .short: "shortBacking"
    case .unaligned: "unalignedEntry"
    case .udmabuf(let error):
      switch error {
      case .tooManyItems: "listLimit"
      case .tooManyBytes: "sizeLimit"
      case .notMemfd, .sealMissing, .sealForbidden: "notSealedMemfd"
      default: "udmabuf"
      }
    case .noDevice: "noDevice"
    case .descriptors: "descriptorLimit"
    case .quota: "quota"
    }
  }
}

extension LendError: CustomStringConvertible {
  package var description: String {
    switch self {
    case .memory(let error): "\(error)"
    case .short(let bytes, let needed):
      "the page list covers \(bytes) bytes, but the image needs \(needed)"
    case .unaligned(let error), .udmabuf(let error): "\(error)"
    case .noDevice(.permissionDenied), .noDevice(.notPermitted):
      "\(UdmabufDevice.path) may not be opened by this user; join the group that owns it "
        + "(kvm on most systems), or allow the device in the cgroup"
    case .noDevice(let errno):
      "\(UdmabufDevice.path) cannot be opened (\(errno)); the kernel needs CONFIG_UDMABUF"
    case .descriptors(let limit):
      "this process may have \(limit) descriptors open (RLIMIT_NOFILE), of which \(Quotas.reservedDescriptors) are kept "
        + "for QEMU and each buffer takes one; raise the hard limit before it is started (ulimit -Hn, or "
        + "LimitNOFILE= of a service)"
    case .quota(let quota, let needed, let limit):
      "\(needed) would exceed this guest's quota of \(limit) \(quota.words); "
        + "raise it with \(quota.option)"
    }
  }
}

extension LendError.Quota {
  var words: String {
    switch self {
    case .resources: "resources"
    case .pinnedBytes: "pinned bytes"
    case .entries: "entries in a page list"
    case .bookkeepingBytes: "bytes of bookkeeping"
    case .shadowBytes: "bytes of copies"
    }
  }

  var option: String {
    switch self {
    case .resources: "--max-resources"
    case .pinnedBytes: "--max-pinned"
    case .entries: "--max-entries"
    case .bookkeepingBytes: "--max-bookkeeping"
    case .shadowBytes: "--max-shadow"
    }
  }
}

/// Every live buffer of one guest, within its quotas, and the statistics.
package final class BufferTable {
  /// What a resource costs in bookkeeping before its page list is counted: generous, in bytes.
  private static let resourceCost: UInt64 = 1024

  package let quotas: Quotas
  package var statistics = Statistics()
  private let device: Result<UdmabufDevice, Errno>
  private var bookkeeping: UInt64 = 0

  /// A missing device is told when something is to be lent.
  package init(device: Result<UdmabufDevice, Errno>, quotas: Quotas = Quotas()) {
    (self.device, self.quotas) = (device, quotas)
  }

  /// Takes account of a new resource.
  package func admitResource() throws(LendError) {
    let count = statistics.liveResources + 1
    try within(.resources, count, UInt64(quotas.resources))
    try within(.bookkeepingBytes, bookkeeping + Self.resourceCost, quotas.bookkeepingBytes)
    statistics.liveResources = count
    bookkeeping += Self.resourceCost
  }

  package func dismissResource() {
    statistics.liveResources -= 1
    bookkeeping -= Self.resourceCost
  }

  /// Checks a page list's length before the list itself is read.
  package func admitEntries(_ count: UInt64) throws(LendError) {
    try within(.entries, count, UInt64(quotas.entries))
  }

  /// Takes the first `length` bytes of the memory that `entries` name: lent, in whole pages, or to be copied
  /// from, as `choice` says. A list that ends inside the last page lends all of that page, if it is the guest's. The
  /// buffer counts against the quotas until `release`.
  package func take(
    _ entries: [GuestRange], of memory: GuestMemory, length: UInt64, as choice: BackingChoice
  ) throws(LendError) -> Buffer {
    let ranges: [MemfdRange]
    do throws(GuestMemoryError) {
      // No more pages are lent than the image needs, whatever the guest adds to the list. A range that still does not begin
      // or end at a page is refused below.
      ranges = try memory.resolve(entries, upTo: wholePages(length), completing: length)
    } catch {
      throw .memory(error)
    }
    let backing: Buffer.Backing
    do throws(LendError) {
      if choice == .shadow {
        backing = .shadow(ShadowCause(.chosen, "copies were asked for by --backing shadow"))
      } else {
        backing = .lent(try lend(ranges, length))
      }
    } catch {
      guard choice == .auto, let cause = ShadowCause(error) else { throw error }
      backing = .shadow(cause)
    }
    let cost = Buffer.bookkeeping(ranges: ranges.count)
    try within(.bookkeepingBytes, bookkeeping + cost, quotas.bookkeepingBytes)
    let buffer = Buffer(ranges: ranges, of: memory, entries: entries.count, backing: backing)
    bookkeeping += cost
    if case .lent = backing { countLent(buffer) }
    return buffer
  }

  /// Lends the first `length` bytes, rounded up to whole pages, of the memory that `entries` name.
  package func lend(
    _ entries: [GuestRange], of memory: GuestMemory, length: UInt64
  ) throws(LendError) -> Buffer {
    try take(entries, of: memory, length: length, as: .lent)
  }

  /// Tries once more to lend a buffer that a limit stood against. Costs nothing where that cannot have passed,
  /// and a look at the limits else.
  /// - Returns: true if it is lent now.
  package func lendAgain(_ buffer: Buffer) -> Bool {
    guard case .shadow(let cause) = buffer.backing, cause.mayPass,
      let dmabuf = try? lend(buffer.ranges, buffer.size)
    else { return false }
    buffer.backing = .lent(dmabuf)
    countLent(buffer)
    return true
  }

  private func lend(_ ranges: [MemfdRange], _ length: UInt64) throws(LendError) -> DMABuf {
    let total = ranges.reduce(0) { $0 + $1.length }
    if total < length { throw .short(bytes: total, needed: length) }
    try within(.pinnedBytes, statistics.pinnedBytes + wholePages(length), quotas.pinnedBytes)
    try within(
      .bookkeepingBytes, bookkeeping + Buffer.bookkeeping(ranges: ranges.count), quotas.bookkeepingBytes)
    return try create(ranges)
  }

  private func countLent(_ buffer: Buffer) {
    statistics.pinnedBytes += buffer.size
    statistics.liveDMABufs += 1
  }

  /// Ends a buffer's account. Its dma-buf closes with the last reference to it.
  package func release(_ buffer: Buffer) {
    if buffer.isOfHost { return }
    bookkeeping -= buffer.bookkeeping
    guard case .lent = buffer.backing else { return }
    statistics.pinnedBytes -= buffer.size
    statistics.liveDMABufs -= 1
  }

  /// Takes account of memory for a copy, before it is allocated.
  package func admitShadow(_ bytes: UInt64) throws(LendError) {
    try within(.shadowBytes, statistics.shadowBytes + bytes, quotas.shadowBytes)
    statistics.shadowBytes += bytes
  }

  package func dismissShadow(_ bytes: UInt64) { statistics.shadowBytes -= bytes }

  /// Counts a buffer as lent, once: its own dma-buf was on a screen.
  package func countShown(_ buffer: Buffer) {
    if buffer.wasShown { return }
    buffer.wasShown = true
    statistics.buffersLent += 1
    statistics.entriesReported += UInt64(buffer.entries)
    statistics.itemsJoined += UInt64(buffer.ranges.count)
    statistics.pagesLent += buffer.size / systemPageSize
    statistics.bytesLent += buffer.size
  }

  private func create(_ ranges: [MemfdRange]) throws(LendError) -> DMABuf {
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

  private func within(_ quota: LendError.Quota, _ needed: UInt64, _ limit: UInt64) throws(LendError) {
    if needed > limit { throw .quota(quota, needed: needed, limit: limit) }
  }
}
