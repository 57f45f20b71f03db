internal import CUdmabuf
public import SystemPackage

/// `/dev/udmabuf`: makes dma-bufs out of the pages of memfds.
public final class UdmabufDevice {
  /// The path of the device file.
  public static let path: FilePath = "/dev/udmabuf"

  private let fd: FD
  private let limitFiles = UdmabufLimitFiles()
  private var knownLimits: UdmabufLimits

  /// Opens the device. It throws `noSuchFileOrDirectory` on a kernel without `CONFIG_UDMABUF`, and
  /// `permissionDenied` for a user outside the group that owns it (`kvm` on most systems).
  public init(_ path: FilePath = UdmabufDevice.path) throws(Errno) {
    fd = try FD.open(path, writable: true)
    knownLimits = limitFiles.read()
  }

  /// The kernel's limits, read anew.
  public var limits: UdmabufLimits {
    knownLimits = limitFiles.read()
    return knownLimits
  }

  /// Makes a dma-buf of one range. It has the memfd's own pages: both see each other's writes.
  ///
  /// The corresponding ioctl is `UDMABUF_CREATE`.
  public func create(_ range: MemfdRange) throws(UdmabufError) -> DMABuf {
    try adopt(CollectionOfOne(range)) { device in
      range.memfd.withDescriptor { $0.withRaw { cu_udmabuf_create(device, $0, range.offset, range.length) } }
    }
  }

  /// Makes a dma-buf of ranges of one or several memfds, in this order.
  ///
  /// The dma-buf is a capability to read and write these pages for as long as anybody holds it; it pins them.
  /// - Throws: the first thing that is wrong with the list, before the kernel is asked.
  /// - The corresponding ioctl is `UDMABUF_CREATE_LIST`.
  public func create(_ ranges: [MemfdRange]) throws(UdmabufError) -> DMABuf {
    let stride = MemoryLayout<cu_udmabuf_item>.stride
    return try adopt(ranges) { device in
      unsafe withUnsafeTemporaryAllocation(
        byteCount: CU_UDMABUF_LIST_HEADER + ranges.count * stride, alignment: 8
      ) { list in
        var known: ObjectIdentifier?
        var item = cu_udmabuf_item()
        for index in ranges.indices {
          // Usually all ranges are of one memfd, whose number is then read only once.
          if known != ObjectIdentifier(ranges[index].memfd) {
            known = ObjectIdentifier(ranges[index].memfd)
            item.memfd = ranges[index].memfd.withDescriptor { $0.withRaw { UInt32($0) } }
          }
          item.offset = ranges[index].offset
          item.size = ranges[index].length
          unsafe list.storeBytes(
            of: item, toByteOffset: CU_UDMABUF_LIST_HEADER + index * stride, as: cu_udmabuf_item.self)
        }
        return unsafe cu_udmabuf_create_list(device, list.baseAddress, UInt32(ranges.count))
      }
    }
  }

  private func adopt(
    _ ranges: some Collection<MemfdRange>, _ call: (CInt) -> CInt
  ) throws(UdmabufError) -> DMABuf {
    let size = try check(ranges)
    do throws(Errno) {
      let raw = try fd.withRaw { device throws(Errno) in try retrying { call(device) } }
      return try DMABuf(adopting: FD(adopting: raw), size: size)
    } catch {
      // If root has lowered a limit since it was read, this names that limit.
      if error == .invalidArgument { _ = try Self.check(ranges, limits) }
      throw .kernel(error)
    }
  }

  private func check(_ ranges: some Collection<MemfdRange>) throws(UdmabufError) -> UInt64 {
    do throws(UdmabufError) {
      return try Self.check(ranges, knownLimits)
    } catch .tooManyItems, .tooManyBytes {
      // Root may have raised the limit since it was read, so the limits are read again.
      return try Self.check(ranges, limits)
    }
  }

  /// Finds every error of a list to which the kernel would answer only `EINVAL` or `EBADFD`.
  ///
  /// This needs no device.
  /// - Returns: the size of the dma-buf in bytes.
  public static func check(
    _ ranges: some Collection<MemfdRange>, _ limits: UdmabufLimits
  ) throws(UdmabufError) -> UInt64 {
    if ranges.isEmpty { throw .emptyList }
    if ranges.count > limits.items { throw .tooManyItems(count: ranges.count, limit: limits.items) }
    let pageMask = systemPageSize - 1
    var total: UInt64 = 0
    var checked: (memfd: Memfd, size: UInt64)?
    for (item, range) in ranges.enumerated() {
      if range.length == 0 { throw .emptyItem(item: item) }
      if range.offset & pageMask != 0 { throw .offsetMisaligned(item: item, offset: range.offset) }
      if range.length & pageMask != 0 { throw .lengthMisaligned(item: item, length: range.length) }
      let (end, beyond) = range.offset.addingReportingOverflow(range.length)
      let (sum, overflow) = total.addingReportingOverflow(range.length)
      if beyond || overflow { throw .overflow(item: item) }
      total = sum
      let size: UInt64
      if let checked, checked.memfd === range.memfd {
        size = checked.size
      } else {
        size = try usableSize(range.memfd, item)
        checked = (range.memfd, size)
      }
      if end > size { throw .pastEnd(item: item, end: end, size: size) }
    }
    if total > limits.bytes { throw .tooManyBytes(bytes: total, limit: limits.bytes) }
    return total
  }

  private static func usableSize(_ memfd: Memfd, _ item: Int) throws(UdmabufError) -> UInt64 {
    guard let seals = try? memfd.seals() else { throw .notMemfd(item: item) }
    if !seals.contains(.shrink) { throw .sealMissing(item: item, seals: seals) }
    if !seals.isDisjoint(with: [.write, .futureWrite]) { throw .sealForbidden(item: item, seals: seals) }
    do { return try memfd.currentSize() } catch { throw .kernel(error) }
  }
}
