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
  /// The host took the offer back: the guest has a blob without memory.
  var isTakenBack = false
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
  private(set) var wasTransferred = false
  /// Its last backing, on its way back to the guest; nil once it is there.
  weak var pageReturn: PageReturn?
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

  /// The guest transfers this part of the image. Copies take it over at the next flush.
  func noteTransfer(_ area: Rectangle) {
    wasTransferred = true
    for (_, _, picture) in pictures {
      if case .shadow(let shadow) = picture { shadow.transferred = shadow.transferred.union(area) }
    }
  }
}
