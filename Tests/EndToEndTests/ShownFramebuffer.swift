import CDRM
import Linux
import SystemPackage
import TestSupport
import Udmabuf

/// What the test host's card shows, asked of the kernel by a process that has nothing to do with the helper.
struct ShownFramebuffer {
  let width, height, stride: Int
  let fourcc: UInt32
  /// The memory behind it, as the kernel exports it.
  let dmabuf: DMABuf

  /// The framebuffer on the first CRTC that has one; nil if the screen is dark.
  static func current() throws -> ShownFramebuffer? {
    guard let card = directoryEntries("/dev/dri").first(where: { $0.hasPrefix("card") }) else {
      throw TroubleInTest("there is no card")
    }
    return try FD.open(FilePath("/dev/dri").appending(card), writable: true).withRaw { fd in
      guard let resources = unsafe drmModeGetResources(fd) else { throw TroubleInTest("no resources") }
      defer { unsafe drmModeFreeResources(resources) }
      for index in 0..<Int(unsafe resources.pointee.count_crtcs) {
        guard let crtc = unsafe drmModeGetCrtc(fd, resources.pointee.crtcs[index]) else { continue }
        defer { unsafe drmModeFreeCrtc(crtc) }
        let id = unsafe crtc.pointee.buffer_id
        if id == 0 { continue }
        guard let framebuffer = unsafe drmModeGetFB2(fd, id) else {
          throw TroubleInTest("no framebuffer \(id)")
        }
        defer { unsafe drmModeFreeFB2(framebuffer) }
        let handle = unsafe framebuffer.pointee.handles.0
        guard handle != 0 else { throw TroubleInTest("the kernel does not show the buffer; are we root?") }
        defer { _ = drmCloseBufferHandle(fd, handle) }
        var exported: CInt = -1
        guard unsafe drmPrimeHandleToFD(fd, handle, UInt32(DRM_CLOEXEC), &exported) == 0 else {
          throw TroubleInTest("the framebuffer's memory cannot be exported")
        }
        return unsafe ShownFramebuffer(
          width: Int(framebuffer.pointee.width), height: Int(framebuffer.pointee.height),
          stride: Int(framebuffer.pointee.pitches.0), fourcc: framebuffer.pointee.pixel_format,
          dmabuf: try DMABuf(adopting: FD(adopting: exported)))
      }
      return nil
    }
  }

  /// A copy of the image's bytes.
  func bytes() throws -> [UInt8] {
    try dmabuf.beginCPUAccess(.read)
    defer { try? dmabuf.endCPUAccess(.read) }
    return try dmabuf.map().bytes(at: 0, count: stride * height)
  }
}
