internal import Buffers
internal import Guest
internal import Linux
internal import Pictures
internal import Scanout
internal import Tracing

// Blobs (virtio 1.3, 5.7.6.8): bytes that host and guest share. Only the command that shows them describes the image.
extension GPUDevice {
  /// `enum virtio_gpu_blob_mem`
  private enum BlobMemory {
    static let guest: UInt32 = 1
    static let host3D: UInt32 = 2
  }

  /// VIRTIO_GPU_BLOB_FLAG_USE_*: mappable, shareable, cross-device. A lent buffer is all of these.
  private static let blobFlags: UInt32 = 0x7

  /// The largest blob, in bytes; no guest has more memory.
  private static let largestBlob: UInt64 = 1 << 46

  /// Checks RESOURCE_CREATE_BLOB before its page list is read.
  func check(_ id: ResourceID, _ blob: BlobRequest, entries: UInt32) throws(Mistake) {
    try resources.checkNew(id)
    guard blob.flags & ~Self.blobFlags == 0 else {
      throw Mistake(
        .invalidParameter, .blob,
        "blob \(id) has flags \(hex(blob.flags)); only \(hex(Self.blobFlags)) are known")
    }
    if blob.memory == BlobMemory.host3D, let region = usableHostRegion {
      return try region.check(id, blob, entries: entries)
    }
    guard blob.memory == BlobMemory.guest else {
      throw Mistake(
        .invalidParameter, .blob,
        "blob \(id) asks for memory \(blob.memory); there is \(BlobMemory.guest), the guest's"
          + (usableHostRegion != nil ? ", and \(BlobMemory.host3D), the host's" : ""))
    }
    let unit = has(GPUFeature.blobAlignment) ? UInt64(ConfigSpace.blobAlignment) : 1
    guard blob.size > 0, blob.size <= Self.largestBlob, blob.size % unit == 0 else {
      throw Mistake(
        .invalidParameter, .size,
        "blob \(id) of \(blob.size) bytes; use a multiple of \(unit), and \(Self.largestBlob) at most")
    }
    do throws(LendError) { try lender.account.checkEntries(UInt64(entries)) } catch {
      throw Mistake(error, resource: id)
    }
  }

  /// A blob without a page list gets its memory by RESOURCE_ATTACH_BACKING.
  func createBlob(
    _ id: ResourceID, _ blob: BlobRequest, _ entries: [GuestRange], _ memory: GuestMemory
  ) throws(Mistake) {
    try resources.add(id) { () throws(Mistake) in
      let isOfHost = blob.memory == BlobMemory.host3D
      trace?.blob(id.rawValue, bytes: blob.size, isOfHost: isOfHost)
      if isOfHost, let region = usableHostRegion { return region.makeBlob(id, blob) }
      let resource = Resource(id: id, blob: blob.size)
      if entries.isEmpty { return resource }
      do throws(Mistake) { try attach(resource, entries, memory) } catch {
        trace?.destroy(id.rawValue)
        throw error
      }
      return resource
    }
  }

  /// Shows an image in a blob, whose layout the command describes, or turns the scanout off.
  func setScanout(
    _ number: ScanoutID, _ id: ResourceID, _ area: Rectangle, _ layout: BlobLayout
  ) throws(Mistake) {
    let scanout = try scanouts.find(number)
    if id.rawValue == 0 { return turnOff(scanout) }
    let resource = try resources.find(id)
    guard resource.image == nil else {
      throw Mistake(
        .invalidParameter, .blob,
        "SET_SCANOUT_BLOB of resource \(id), \(resource.form), which is not a blob; SET_SCANOUT is for images"
      )
    }
    let image = try Resource.image(
      layout.width, layout.height, layout.format, stride: layout.strides[0], offset: layout.offsets[0],
      for: "SET_SCANOUT_BLOB of resource \(id)")
    guard let end = image.end, end <= resource.size else {
      throw Mistake(
        .invalidParameter, .size,
        "SET_SCANOUT_BLOB: the image \(image) ends past resource \(id), \(resource.form)")
    }
    guard area.fits(width: layout.width, height: layout.height) else {
      throw Mistake(
        .invalidParameter, .rectangle,
        "SET_SCANOUT_BLOB: \(area) is not inside the image of \(layout.width)x\(layout.height)")
    }
    try scanouts.show(resource, View(layout: image, source: area), on: scanout, for: "SET_SCANOUT_BLOB")
    trace?.scanout(number.rawValue, id.rawValue, area, in: image)
  }
}
