/// What one guest may use of the host. What exceeds it is answered with the spec's out-of-memory error.
public struct Quotas: Equatable, Sendable {
  /// Resources that exist at once.
  public var resources = 1024
  /// Bytes of guest memory that dma-bufs pin at once.
  public var pinnedBytes: UInt64 = 4096 << 20
  /// Entries in one page list.
  public var entries = 16384
  /// Bytes that this process spends on keeping account of resources and their page lists.
  public var bookkeepingBytes: UInt64 = 64 << 20
  /// Bytes of memory that copies of the guest's pictures take at once.
  public var shadowBytes: UInt64 = 1024 << 20

  /// Descriptors that this process may have open (`RLIMIT_NOFILE`). Each lent buffer takes one, and a copy
  /// that is not the card's one or two.
  public var descriptors = Int.max

  /// Those that buffers and copies may take.
  public var ownDescriptors: Int { descriptors - Self.reservedDescriptors }

  /// Of `descriptors`, those that buffers leave free: QEMU sends some with its messages at any time, and what
  /// does not fit then would end the connection.
  public static let reservedDescriptors = 32

  public init() {}
}
