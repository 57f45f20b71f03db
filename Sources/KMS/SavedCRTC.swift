internal import CDRM
internal import SystemPackage

/// The state of a CRTC before the first mode of ours, to be put back at the end.
struct SavedCRTC {
  private let crtc: drmModeCrtc
  /// The ids of the connectors that showed it.
  private let connectors: [UInt32]

  init(_ pipe: KMSPipe, _ file: DRMFile) throws(Errno) {
    crtc = try file.crtc(pipe.crtc)
    let own = pipe.connector.currentCRTC == pipe.crtc ? [pipe.connector.id] : []
    connectors = own + pipe.strayConnectors
  }

  /// Shows it again, or nothing if nothing was shown or the framebuffer is gone. Waits for the card.
  /// The corresponding ioctl is `DRM_IOCTL_MODE_SETCRTC`.
  func restore(_ file: DRMFile) {
    var (mode, connectors) = (crtc.mode, connectors)
    if crtc.mode_valid != 0, crtc.buffer_id != 0, !connectors.isEmpty {
      let shown = try? file.call {
        unsafe drmModeSetCrtc(
          $0, crtc.crtc_id, crtc.buffer_id, crtc.x, crtc.y, &connectors, CInt(connectors.count), &mode)
      }
      if shown != nil { return }
    }
    _ = try? file.call { drmModeSetCrtc($0, crtc.crtc_id, 0, 0, 0, nil, 0, nil) }
  }
}
