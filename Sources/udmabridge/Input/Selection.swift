import Guest
import LendingProtocol
import Linux
import Programs
import QEMU
import SystemPackage
import Udmabuf

/// The chosen memory: ranges of memfds in order, an existing dma-buf, or a buffer that a guest lends.
struct Selection {
  enum Content {
    case ranges([MemfdRange])
    case dmabuf(DMABuf)
    case lent(LentMemory)
  }
  let content: Content
  /// The number of ranges before neighbours were joined.
  let entries: Int
  /// The size in bytes.
  let size: UInt64
  /// The ranges are valid only as long as standard input is open.
  let isKept: Bool

  init(_ dmabuf: DMABuf) { (content, entries, size, isKept) = (.dmabuf(dmabuf), 1, dmabuf.size, false) }

  init(_ lent: LentMemory) {
    (content, entries, size, isKept) = (.lent(lent), 1, UInt64(lent.length), false)
  }

  /// The offset of the memory in its dma-buf, in bytes.
  var start: UInt64 { if case .lent(let lent) = content { UInt64(lent.offset) } else { 0 } }

  /// The layout of the image in it, which its lender gave.
  var image: ImageMetadata? { if case .lent(let lent) = content { lent.facts.metadata.image } else { nil } }

  /// - Parameter wanted: what `ranges` were before neighbours were joined.
  private init(_ ranges: [MemfdRange], of wanted: [ByteRange], isKept: Bool) throws {
    (content, entries, size, self.isKept) = (.ranges(ranges), wanted.count, try wanted.size(), isKept)
  }

  /// Ranges of a file; without ranges, the whole file.
  init(_ wanted: [ByteRange], of memfd: Memfd, named name: String, whole: Bool, isKept: Bool = false) throws {
    let end = memfd.status.size
    guard end > 0 else { throw Trouble("\(name) is empty, or is not a file that can be mapped") }
    let entries = wanted.isEmpty ? [ByteRange(start: 0, length: end)] : wanted
    var joined: [MemfdRange] = []
    for (index, entry) in entries.enumerated() {
      try Self.check(entry, index, entries.count, whole: whole)
      let (last, overflow) = entry.start.addingReportingOverflow(entry.length)
      guard !overflow, last <= end else {
        throw Trouble(
          "\(Self.place(entry, index, entries.count)) ends at \(hex(last)), past the end \(hex(end)) "
            + "of \(name)")
      }
      if let before = joined.last, before.offset + before.length == entry.start {
        joined[joined.count - 1].length += entry.length
      } else {
        joined.append(MemfdRange(memfd: memfd, offset: entry.start, length: entry.length))
      }
    }
    try self.init(joined, of: entries, isKept: isKept)
  }

  /// Ranges of a guest's physical memory.
  init(_ wanted: [ByteRange], of layout: GuestLayout, whole: Bool, isKept: Bool = false) throws {
    for (index, entry) in wanted.enumerated() { try Self.check(entry, index, wanted.count, whole: whole) }
    let memory = try layout.memory()
    let joined: [MemfdRange]
    do throws(GuestMemoryError) { joined = try memory.resolve(wanted.map(\.ofGuest)) } catch {
      throw Self.trouble(error, wanted, layout)
    }
    try self.init(joined, of: wanted, isKept: isKept)
  }

  private static func trouble(_ error: GuestMemoryError, _ wanted: [ByteRange], _ layout: GuestLayout)
    -> Trouble
  {
    switch error {
    case .hole(let item, let address):
      Trouble(
        "\(place(wanted[item], item, wanted.count)) is not the guest's memory, or not all of it: "
          + layout.absence(at: address) + "; udmabridge ram shows the layout")
    case .overflow(let item, _):
      Trouble("\(place(wanted[item], item, wanted.count)) ends past the end of the address space")
    default: Trouble("\(error)")
    }
  }

  private static func check(_ entry: ByteRange, _ index: Int, _ count: Int, whole: Bool) throws {
    let page = systemPageSize
    if entry.length == 0 { throw Trouble("\(place(entry, index, count)) is empty") }
    guard whole else { return }
    if entry.start % page != 0 {
      throw Trouble("\(place(entry, index, count)) does not begin at a multiple of the page size \(page)")
    }
    if entry.length % page != 0 {
      throw Trouble("\(place(entry, index, count)) has a length that is no multiple of the page size \(page)")
    }
  }

  /// A range's name in errors, in hexadecimal.
  private static func place(_ entry: ByteRange, _ index: Int, _ count: Int) -> String {
    "the range \(entry)" + (count > 1 ? " (\(index + 1) of \(count))" : "")
  }

  // MARK: Use

  /// The existing dma-buf, or a new one from udmabuf.
  func dmabuf() throws -> DMABuf {
    switch content {
    case .dmabuf(let dmabuf): return dmabuf
    case .lent(let lent): return lent.dmabuf
    case .ranges(let ranges):
      // The list is checked before the device is opened: its errors do not depend on the host.
      do throws(UdmabufError) {
        _ = try UdmabufDevice.check(ranges, UdmabufLimits(items: .max, bytes: .max))
      } catch {
        throw Self.trouble(error, ranges)
      }
      let device: UdmabufDevice
      do throws(Errno) { device = try UdmabufDevice() } catch { throw Trouble(Self.noDevice(error)) }
      do throws(UdmabufError) {
        return try ranges.count == 1 ? device.create(ranges[0]) : device.create(ranges)
      } catch {
        throw Self.trouble(error, ranges)
      }
    }
  }

  static func noDevice(_ error: Errno) -> String {
    switch error {
    case .noSuchFileOrDirectory, .noSuchAddressOrDevice, .operationNotSupportedByDevice:
      "there is no \(UdmabufDevice.path), which makes dma-bufs of memfds: boot a kernel with CONFIG_UDMABUF "
        + "(Debian 12: linux-image-amd64 from bookworm-backports); udmabridge doctor tells more"
    case .permissionDenied, .notPermitted:
      "\(UdmabufDevice.path) may not be opened by this user: join the group that owns it (kvm on most systems)"
    default: "\(UdmabufDevice.path): \(error)"
    }
  }

  private static func trouble(_ error: UdmabufError, _ ranges: [MemfdRange]) -> Trouble {
    guard let item = error.item, item < ranges.count else { return Trouble("\(error)") }
    return Trouble("\(error) (item \(item) is \(ranges[item]))")
  }

  /// Copies the memory out, in order, piece by piece.
  /// - Parameter limit: of so many bytes nothing behind them is touched.
  func forEachPiece(upTo limit: UInt64 = .max, _ body: ([UInt8]) throws -> Void) throws {
    switch content {
    case .dmabuf(let dmabuf):
      try dmabuf.beginCPUAccess(.read)
      defer { try? dmabuf.endCPUAccess(.read) }
      try Self.pieces(of: dmabuf.map(), upTo: Int(clamping: limit), body)
    case .lent(let lent):
      try lent.access(.read) { mapping in
        try Self.pieces(of: mapping, from: lent.offset, upTo: min(lent.length, Int(clamping: limit)), body)
      }
    case .ranges(let ranges):
      var left = limit
      for range in ranges where left > 0 {
        // Reading a hole of a memfd would allocate pages.
        let part = min(range.length, left)
        left -= part
        guard let length = Int(exactly: part) else { throw Errno.fileTooLarge }
        let mapping = try range.memfd.withDescriptor { fd throws(Errno) in
          try Mapping(fd, offset: range.offset, length: length, writable: false)
        }
        try Self.pieces(of: mapping, upTo: length, body)
      }
    }
  }

  private static func pieces(
    of mapping: Mapping, from first: Int = 0, upTo limit: Int, _ body: ([UInt8]) throws -> Void
  ) throws {
    let (most, end) = (1 << 20, first + min(mapping.length - first, limit))
    for start in stride(from: first, to: end, by: most) {
      try body(mapping.bytes(at: start, count: min(most, end - start)))
    }
  }
}

extension UdmabufError {
  /// The item of the list that the error is about, if any.
  fileprivate var item: Int? {
    switch self {
    case .emptyItem(let item), .offsetMisaligned(let item, _), .lengthMisaligned(let item, _),
      .notMemfd(let item),
      .sealMissing(let item, _), .sealForbidden(let item, _), .pastEnd(let item, _, _), .overflow(let item):
      item
    case .emptyList, .tooManyItems, .tooManyBytes, .kernel: nil
    }
  }
}
