internal import CDRM
internal import Scanout
internal import SystemPackage

/// A pipe for atomic commits: the ids of its objects and of their properties.
struct AtomicPipe {
  let crtc: UInt32
  let plane: AtomicPlane
  private let connector: UInt32
  /// Properties of the CRTC: whether it is on (`ACTIVE`), and the blob of its mode (`MODE_ID`).
  private let active, mode: UInt32
  /// Property of the connector: the CRTC that drives it (`CRTC_ID`).
  private let route: UInt32
  /// Other connectors and planes that use the CRTC. The first mode takes them off it.
  private let strayConnectors: [(id: UInt32, route: UInt32)]
  private let strayPlanes: [AtomicPlane]

  /// - Throws: `notSupported` if an object lacks a property that every commit needs.
  init(_ pipe: KMSPipe, _ file: DRMFile) throws(Errno) {
    let ofCRTC = try file.properties(of: pipe.crtc, DRM_MODE_OBJECT_CRTC)
    let ofConnector = try file.properties(of: pipe.connector.id, DRM_MODE_OBJECT_CONNECTOR)
    guard let active = ofCRTC["ACTIVE"]?.id, let mode = ofCRTC["MODE_ID"]?.id,
      let route = ofConnector["CRTC_ID"]?.id, let plane = AtomicPlane(pipe.plane)
    else { throw .notSupported }
    (crtc, connector, self.plane) = (pipe.crtc, pipe.connector.id, plane)
    (self.active, self.mode, self.route) = (active, mode, route)
    var strays: [(UInt32, UInt32)] = []
    for id in pipe.strayConnectors {
      let properties = try file.properties(of: id, DRM_MODE_OBJECT_CONNECTOR)
      if let route = properties["CRTC_ID"]?.id { strays.append((id, route)) }
    }
    (strayConnectors, strayPlanes) = (strays, pipe.strayPlanes.compactMap { AtomicPlane($0) })
  }

  /// Adds a mode and its connector, and takes stray connectors and planes off.
  /// - Parameter blob: the mode's blob.
  func addMode(blob: UInt32, to request: AtomicRequest) {
    request.set(active, of: crtc, to: 1)
    request.set(mode, of: crtc, to: UInt64(blob))
    request.set(route, of: connector, to: UInt64(crtc))
    addStraysOff(to: request)
  }

  /// Adds the primary plane's picture and its place.
  func add(_ content: PipeContent, to request: AtomicRequest) {
    plane.add(
      framebuffer: content.framebuffer, source: content.source, x: Int64(content.setting.x),
      y: Int64(content.setting.y), on: crtc, to: request)
  }

  /// Adds the properties that switch the CRTC off.
  func addOff(to request: AtomicRequest) {
    request.set(active, of: crtc, to: 0)
    request.set(mode, of: crtc, to: 0)
    request.set(route, of: connector, to: 0)
    plane.addOff(to: request)
    addStraysOff(to: request)
  }

  private func addStraysOff(to request: AtomicRequest) {
    for stray in strayConnectors { request.set(stray.route, of: stray.id, to: 0) }
    for stray in strayPlanes { stray.addOff(to: request) }
  }
}
