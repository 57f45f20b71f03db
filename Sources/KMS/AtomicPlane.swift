internal import Scanout

/// A primary plane or a cursor plane for atomic commits: its id and those of its properties.
struct AtomicPlane {
  let id: UInt32
  let properties: PlaneProperties

  /// Nil if the plane lacks a property that every commit needs.
  init?(_ plane: KMSPlane) {
    guard let properties = plane.properties else { return nil }
    (id, self.properties) = (plane.id, properties)
  }

  /// Adds the properties by which the plane shows `source` of a framebuffer, unscaled.
  /// - Parameters:
  ///   - x: the left edge on the CRTC, in the mode's pixels.
  ///   - y: the upper edge.
  func add(
    framebuffer: UInt32, source: Rectangle, x: Int64, y: Int64, on crtc: UInt32, to request: AtomicRequest
  ) {
    request.set(properties.framebuffer, of: id, to: UInt64(framebuffer))
    request.set(properties.crtc, of: id, to: UInt64(crtc))
    // Source coordinates are 16.16 fixed point.
    request.set(properties.sourceX, of: id, to: UInt64(source.x) << 16)
    request.set(properties.sourceY, of: id, to: UInt64(source.y) << 16)
    request.set(properties.sourceWidth, of: id, to: UInt64(source.width) << 16)
    request.set(properties.sourceHeight, of: id, to: UInt64(source.height) << 16)
    request.set(properties.crtcX, of: id, to: UInt64(bitPattern: x))
    request.set(properties.crtcY, of: id, to: UInt64(bitPattern: y))
    request.set(properties.crtcWidth, of: id, to: UInt64(source.width))
    request.set(properties.crtcHeight, of: id, to: UInt64(source.height))
  }

  /// Adds the properties that switch the plane off.
  func addOff(to request: AtomicRequest) {
    request.set(properties.framebuffer, of: id, to: 0)
    request.set(properties.crtc, of: id, to: 0)
  }
}
