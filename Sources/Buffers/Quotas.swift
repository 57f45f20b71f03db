/// The limits on one guest's use of the host. A command that exceeds them gets the spec's out-of-memory error.
package struct Quotas: Equatable, Sendable {
  /// The most resources at once.
  package var resources = 1024
  /// The most bytes of guest memory that dma-bufs pin at once.
  package var pinnedBytes: UInt64 = 4096 << 20
  /// The most entries in one page list.
  package var entries = 16384
  /// The most bytes of this process's bookkeeping for resources and their page lists.
  package var bookkeepingBytes: UInt64 = 64 << 20
  /// The most bytes of copies of the guest's pictures at once.
  package var shadowBytes: UInt64 = 1024 << 20

  /// The descriptors that this process may have open (`RLIMIT_NOFILE`). Each lent buffer takes one. A copy that is not in
  /// the card's memory takes one or two.
  package var descriptors = Int.max

  /// The descriptors that buffers and copies may take.
  package var ownDescriptors: Int { descriptors - Self.reservedDescriptors }

  /// The descriptors that buffers leave free. QEMU may send some with a message at any time, and the connection would end
  /// if they did not fit.
  package static let reservedDescriptors = 32

  package init() {}
}
