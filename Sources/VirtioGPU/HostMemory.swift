package import Buffers
internal import Linux

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
