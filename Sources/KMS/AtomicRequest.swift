internal import CDRM
internal import SystemPackage

/// The properties of one atomic commit. An output uses one request for all its commits, so that its memory is
/// allocated once.
@safe final class AtomicRequest {
  private let request: drmModeAtomicReqPtr
  private var isComplete = true

  init() throws(Errno) {
    guard let request = unsafe drmModeAtomicAlloc() else { throw .noMemory }
    unsafe self.request = request
  }

  deinit { unsafe drmModeAtomicFree(request) }

  func removeAll() {
    unsafe drmModeAtomicSetCursor(request, 0)
    isComplete = true
  }

  /// - Parameters:
  ///   - property: the property's id.
  ///   - object: the id of a CRTC, connector or plane.
  func set(_ property: UInt32, of object: UInt32, to value: UInt64) {
    if unsafe drmModeAtomicAddProperty(request, object, property, value) < 0 { isComplete = false }
  }

  /// - Parameter tag: comes back with the flip event.
  /// - The corresponding ioctl is `DRM_IOCTL_MODE_ATOMIC`.
  func commit(_ file: DRMFile, flags: UInt32, tag: UInt64 = 0) throws(Errno) {
    guard isComplete else { throw .noMemory }
    let data = unsafe UnsafeMutableRawPointer(bitPattern: UInt(truncatingIfNeeded: tag))
    try file.call { unsafe drmModeAtomicCommit($0, request, flags, data) }
  }
}
