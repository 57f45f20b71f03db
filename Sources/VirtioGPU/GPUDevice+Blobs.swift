internal import Buffers
internal import Guest
internal import Linux
internal import Pictures
internal import Scanout

// Blobs (virtio 1.3, 5.7.6.8): bytes that host and guest share. What they mean is said when they are shown.
extension GPUDevice {
  /// What a blob's size is a multiple of, in bytes: a dma-buf is made of whole pages.
  static var blobAlignment: UInt32 { UInt32(systemPageSize) }

  /// `enum virtio_gpu_blob_mem`
  private enum BlobMemory {
    static let guest: UInt32 = 1
    static let host3D: UInt32 = 2
  }

  /// VIRTIO_GPU_BLOB_FLAG_USE_*: mappable, shareable, cross-device. All that they ask for a lent buffer has.
  private static let blobFlags: UInt32 = 0x7

  /// Checks what RESOURCE_CREATE_BLOB asks for, before its page list is read.
  func admit(_ id: ResourceID, _ blob: BlobRequest, entries: UInt32) throws(Mistake) {
    try checkNew(id)
    guard blob.flags & ~Self.blobFlags == 0 else {
      throw Mistake(
        .invalidParameter, "blob", "blob \(id) has flags \(hex(blob.flags)); there are \(hex(Self.blobFlags))"
      )
    }
    if blob.memory == BlobMemory.host3D, mapsHostMemory { return try admitHost(id, blob, entries: entries) }
    guard blob.memory == BlobMemory.guest else {
      throw Mistake(
        .invalidParameter, "blob",
        "blob \(id) is to be of memory \(blob.memory); there is \(BlobMemory.guest), the guest's"
          + (mapsHostMemory ? ", and \(BlobMemory.host3D), the host's" : ""))
    }
    let unit = has(Feature.blobAlignment) ? UInt64(Self.blobAlignment) : 1
    guard blob.size > 0, blob.size <= Self.largestBlob, blob.size % unit == 0 else {
      throw Mistake(
        .invalidParameter, "size",
        "blob \(id) of \(blob.size) bytes; it has a multiple of \(unit), and \(Self.largestBlob) at most")
    }
    do throws(LendError) { try buffers.admitEntries(UInt64(entries)) } catch { throw refusal(error, id) }
  }

  /// No guest has more memory.
  private static let largestBlob: UInt64 = 1 << 46

  /// Without a page list it is given its memory by RESOURCE_ATTACH_BACKING.
  func createBlob(
    _ id: ResourceID, _ blob: BlobRequest, _ entries: [GuestRange], _ memory: GuestMemory
  ) throws(Mistake) {
    do throws(LendError) { try buffers.admitResource() } catch { throw refusal(error, id) }
    if blob.memory == BlobMemory.host3D {
      resources[id] = hostBlob(id, blob)
      return
    }
    let resource = Resource(id: id, blob: blob.size)
    if !entries.isEmpty {
      do throws(Mistake) { try attach(resource, entries, memory) } catch {
        buffers.dismissResource()
        throw error
      }
    }
    resources[id] = resource
  }

  /// Shows an image that lies in a blob as the command says, or turns the scanout off.
  func setScanout(
    _ scanout: ScanoutID, _ id: ResourceID, _ area: Rectangle, _ layout: BlobLayout
  ) throws(Mistake) {
    try check(scanout)
    if id.rawValue == 0 { return turnOff(Int(scanout.rawValue)) }
    let resource = try resource(id)
    guard resource.image == nil else {
      throw Mistake(
        .invalidParameter, "blob",
        "SET_SCANOUT_BLOB of resource \(id), \(resource.form); SET_SCANOUT is for those")
    }
    guard let format = Resource.format(layout.format) else {
      throw Mistake(
        .invalidParameter, "format",
        "SET_SCANOUT_BLOB: there is no format \(layout.format); virtio-gpu has 1, 2, 3, 4, 67, 68, 121 and 134"
      )
    }
    guard (1...65535).contains(layout.width), (1...65535).contains(layout.height) else {
      throw Mistake(
        .invalidParameter, "size",
        "SET_SCANOUT_BLOB of \(layout.width)x\(layout.height) pixels; the limit is 65535x65535")
    }
    guard layout.strides[0] >= layout.width * 4 else {
      throw Mistake(
        .invalidParameter, "stride",
        "SET_SCANOUT_BLOB: rows of \(layout.width) pixels do not fit a stride of \(layout.strides[0]) bytes")
    }
    let image = FrameLayout(
      width: layout.width, height: layout.height, format: format, stride: layout.strides[0],
      offset: layout.offsets[0])
    guard let end = image.end, end <= resource.size else {
      throw Mistake(
        .invalidParameter, "size",
        "SET_SCANOUT_BLOB: the image \(image) ends past resource \(id), \(resource.form)")
    }
    guard area.fits(width: layout.width, height: layout.height) else {
      throw Mistake(
        .invalidParameter, "rectangle",
        "SET_SCANOUT_BLOB: \(area) is not inside the image of \(layout.width)x\(layout.height)")
    }
    try show(resource, View(layout: image, source: area), scanout, "SET_SCANOUT_BLOB")
  }
}
