/// The choice between features that exclude each other in stock drivers.
package enum Profile: String, Sendable, CaseIterable {
  /// The guest's buffers are blobs of its own memory, and it may import any dma-buf of its own.
  case display
  /// Memory of the host may be mapped into the guest.
  case share

  var features: UInt64 {
    let both = GPUFeature.edid | GPUFeature.resourceUUID | GPUFeature.resourceBlob | GPUFeature.blobAlignment
    return switch self {
    case .display: both
    case .share: both | GPUFeature.virgl | GPUFeature.contextInit
    }
  }
}
