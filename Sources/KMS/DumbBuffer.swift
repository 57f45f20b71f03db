internal import CDRM
internal import Linux
package import Scanout
package import SystemPackage
package import Udmabuf

/// A buffer of the card's driver, for pixels that the CPU writes. It is all zero at first. The last reference frees
/// it; a framebuffer of it keeps the memory.
package final class DumbBuffer: ShadowMemory {
  /// All of the buffer, writable.
  package let mapping: Mapping
  /// Bytes from one row to the next.
  package let stride: UInt32
  package var isDMABuf: Bool { true }
  /// The card's number for the buffer (a GEM handle), closed with it.
  let handle: UInt32
  let card: DRMFile

  /// Always true: the buffer has a handle, and no descriptor.
  package func isBelow(_ bound: Int) -> Bool { true }

  /// Allocates and maps 32 bits for each pixel.
  /// - The corresponding ioctls are `DRM_IOCTL_MODE_CREATE_DUMB` and `DRM_IOCTL_MODE_MAP_DUMB`.
  init(_ size: PixelSize, of card: DRMFile) throws(Errno) {
    var (handle, stride, bytes, place) = (UInt32(0), UInt32(0), UInt64(0), UInt64(0))
    try card.call {
      unsafe drmModeCreateDumbBuffer($0, size.width, size.height, 32, 0, &handle, &stride, &bytes)
    }
    (self.handle, self.stride, self.card) = (handle, stride, card)
    do throws(Errno) {
      try card.call { unsafe drmModeMapDumbBuffer($0, handle, &place) }
      mapping = try card.withFD { card throws(Errno) in
        try Mapping(card, offset: place, length: Int(bytes), writable: true)
      }
    } catch {
      // `deinit` does not run if `init` throws.
      _ = try? card.call { drmCloseBufferHandle($0, handle) }
      throw error
    }
  }

  deinit { _ = try? card.call { drmCloseBufferHandle($0, handle) } }

  /// A dma-buf of the same memory. The caller owns the descriptor.
  /// - The corresponding ioctl is `DRM_IOCTL_PRIME_HANDLE_TO_FD`.
  package func descriptor() throws(Errno) -> FD {
    var number: CInt = -1
    try card.call { unsafe drmPrimeHandleToFD($0, handle, UInt32(DRM_CLOEXEC | DRM_RDWR), &number) }
    return FD(adopting: number)
  }
}

extension KMSCard {
  /// Allocates a buffer of the card for pixels of 32 bits. Returns its dma-buf, and the bytes from one row to the
  /// next. The buffer lives as long as the dma-buf.
  ///
  /// - Throws: `other` if the card cannot.
  package func share(width: UInt32, height: UInt32) throws(SinkError) -> (dmabuf: DMABuf, stride: UInt32) {
    let size = PixelSize(width: width, height: height)
    let buffer = try allocate(size)
    do throws(Errno) { return (try DMABuf(adopting: buffer.descriptor()), buffer.stride) } catch {
      throw SinkError(.other, "\(name) (\(driver)) cannot export a buffer of \(size) pixels: \(error)")
    }
  }

  /// Allocates a buffer of the card for pixels of 32 bits.
  ///
  /// - Throws: `other` if the card cannot.
  func allocate(_ size: PixelSize) throws(SinkError) -> DumbBuffer {
    do throws(Errno) { return try DumbBuffer(size, of: file) } catch {
      throw SinkError(.other, "\(name) (\(driver)) cannot allocate a buffer of \(size) pixels: \(error)")
    }
  }
}
