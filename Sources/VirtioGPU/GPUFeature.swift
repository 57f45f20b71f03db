/// The feature bits of the device (virtio 1.3, 5.7.3: VIRTIO_GPU_F_*).
enum GPUFeature {
  static let virgl: UInt64 = 1 << 0
  static let edid: UInt64 = 1 << 1
  static let resourceUUID: UInt64 = 1 << 2
  static let resourceBlob: UInt64 = 1 << 3
  static let contextInit: UInt64 = 1 << 4
  static let blobAlignment: UInt64 = 1 << 5
}
