internal import Buffers
internal import Guest
internal import Linux
internal import Scanout
internal import Virtio

/// An image of the guest: what RESOURCE_CREATE_2D made, and the memory that it was given since.
final class Resource {
  let id: ResourceID
  /// How the image lies in the guest's memory.
  let layout: FrameLayout
  /// The name under which other devices find it, once the guest asked for one.
  var uuid: ObjectUUID?
  /// The guest memory behind it.
  private(set) var buffer: Buffer?
  /// The picture of the guest's own pages, if they are lent.
  private(set) var lent: Frame?
  /// What transfers brought, once one came from elsewhere in the guest's memory than from its own place.
  var store: PixelStore?
  /// Its last backing, on its way back to the guest; nil once it is there.
  weak var release: Release?
  /// What a sink has already agreed to show, where, and of which part.
  private(set) var pictures: [(scanout: ScanoutID, source: Rectangle, picture: Picture)] = []

  /// A guest shows a buffer in one or two places, however often.
  private static let maxPictures = 32

  init(id: ResourceID, layout: FrameLayout) {
    (self.id, self.layout) = (id, layout)
  }

  /// The bytes that the image takes in the guest's memory. `init`'s caller saw to it that this fits.
  var size: UInt64 { UInt64(layout.stride) * UInt64(layout.height) }

  /// What a copy is made from.
  var bytes: ByteSource? { store?.bytes ?? buffer?.bytes }

  func attach(_ buffer: Buffer, lent: Frame?) { (self.buffer, self.lent) = (buffer, lent) }

  /// It is lent after all.
  func lend(_ frame: Frame) { lent = frame }

  func detach() {
    (buffer, lent, store) = (nil, nil, nil)
  }

  /// The picture for a place that `wanted` agrees to.
  func picture(_ scanout: ScanoutID, _ source: Rectangle, where wanted: (Picture) -> Bool) -> Picture? {
    pictures.first { $0.scanout == scanout && $0.source == source && wanted($0.picture) }?.picture
  }

  /// - Returns: pictures that are not remembered any more.
  func remember(_ picture: Picture, _ scanout: ScanoutID, _ source: Rectangle) -> [Picture] {
    pictures.append((scanout, source, picture))
    return pictures.count > Self.maxPictures ? [pictures.removeFirst().picture] : []
  }

  /// Forgets the pictures for this scanout, or for all, that `wanted` agrees to.
  /// - Returns: these.
  func forgetPictures(
    on scanout: ScanoutID? = nil, where wanted: (Picture) -> Bool = { _ in true }
  ) -> [Picture] {
    let isGone = { (entry: (scanout: ScanoutID, source: Rectangle, picture: Picture)) in
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

/// An image of a resource in memory of our own.
final class PixelStore {
  let bytes: ByteSource
  let mapping: Mapping

  init(_ mapping: Mapping) {
    self.mapping = mapping
    bytes = ByteSource([GuestWindow(mapping: mapping, start: 0, length: mapping.length)])
  }
}
