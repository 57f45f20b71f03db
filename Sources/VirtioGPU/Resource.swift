internal import Buffers
internal import Guest
internal import Linux
internal import Pictures
internal import Scanout
internal import Virtio

/// An image of the guest, or a blob, with the memory that it was given since its creation.
final class Resource {
  let id: ResourceID
  /// The image of RESOURCE_CREATE_2D; nil for a blob, whose image each SET_SCANOUT_BLOB describes.
  let image: FrameLayout?
  /// The bytes that it takes in the guest's memory.
  let size: UInt64
  /// The memory of the host behind it, for a blob of such.
  let offer: HostOffer?
  /// Whether the host took the offer back, so that the blob has no memory.
  var isTakenBack = false
  /// Whether it may be mapped into the guest (VIRTIO_GPU_BLOB_FLAG_USE_MAPPABLE).
  let isMappable: Bool
  /// Its place in the guest's shared memory region.
  var mapping: HostMapping?
  /// The name by which other devices find it, once the guest asked for one.
  var uuid: ObjectUUID?
  /// The guest memory behind it.
  private(set) var buffer: Buffer?
  /// The frames of the guest's own pages, if they are lent: one for each layout that was shown.
  private(set) var frames: [Frame] = []
  /// Its bytes in memory of ours. They exist after a transfer from another place than the image's own, or after the guest
  /// took the backing back.
  var store: PixelStore?
  /// Whether bytes were transferred to it, which stay in it without its backing.
  private(set) var wasTransferred = false
  /// Its last backing, while that is on its way back to the guest.
  weak var pageReturn: PageReturn?
  /// The pictures that a sink has agreed to show, and where.
  private(set) var pictures: [(scanout: ScanoutID, view: View, picture: Picture)] = []

  /// A guest shows a buffer in only one or two places.
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

  /// A description for people.
  var form: String {
    image.map { "\($0.width)x\($0.height) pixels" } ?? "a blob of \(size) bytes"
  }

  /// The bytes for a copy.
  var bytes: ByteSource? { store?.bytes ?? buffer?.bytes }

  func attach(_ buffer: Buffer) { (self.buffer, wasTransferred) = (buffer, false) }

  func add(_ frame: Frame) { frames.append(frame) }

  /// Removes the frames for which `wanted` is true, and their pictures.
  func removeFrames(where wanted: (Frame) -> Bool) -> [Frame] {
    let gone = frames.filter(wanted)
    frames.removeAll { frame in gone.contains { $0 === frame } }
    pictures.removeAll { entry in gone.contains { $0 === entry.picture.frame } }
    return gone
  }

  func detach() { (buffer, frames) = (nil, []) }

  /// The picture for a place for which `wanted` is true.
  func picture(_ scanout: ScanoutID, _ view: View, where wanted: (Picture) -> Bool) -> Picture? {
    pictures.first { $0.scanout == scanout && $0.view == view && wanted($0.picture) }?.picture
  }

  /// - Returns: the pictures that were forgotten.
  func remember(_ picture: Picture, _ scanout: ScanoutID, _ view: View) -> [Picture] {
    pictures.append((scanout, view, picture))
    return pictures.count > Self.maxPictures ? [pictures.removeFirst().picture] : []
  }

  /// Forgets the pictures of this scanout, or of all, for which `wanted` is true.
  /// - Returns: these pictures.
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

  /// The guest transferred this part of the image. Copies take it over at the next flush.
  func noteTransfer(_ area: Rectangle) {
    wasTransferred = true
    for (_, _, picture) in pictures {
      if case .shadow(let shadow) = picture { shadow.transferred = shadow.transferred.union(area) }
    }
  }
}
