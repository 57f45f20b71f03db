internal import Scanout

/// A plane as atomic commits name it, for the primary plane and the cursor plane alike.
struct AtomicPlane {
  let id: UInt32
  let properties: PlaneProperties

  /// Nil if the plane lacks a property that every commit needs.
  init?(_ plane: KMSPlane) {
    guard let properties = plane.properties else { return nil }
    (id, self.properties) = (plane.id, properties)
  }

  /// Adds that the plane shows `source` of a framebuffer, pixel by pixel.
  /// - Parameters:
  ///   - x: where the left edge is on the CRTC, in the mode's pixels.
  ///   - y: where the upper edge is.
  func add(
    framebuffer: UInt32, source: Rectangle, x: Int64, y: Int64, on crtc: UInt32, to request: AtomicRequest
  ) {
    request.set(properties.framebuffer, of: id, to: UInt64(framebuffer))
    request.set(properties.crtc, of: id, to: UInt64(crtc))
    // Source coordinates have 16 bits behind the point.
    request.set(properties.sourceX, of: id, to: UInt64(source.x) << 16)
    request.set(properties.sourceY, of: id, to: UInt64(source.y) << 16)
    request.set(properties.sourceWidth, of: id, to: UInt64(source.width) << 16)
    request.set(properties.sourceHeight, of: id, to: UInt64(source.height) << 16)
    request.set(properties.crtcX, of: id, to: UInt64(bitPattern: x))
    request.set(properties.crtcY, of: id, to: UInt64(bitPattern: y))
    request.set(properties.crtcWidth, of: id, to: UInt64(source.width))
    request.set(properties.crtcHeight, of: id, to: UInt64(source.height))
  }

  /// Adds that the plane shows nothing.
  func addOff(to request: AtomicRequest) {
    request.set(properties.framebuffer, of: id, to: 0)
    request.set(properties.crtc, of: id, to: 0)
  }
}
