/// What one guest may use of the host. What exceeds it is answered with the spec's out-of-memory error.
package struct Quotas: Equatable, Sendable {
  /// Resources that exist at once.
  package var resources = 1024
  /// Bytes of guest memory that dma-bufs pin at once.
  package var pinnedBytes: UInt64 = 4096 << 20
  /// Entries in one page list.
  package var entries = 16384
  /// Bytes that this process spends on keeping account of resources and their page lists.
  package var bookkeepingBytes: UInt64 = 64 << 20
  /// Bytes of memory that copies of the guest's pictures take at once.
  package var shadowBytes: UInt64 = 1024 << 20

  /// Descriptors that this process may have open (`RLIMIT_NOFILE`). Each lent buffer takes one, and a copy
  /// that is not the card's one or two.
  package var descriptors = Int.max

  /// Those that buffers and copies may take.
  package var ownDescriptors: Int { descriptors - Self.reservedDescriptors }

  /// Of `descriptors`, those that buffers leave free: QEMU sends some with its messages at any time, and what
  /// does not fit then would end the connection.
  package static let reservedDescriptors = 32

  package init() {}
}
