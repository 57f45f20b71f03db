package import Buffers
package import Linux

/// Memory of the host that a guest may map and show.
package final class HostOffer {
  /// By which the guest asks for it (`blob_id`); not 0.
  package let id: UInt64
  /// In bytes, whole pages. A blob of it is of exactly this size.
  package var size: UInt64 { buffer.size }
  /// How it is shown, and read.
  let buffer: Buffer
  let isWritable: Bool
  /// So many blobs of it exist at most at once.
  let limit: Int
  var uses = 0
  private let fd: FD

  /// - Parameters:
  ///   - fd: a memfd or a dma-buf, of which the front end gets a descriptor of its own with each mapping: it can
  ///     read and write all of it, whatever `isWritable` allows the guest.
  ///   - limit: so many blobs of it may exist at once.
  package init(id: UInt64, _ fd: consuming FD, _ buffer: Buffer, isWritable: Bool, limit: Int) {
    precondition(buffer.size > 0 && buffer.size % systemPageSize == 0, "whole pages are mapped")
    (self.id, self.buffer, self.isWritable, self.limit) = (id, buffer, isWritable, limit)
    self.fd = fd
  }

  func withDescriptor<Failure: Error>(_ body: (borrowing FD) throws(Failure) -> Void) throws(Failure) {
    try body(fd)
  }
}

/// The region in which memory of the host is mapped into the guest, and what there is to be mapped.
package struct HostMemory {
  /// VIRTIO_GPU_SHM_ID_HOST_VISIBLE: the region's number.
  package static let region: UInt8 = 1

  /// In bytes, whole pages.
  package let size: UInt64
  package let offers: [HostOffer]

  package init(size: UInt64, offers: [HostOffer]) {
    precondition(size > 0 && size % systemPageSize == 0, "the region has whole pages")
    (self.size, self.offers) = (size, offers)
  }
}
