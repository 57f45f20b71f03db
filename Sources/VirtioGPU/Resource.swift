internal import Buffers
internal import Guest
internal import Linux
internal import Pictures
internal import Scanout
internal import Virtio

/// An image of the guest, or a blob: what a create command made, and the memory that it was given since.
final class Resource {
  let id: ResourceID
  /// What RESOURCE_CREATE_2D said of the image; nil for a blob, in which each SET_SCANOUT_BLOB says it anew.
  let image: FrameLayout?
  /// The bytes that it takes in the guest's memory.
  let size: UInt64
  /// The memory of the host behind it, for a blob of such.
  let offer: HostOffer?
  /// It may be mapped into the guest (VIRTIO_GPU_BLOB_FLAG_USE_MAPPABLE).
  let isMappable: Bool
  /// Where it is in the guest's shared memory region.
  var mapping: HostMapping?
  /// The name under which other devices find it, once the guest asked for one.
  var uuid: ObjectUUID?
  /// The guest memory behind it.
  private(set) var buffer: Buffer?
  /// The guest's own pages, if they are lent, as they have been shown: one for each layout.
  private(set) var frames: [Frame] = []
  /// Its bytes in memory of ours: what transfers brought, once one came from elsewhere in the guest's memory than from
  /// its own place; or what was in its backing when the guest took that back.
  var store: PixelStore?
  /// Something was transferred to it, which stays in it without its backing.
  var wasTransferred = false
  /// Its last backing, on its way back to the guest; nil once it is there.
  weak var release: Release?
  /// What a sink has already agreed to show, and where.
  private(set) var pictures: [(scanout: ScanoutID, view: View, picture: Picture)] = []

  /// A guest shows a buffer in one or two places, however often.
  private static let maxPictures = 32

  /// An image, whose size the caller has checked.
  init(id: ResourceID, image: FrameLayout) {
    (self.id, self.image, offer, isMappable) = (id, image, nil, false)
    size = UInt64(image.stride) * UInt64(image.height)
  }

  init(id: ResourceID, blob size: UInt64, offer: HostOffer? = nil, isMappable: Bool = false) {
    (self.id, image, self.size) = (id, nil, size)
    (self.offer, self.isMappable, buffer) = (offer, isMappable, offer?.buffer)
  }

  /// What it is, for people.
  var form: String {
    image.map { "\($0.width)x\($0.height) pixels" } ?? "a blob of \(size) bytes"
  }

  /// What a copy is made from.
  var bytes: ByteSource? { store?.bytes ?? buffer?.bytes }

  func attach(_ buffer: Buffer) { (self.buffer, wasTransferred) = (buffer, false) }

  func add(_ frame: Frame) { frames.append(frame) }

  /// Takes out the frames that `wanted` agrees to, and the pictures of them.
  func removeFrames(where wanted: (Frame) -> Bool) -> [Frame] {
    let gone = frames.filter(wanted)
    frames.removeAll { frame in gone.contains { $0 === frame } }
    pictures.removeAll { entry in gone.contains { $0 === entry.picture.frame } }
    return gone
  }

  func detach() { (buffer, frames) = (nil, []) }

  /// The picture for a place that `wanted` agrees to.
  func picture(_ scanout: ScanoutID, _ view: View, where wanted: (Picture) -> Bool) -> Picture? {
    pictures.first { $0.scanout == scanout && $0.view == view && wanted($0.picture) }?.picture
  }

  /// - Returns: pictures that are not remembered any more.
  func remember(_ picture: Picture, _ scanout: ScanoutID, _ view: View) -> [Picture] {
    pictures.append((scanout, view, picture))
    return pictures.count > Self.maxPictures ? [pictures.removeFirst().picture] : []
  }

  /// Forgets the pictures for this scanout, or for all, that `wanted` agrees to.
  /// - Returns: these.
  func forgetPictures(
    on scanout: ScanoutID? = nil, where wanted: (Picture) -> Bool = { _ in true }
  ) -> [Picture] {
    let isGone = { (entry: (scanout: ScanoutID, view: View, picture: Picture)) in
      (scanout == nil || scanout == entry.scanout) && wanted(entry.picture)
    }
    let gone = pictures.filter(isGone).map(\.picture)
    pictures.removeAll(where: isGone)
    return gone
  }

  /// The virtio formats (virtio 1.3, 5.7.6.8: `enum virtio_gpu_formats`), named by the order of bytes in memory,
  /// and what DRM calls the same.
  static func format(_ virtio: UInt32) -> FourCC? {
    switch virtio {
    case 1: .argb8888  // B8G8R8A8_UNORM
    case 2: .xrgb8888  // B8G8R8X8_UNORM
    case 3: .bgra8888  // A8R8G8B8_UNORM
    case 4: .bgrx8888  // X8R8G8B8_UNORM
    case 67: .abgr8888  // R8G8B8A8_UNORM
    case 68: .rgbx8888  // X8B8G8R8_UNORM
    case 121: .rgba8888  // A8B8G8R8_UNORM
    case 134: .xbgr8888  // R8G8B8X8_UNORM
    default: nil
    }
  }
}

/// The bytes of a resource in memory of our own.
final class PixelStore {
  let bytes: ByteSource
  let mapping: Mapping
  /// Why pictures are copied from here.
  let cause: ShadowCause

  init(_ mapping: Mapping, _ cause: ShadowCause) {
    (self.mapping, self.cause) = (mapping, cause)
    bytes = ByteSource([GuestWindow(mapping: mapping, start: 0, length: mapping.length)])
  }
}
