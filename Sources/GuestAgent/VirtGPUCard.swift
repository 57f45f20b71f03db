internal import CVirtGPU
package import Linux
package import SystemPackage

/// A card by its render node.
package final class VirtGPUCard: GuestCard {
  /// The driver's name in the kernel.
  package static let driver = "virtio_gpu"

  private let node: DeviceNode
  package let handles: CardHandles
  /// Whether the device takes blobs: buffers of any size, and buffers of other drivers.
  private let hasBlobs: Bool

  /// An open device file, which the card and its handles share.
  private final class DeviceNode {
    let fd: FD
    init(_ fd: consuming FD) { self.fd = fd }

    @discardableResult func call(_ body: (CInt) -> CInt) throws(Errno) -> CInt {
      try fd.withRaw { raw throws(Errno) in try retrying { body(raw) } }
    }
  }

  /// Opens a render node.
  /// - Returns: nil for another driver's node.
  package init?(_ path: FilePath) throws(Errno) {
    let node = DeviceNode(try FD.open(path, writable: true, nonblocking: true))
    var name = InlineArray<32, UInt8>(repeating: 0)
    let length = try node.call { raw in
      var span = name.mutableSpan
      return unsafe span.withUnsafeMutableBytes { bytes in
        unsafe vg_driver(raw, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count)
      }
    }
    guard (0..<Int(length)).map({ name[$0] }).elementsEqual(Self.driver.utf8) else { return nil }
    var blobs: CInt = 0
    // A kernel without blobs does not know the parameter.
    _ = try? node.call { unsafe vg_get_param($0, VG_PARAM_RESOURCE_BLOB, &blobs) }
    hasBlobs = blobs != 0
    self.node = node
    handles = CardHandles { handle in _ = try? node.call { vg_close($0, handle) } }
  }

  package var isThere: Bool {
    var value: CInt = 0
    do throws(Errno) {
      try node.call { unsafe vg_get_param($0, VG_PARAM_3D_FEATURES, &value) }
      return true
    } catch { return error != .operationNotSupportedByDevice }
  }

  package func makeBuffer(_ size: UInt64) throws(Errno) -> CardBuffer {
    var (handle, resource): (UInt32, UInt32) = (0, 0)
    if hasBlobs {
      let size = try Self.pages(size)
      try node.call { unsafe vg_create_blob($0, size, &handle, &resource) }
      return try handles.buffer(handle) { () throws(Errno) in (resource, size, true) }
    }
    guard let shape = FlatShape(size) else { throw .fileTooLarge }
    try node.call { unsafe vg_create_2d($0, shape.width, shape.height, shape.size, &handle, &resource) }
    return try handles.buffer(handle) { () throws(Errno) in (resource, UInt64(shape.size), true) }
  }

  package func receive(_ offer: UInt64, size: UInt64) throws(Errno) -> CardBuffer {
    var (handle, resource): (UInt32, UInt32) = (0, 0)
    try node.call { unsafe vg_create_host_blob($0, offer, size, &handle, &resource) }
    let buffer = try handles.buffer(handle) { () throws(Errno) in (resource, size, true) }
    // The driver has asked the host to map it, and waits for the answer where it is mapped in turn.
    _ = try map(buffer)
    return buffer
  }

  private static func pages(_ size: UInt64) throws(Errno) -> UInt64 {
    guard size > 0, size <= 1 << 53 else { throw .fileTooLarge }
    return wholePages(size)
  }

  package func importBuffer(_ dmabuf: borrowing FD) throws(Errno) -> CardBuffer {
    var handle: UInt32 = 0
    let number = dmabuf.withRaw { $0 }
    try node.call { unsafe vg_import($0, number, &handle) }
    let size = try dmabuf.seekToEnd()
    return try handles.buffer(handle) { () throws(Errno) in
      var (resource, ignored): (UInt32, UInt32) = (0, 0)
      try node.call { unsafe vg_resource_info($0, handle, &resource, &ignored) }
      // The driver maps only its own buffers.
      var offset: UInt64 = 0
      let isOwn = (try? node.call { unsafe vg_map($0, handle, &offset) }) != nil
      return (resource, size, isOwn)
    }
  }

  package func export(_ buffer: CardBuffer) throws(Errno) -> FD {
    FD(adopting: try node.call { vg_export($0, buffer.handle) })
  }

  package func map(_ buffer: CardBuffer) throws(Errno) -> Mapping {
    var offset: UInt64 = 0
    try node.call { unsafe vg_map($0, buffer.handle, &offset) }
    guard let length = Int(exactly: buffer.size) else { throw .fileTooLarge }
    return try Mapping(node.fd, offset: offset, length: length, writable: true)
  }
}

/// An image of four bytes a pixel with exactly the bytes of a buffer, for devices whose only buffers are images.
package struct FlatShape: Equatable {
  /// In pixels; the device takes 65535 at most.
  package let width, height: UInt32
  /// The size in bytes, whole pages: the wanted one, or somewhat more.
  package let size: UInt32

  private static let longest: UInt64 = 65535

  /// Nil for no bytes, or for more than such an image can have.
  package init?(_ bytes: UInt64) {
    guard bytes > 0, bytes <= UInt64(UInt32.max) else { return nil }
    let pages = wholePages(bytes) / systemPageSize
    let pagesInRow = (pages + Self.longest - 1) / Self.longest
    let rows = (pages + pagesInRow - 1) / pagesInRow
    let width = pagesInRow * systemPageSize / 4
    guard width <= Self.longest, let size = UInt32(exactly: rows * pagesInRow * systemPageSize) else {
      return nil
    }
    (self.width, self.height, self.size) = (UInt32(width), UInt32(rows), size)
  }
}

/// Allocates a dma-buf from a dma-heap, such as `system`. The caller owns it.
/// The corresponding ioctl is `DMA_HEAP_IOCTL_ALLOC`.
package func allocate(_ size: UInt64, fromHeap name: String) throws(Errno) -> FD {
  let heap = try FD.open(FilePath("/dev/dma_heap").appending(name), writable: false)
  return FD(
    adopting: try heap.withRaw { raw throws(Errno) in try retrying { vg_heap_alloc(raw, wholePages(size)) } })
}
