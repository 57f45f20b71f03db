public import SystemPackage

/// The kernel's limits on one udmabuf, which are module parameters.
///
/// Root can write both in `/sys/module/udmabuf/parameters`. The kernel's command line sets them by
/// `udmabuf.list_limit=` and `udmabuf.size_limit_mb=`.
public struct UdmabufLimits: Equatable, Sendable {
  /// The directory of the module parameters.
  public static let directory: FilePath = "/sys/module/udmabuf/parameters"

  /// `list_limit`: items in one list.
  public var items: UInt64
  /// `size_limit_mb`, in bytes: the sum of all items.
  public var bytes: UInt64

  /// Takes limits from another source.
  public init(items: UInt64, bytes: UInt64) {
    self.items = items
    self.bytes = bytes
  }

  /// Reads the kernel's limits. For a kernel without readable parameters, the driver's first limits are taken: 1024 items
  /// and 64 MiB.
  public static func current() -> UdmabufLimits {
    UdmabufLimitFiles().read()
  }
}

/// The parameter files, held open, so that the limits can be read again in the sandbox.
struct UdmabufLimitFiles: ~Copyable {
  private let items = try? FD.open(UdmabufLimits.directory.appending("list_limit"), writable: false)
  private let megabytes = try? FD.open(UdmabufLimits.directory.appending("size_limit_mb"), writable: false)

  borrowing func read() -> UdmabufLimits {
    UdmabufLimits(
      items: number(items) ?? 1024,
      bytes: (number(megabytes) ?? 64).multipliedReportingOverflow(by: 1 << 20).0)
  }

  private borrowing func number(_ file: borrowing FD?) -> UInt64? {
    guard let bytes = try? file?.read(upTo: 32, at: 0) else { return nil }
    return UInt64(String(decoding: bytes.prefix { $0 != 0x0a }, as: UTF8.self))
  }
}
