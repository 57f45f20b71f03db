/// The feature bits of the device (virtio 1.3, 5.7.3: VIRTIO_GPU_F_*).
enum Feature {
  static let virgl: UInt64 = 1 << 0
  static let edid: UInt64 = 1 << 1
  static let resourceUUID: UInt64 = 1 << 2
  static let resourceBlob: UInt64 = 1 << 3
  static let contextInit: UInt64 = 1 << 4
  static let blobAlignment: UInt64 = 1 << 5
}

/// Which of the features that exclude each other in stock drivers the guest is offered.
package enum Profile: String, Sendable, CaseIterable {
  /// The guest's buffers are blobs of its own memory, and it may import any dma-buf of its own.
  case display
  /// Memory of the host may be mapped into the guest.
  case share

  var features: UInt64 {
    let both = Feature.edid | Feature.resourceUUID | Feature.resourceBlob | Feature.blobAlignment
    return switch self {
    case .display: both
    case .share: both | Feature.virgl | Feature.contextInit
    }
  }
}
