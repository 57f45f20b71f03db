internal import CUdmabuf
public import SystemPackage

/// The seals of a memfd. The corresponding C constants are `F_SEAL_*`.
public struct Seals: OptionSet, Sendable, CustomStringConvertible {
  /// The bits of `F_SEAL_*`.
  public let rawValue: UInt32
  /// Takes the bits of `F_SEAL_*`.
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// No seal can be added.
  public static let seal = Seals(rawValue: CU_F_SEAL_SEAL)
  /// The file cannot become shorter. udmabuf demands it.
  public static let shrink = Seals(rawValue: CU_F_SEAL_SHRINK)
  /// The file cannot become longer.
  public static let grow = Seals(rawValue: CU_F_SEAL_GROW)
  /// Nobody can write. udmabuf refuses it.
  public static let write = Seals(rawValue: CU_F_SEAL_WRITE)
  /// No new mapping can write. udmabuf refuses it.
  public static let futureWrite = Seals(rawValue: CU_F_SEAL_FUTURE_WRITE)

  private static let names: [(Seals, String)] = [
    (.seal, "SEAL"), (.shrink, "SHRINK"), (.grow, "GROW"), (.write, "WRITE"), (.futureWrite, "FUTURE_WRITE"),
  ]

  /// Such as `SHRINK|GROW`.
  public var description: String {
    let set = Seals.names.filter { contains($0.0) }.map(\.1)
    return set.isEmpty ? "none" : set.joined(separator: "|")
  }
}

/// The page size of a memfd's memory.
public enum PageKind: Equatable, Sendable {
  /// The system's ordinary pages.
  case system
  /// Huge pages of this many bytes, a power of two (`MFD_HUGETLB`).
  case huge(UInt64)
}

/// A file in memory, of which guest RAM or a udmabuf consists. All ranges of it share the file, which closes with the
/// last of them.
///
/// A `Memfd` can also be adopted around some other file that a peer sent; `seals()` then throws, and
/// udmabuf will not take it.
public final class Memfd: Sendable {
  private let fd: FD
  /// Device, inode and size when the file was adopted.
  public let status: FileStatus

  /// Adopts a descriptor. Throws what `fstat` throws.
  public init(adopting fd: consuming FD) throws(Errno) {
    status = try fd.status()
    self.fd = fd
  }

  /// Creates a memfd of `size` bytes that can be sealed.
  ///
  /// - Throws: `invalidArgument` for a huge page size that the kernel does not have. Huge pages that are
  ///   not reserved fail only when they are touched or turned into a dma-buf.
  /// - The corresponding C function is `memfd_create`.
  public static func create(
    name: String, size: UInt64, seals: Seals = [], pages: PageKind = .system
  ) throws(Errno) -> Memfd {
    var flags = CU_MFD_CLOEXEC | CU_MFD_ALLOW_SEALING
    if case .huge(let bytes) = pages {
      guard bytes.nonzeroBitCount == 1 else { throw .invalidArgument }
      flags |= CU_MFD_HUGETLB | UInt32(bytes.trailingZeroBitCount) << CU_MFD_HUGE_SHIFT
    }
    let raw = try retrying { unsafe name.withCString { unsafe cu_memfd_create($0, flags) } }
    let fd = FD(adopting: raw)
    guard let length = Int64(exactly: size) else { throw .fileTooLarge }
    _ = try retrying { cu_truncate(raw, length) }
    if !seals.isEmpty { _ = try retrying { cu_add_seals(raw, seals.rawValue) } }
    return try Memfd(adopting: fd)
  }

  /// The seals, or `invalidArgument` if the file is not a memfd. The corresponding call is `F_GET_SEALS`.
  public func seals() throws(Errno) -> Seals {
    Seals(rawValue: UInt32(try fd.withRaw { raw throws(Errno) in try retrying { cu_get_seals(raw) } }))
  }

  /// Adds seals, for good. The corresponding call is `F_ADD_SEALS`.
  public func add(_ seals: Seals) throws(Errno) {
    _ = try fd.withRaw { raw throws(Errno) in try retrying { cu_add_seals(raw, seals.rawValue) } }
  }

  /// Maps the first bytes of a file that another process made. The file must be sealed against becoming shorter.
  /// - Throws: what `checkCannotShrink` throws.
  package func mapForReading(_ size: Int) throws(Errno) -> Mapping {
    guard size > 0 else { throw .invalidArgument }
    try checkCannotShrink(below: UInt64(size))
    return try withDescriptor { fd throws(Errno) in
      try Mapping(fd, offset: 0, length: size, writable: false)
    }
  }

  /// Makes sure that reading the first `size` bytes of a mapping can never end this process by SIGBUS.
  /// - Throws: `invalidArgument` if the file is shorter, or is not a memfd; `notPermitted` if it is not sealed against
  ///   becoming shorter (`F_SEAL_SHRINK`).
  package func checkCannotShrink(below size: UInt64) throws(Errno) {
    // The seal comes first: without it the size could change after it was read.
    guard try seals().contains(.shrink) else { throw .notPermitted }
    guard try currentSize() >= size else { throw .invalidArgument }
  }

  /// The present size in bytes, which other holders can change if the seals allow that.
  public func currentSize() throws(Errno) -> UInt64 { try fd.status().size }

  /// Lends the descriptor.
  public func withDescriptor<Result: ~Copyable, Failure: Error>(
    _ body: (borrowing FD) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try body(fd)
  }
}

/// `length` bytes of `memfd` from `offset` on.
public struct MemfdRange: Sendable, Equatable, CustomStringConvertible {
  /// The file, which the range keeps open.
  public let memfd: Memfd
  /// Where it begins in the file, in bytes.
  public var offset: UInt64
  /// In bytes.
  public var length: UInt64

  /// Checks nothing yet: the call that makes a udmabuf of it does.
  public init(memfd: Memfd, offset: UInt64, length: UInt64) {
    self.memfd = memfd
    self.offset = offset
    self.length = length
  }

  /// Whether both are the same range of the same `Memfd`.
  public static func == (a: MemfdRange, b: MemfdRange) -> Bool {
    a.memfd === b.memfd && a.offset == b.offset && a.length == b.length
  }

  /// Offset, length and the file's inode.
  public var description: String { "\(hex(offset)):\(hex(length)) of memfd inode \(memfd.status.inode)" }
}

/// A number in the form of addresses: `0x1f000`.
package func hex(_ value: some BinaryInteger) -> String { "0x" + String(value, radix: 16) }
