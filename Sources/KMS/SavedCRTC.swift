internal import CDRM
internal import SystemPackage

/// The state of a CRTC before our first mode, to be restored at the end.
struct SavedCRTC {
  private let crtc: drmModeCrtc
  /// The ids of the connectors that the CRTC drove.
  private let connectors: [UInt32]

  init(_ pipe: KMSPipe, _ file: DRMFile) throws(Errno) {
    crtc = try file.crtc(pipe.crtc)
    let own = pipe.connector.currentCRTC == pipe.crtc ? [pipe.connector.id] : []
    connectors = own + pipe.strayConnectors
  }

  /// Restores the state. If the CRTC showed nothing or the framebuffer is gone, the CRTC is switched off. Waits for
  /// the card. The corresponding ioctl is `DRM_IOCTL_MODE_SETCRTC`.
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
