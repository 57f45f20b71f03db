internal import Buffers
internal import Scanout

/// An image of the guest: what RESOURCE_CREATE_2D made, and the memory that it was given since.
final class Resource {
  let id: ResourceID
  let layout: FrameLayout
  /// The guest memory behind it, and the picture that a sink can show of it; both or none.
  private(set) var backing: (buffer: Buffer, frame: Frame)?
  /// Its last backing, on its way back to the guest; nil once it is there.
  weak var release: Release?
  /// Where a sink has already agreed to show which part of it.
  private(set) var prepared: [(scanout: ScanoutID, source: Rectangle)] = []

  init(id: ResourceID, layout: FrameLayout) {
    (self.id, self.layout) = (id, layout)
  }

  /// The bytes that the image takes in the guest's memory. `init`'s caller saw to it that this fits.
  var size: UInt64 { UInt64(layout.stride) * UInt64(layout.height) }

  func attach(_ buffer: Buffer, frame: Frame) { backing = (buffer, frame) }

  func detach() -> (buffer: Buffer, frame: Frame)? {
    prepared = []
    return backing.take()
  }

  func isPrepared(_ scanout: ScanoutID, _ source: Rectangle) -> Bool {
    prepared.contains { $0.scanout == scanout && $0.source == source }
  }

  /// Remembers the last few places: a guest shows a buffer in one or two, however often.
  func notePrepared(_ scanout: ScanoutID, _ source: Rectangle) {
    if prepared.count == 16 { prepared.removeFirst() }
    prepared.append((scanout, source))
  }

  /// The virtio formats (5.7.6.8: `enum virtio_gpu_formats`), named by the order of bytes in memory, and what
  /// DRM calls the same.
  static func format(_ virtio: UInt32) -> FourCC? {
    switch virtio {
    case 1: .argb8888  // B8G8R8A8_UNORM
    case 2: .xrgb8888  // B8G8R8X8_UNORM
    default: nil
    }
  }
}
