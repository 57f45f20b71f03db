internal import CDRM
internal import Linux
internal import Scanout
internal import SystemPackage
internal import Udmabuf

/// An open graphics card with mode setting, and the facts about it that stay the same while it is open.
///
/// The card closes with the last reference. The kernel then removes its framebuffers, and the screens go dark.
package final class KMSCard {
  /// The name of the card in errors: its path, or `fd:N`.
  package let name: String
  /// The kernel driver, such as `bochs-drm`.
  package let driver: String
  /// Whether atomic commits work. Otherwise the sink uses the legacy calls, which can block in the driver.
  package let isAtomic: Bool
  /// Whether a framebuffer can have a modifier (`DRM_CAP_ADDFB2_MODIFIERS`).
  package let takesModifiers: Bool
  /// Whether the card imports dma-bufs (`DRM_PRIME_CAP_IMPORT`). It may still refuse a certain one.
  package let imports: Bool
  /// Whether the card exports its buffers as dma-bufs (`DRM_PRIME_CAP_EXPORT`).
  package let exports: Bool
  /// Whether the card can allocate dumb buffers (`DRM_CAP_DUMB_BUFFER`).
  package let hasDumbBuffers: Bool
  /// The connectors as they were when the card was opened. A `KMSPipe` has its connector's latest state.
  package let connectors: [KMSConnector]
  /// The ids of the CRTCs; a CRTC's index is its place here.
  package let crtcs: [UInt32]
  /// Planes of every kind, overlays too.
  package let planes: [KMSPlane]
  /// The size of the card's cursors.
  let cursorSize: PixelSize
  /// Whether a guest's cursor fits into one of the card's.
  var takesCursorImages: Bool {
    cursorSize.holds(PixelSize(width: CursorImage.side, height: CursorImage.side))
  }
  /// The device number, by which the kernel's announcements name the card.
  let number: DeviceNumber?
  let file: DRMFile
  /// Why the kernel would give the device copies of imported memory, as the end of a sentence that begins with the
  /// device; nil if nothing says so. `DMAReach` or `tryImport` sets it. The card then imports nothing.
  var bouncing: String?
  var bounces: Bool { bouncing != nil }
  /// The device for the next `tryImport`, after a trial that could make no dma-buf, such as while udmabuf's size
  /// limit is 0.
  var importTrial: UdmabufDevice?

  /// Drivers that accept a part of a framebuffer and then show the framebuffer from its first pixel on, as seen on
  /// Linux 6.12 and 7.3. They copy the framebuffer to video memory unchanged, and scan out from the start of the
  /// copy.
  private static let showFromStart: Set = ["bochs-drm", "cirrus", "cirrus-qemu"]

  /// Whether the driver shows a framebuffer from its first pixel on, whatever part is requested.
  var showsFromStartOnly: Bool { Self.showFromStart.contains(driver) }

  package var cursorPlanes: Int { planes.count { $0.kind == .cursor } }

  init(_ file: DRMFile, name: String, atomic: Bool) throws(KMSError) {
    self.file = file
    self.name = name
    guard let driver = try? file.driver() else { throw .noModeSetting(card: name) }
    self.driver = driver
    // These two come before the list of planes: without them the kernel hides planes and properties.
    _ = try? file.enable(client: DRM_CLIENT_CAP_UNIVERSAL_PLANES)
    isAtomic = atomic && (try? file.enable(client: DRM_CLIENT_CAP_ATOMIC)) != nil
    // Virtual GPUs show their cursor plane only to clients that set this capability.
    if isAtomic { _ = try? file.enable(client: DRM_CLIENT_CAP_CURSOR_PLANE_HOTSPOT) }
    func side(_ capability: Int32) -> UInt32 {
      let side = file.capability(capability)
      return side == 0 ? CursorImage.side : UInt32(clamping: side)
    }
    cursorSize = PixelSize(width: side(DRM_CAP_CURSOR_WIDTH), height: side(DRM_CAP_CURSOR_HEIGHT))
    number = try? file.withFD { fd throws(Errno) in try fd.status().number }
    bouncing = number.flatMap { [driver] in DMAReach($0).shortfall(of: driver) }
    takesModifiers = file.capability(DRM_CAP_ADDFB2_MODIFIERS) != 0
    let prime = file.capability(DRM_CAP_PRIME)
    imports = prime & UInt64(DRM_PRIME_CAP_IMPORT) != 0
    exports = prime & UInt64(DRM_PRIME_CAP_EXPORT) != 0
    hasDumbBuffers = file.capability(DRM_CAP_DUMB_BUFFER) != 0
    guard let resources = try? file.resources() else {
      (connectors, crtcs, planes) = ([], [], [])
      return
    }
    do throws(Errno) {
      crtcs = resources.crtcs
      var connectors: [KMSConnector] = []
      // A connector can vanish between the two calls, as those of a dock do.
      for id in resources.connectors {
        if let connector = try? file.connector(id) { connectors.append(connector) }
      }
      self.connectors = connectors
      var planes: [KMSPlane] = []
      for id in try file.planes() { planes.append(try file.plane(id)) }
      self.planes = planes
    } catch { throw .call("listing its planes", card: name, error) }
  }
}
