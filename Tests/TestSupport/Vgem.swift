internal import CDRM
internal import Glibc
package import Linux
internal import SystemPackage

/// A device that reads buffers for as long as it is told to: vgem, whose fences a program signals itself.
package final class Vgem {
  private let file: FD
  private var handles: [UInt32] = []

  /// `struct drm_vgem_fence_attach` and `struct drm_vgem_fence_signal` of `drm/vgem_drm.h`.
  private struct FenceAttach { var (handle, flags, fence, padding): (UInt32, UInt32, UInt32, UInt32) }
  private struct FenceSignal { var (fence, flags): (UInt32, UInt32) }
  /// DRM_VGEM_FENCE_ATTACH and DRM_VGEM_FENCE_SIGNAL
  private static let (attach, signal): (UInt, UInt) = (1, 2)

  /// The first card of that driver (`qemu/boot-host --vgem`).
  package init() throws {
    for number in 0..<8 {
      guard let card = try? FD.open(FilePath("/dev/dri/card\(number)"), writable: true) else { continue }
      let isVgem = card.withRaw { raw in
        guard let version = unsafe drmGetVersion(raw) else { return false }
        defer { unsafe drmFreeVersion(version) }
        return unsafe String(cString: version.pointee.name) == "vgem"
      }
      if isVgem {
        file = card
        return
      }
    }
    throw TroubleInTest("there is no card of vgem")
  }

  /// Takes a dma-buf in and begins to read it.
  /// - Returns: the fence's number.
  package func read(_ dmabuf: borrowing FD) throws -> UInt32 {
    var request = FenceAttach(handle: 0, flags: 0, fence: 0, padding: 0)
    try call { card in
      dmabuf.withRaw { raw in unsafe drmPrimeFDToHandle(card, raw, &request.handle) }
    }
    handles.append(request.handle)
    try call { card in
      unsafe drmCommandWriteRead(card, Self.attach, &request, UInt(MemoryLayout<FenceAttach>.size))
    }
    return request.fence
  }

  /// It has read.
  package func finish(_ fence: UInt32) throws {
    var request = FenceSignal(fence: fence, flags: 0)
    try call { card in
      unsafe drmCommandWrite(card, Self.signal, &request, UInt(MemoryLayout<FenceSignal>.size))
    }
  }

  private func call(_ body: (CInt) -> CInt) throws {
    let result = file.withRaw(body)
    if result != 0 { throw TroubleInTest("vgem: \(Errno(rawValue: errno))") }
  }
}
