public import Guest
internal import Linux
public import SystemPackage
public import Udmabuf

/// Why guest memory could not be lent.
public enum LendError: Error, Equatable {
  /// The guest named memory that it does not have.
  case memory(GuestMemoryError)
  /// The guest's list covers less than the image needs.
  case short(bytes: UInt64, needed: UInt64)
  /// An entry of the list does not begin or end at a page.
  case unaligned(UdmabufError)
  case udmabuf(UdmabufError)
  /// `/dev/udmabuf` could not be opened.
  case noDevice(Errno)
  case quota(Quota, needed: UInt64, limit: UInt64)

  public enum Quota: String, Sendable {
    case resources, pinnedBytes, entries, bookkeepingBytes
  }

  /// A short name for statistics.
  public var kind: String {
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
    case .quota: "quota"
    }
  }
}

extension LendError: CustomStringConvertible {
  public var description: String {
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
    }
  }

  var option: String {
    switch self {
    case .resources: "--max-resources"
    case .pinnedBytes: "--max-pinned"
    case .entries: "--max-entries"
    case .bookkeepingBytes: "--max-bookkeeping"
    }
  }
}

/// Every live buffer of one guest, within its quotas, and the statistics.
public final class BufferTable {
  /// What a resource costs in bookkeeping before its page list is counted: generous, in bytes.
  private static let resourceCost: UInt64 = 1024

  public let quotas: Quotas
  public var statistics = Statistics()
  private let device: Result<UdmabufDevice, Errno>
  private var bookkeeping: UInt64 = 0

  /// A missing device is told when something is to be lent.
  public init(device: Result<UdmabufDevice, Errno>, quotas: Quotas = Quotas()) {
    (self.device, self.quotas) = (device, quotas)
  }

  /// Takes account of a new resource.
  public func admitResource() throws(LendError) {
    let count = statistics.liveResources + 1
    try within(.resources, count, UInt64(quotas.resources))
    try within(.bookkeepingBytes, bookkeeping + Self.resourceCost, quotas.bookkeepingBytes)
    statistics.liveResources = count
    bookkeeping += Self.resourceCost
  }

  public func dismissResource() {
    statistics.liveResources -= 1
    bookkeeping -= Self.resourceCost
  }

  /// Checks a page list's length before the list itself is read.
  public func admitEntries(_ count: UInt64) throws(LendError) {
    try within(.entries, count, UInt64(quotas.entries))
  }

  /// Lends the first `length` bytes, rounded up to whole pages, of the memory that `entries` name.
  /// The buffer counts against the quotas until `release`.
  public func lend(
    _ entries: [GuestRange], of memory: GuestMemory, length: UInt64
  ) throws(LendError) -> Buffer {
    let needed = (length + systemPageSize - 1) / systemPageSize * systemPageSize
    let ranges: [MemfdRange]
    do throws(GuestMemoryError) {
      // No more pages are lent than the image needs, whatever the guest adds to the list.
      ranges = try memory.resolve(entries, upTo: needed)
    } catch {
      throw .memory(error)
    }
    let total = ranges.reduce(0) { $0 + $1.length }
    if total < needed { throw .short(bytes: total, needed: needed) }
    try within(.pinnedBytes, statistics.pinnedBytes + needed, quotas.pinnedBytes)
    let cost = UInt64(ranges.count * MemoryLayout<MemfdRange>.stride)
    try within(.bookkeepingBytes, bookkeeping + cost, quotas.bookkeepingBytes)
    let buffer = Buffer(ranges: ranges, dmabuf: try create(ranges), entries: entries.count)
    bookkeeping += buffer.bookkeeping
    statistics.pinnedBytes += buffer.size
    statistics.liveDMABufs += 1
    return buffer
  }

  /// Ends a buffer's account. Its dma-buf closes with the last reference to it.
  public func release(_ buffer: Buffer) {
    bookkeeping -= buffer.bookkeeping
    statistics.pinnedBytes -= buffer.size
    statistics.liveDMABufs -= 1
  }

  /// Counts a buffer as lent, once: its own dma-buf was on a screen.
  public func countShown(_ buffer: Buffer) {
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
      do throws(UdmabufError) {
        return ranges.count == 1 ? try device.create(ranges[0]) : try device.create(ranges)
      } catch {
        switch error {
        case .offsetMisaligned, .lengthMisaligned: throw .unaligned(error)
        default: throw .udmabuf(error)
        }
      }
    }
  }

  private func within(_ quota: LendError.Quota, _ needed: UInt64, _ limit: UInt64) throws(LendError) {
    if needed > limit { throw .quota(quota, needed: needed, limit: limit) }
  }
}
