internal import CDRM
internal import Scanout
internal import SystemPackage

// What the commits of an output are made of.
extension KMSOutput {
  // MARK: Atomic

  /// Fills a commit that shows `source`: the framebuffer and what changed in it where nothing else is new, and
  /// all of it otherwise.
  /// - Parameter cursor: whether the cursor is told with it.
  /// - Returns: the commit's flags.
  func fillFlip(
    _ request: AtomicRequest, _ framebuffer: UInt32, _ source: Rectangle, _ setting: Setting,
    _ damage: Rectangle, from state: State, cursor told: Bool
  ) throws(Errno) -> UInt32 {
    var flags = UInt32(DRM_MODE_ATOMIC_NONBLOCK) | UInt32(DRM_MODE_PAGE_FLIP_EVENT)
    if case .on(setting, source, _) = state, let plane = pipe.plane.properties {
      request.add(pipe.plane.id, plane.framebuffer, UInt64(framebuffer))
      let part = damage.intersection(source)
      if let property = plane.damage, !part.isEmpty, part != source, let blob = blob(ofDamage: part) {
        request.add(pipe.plane.id, property, UInt64(blob))
      }
    } else {
      var modeset = true
      if case .on(let last, _, _) = state, last.mode.mode == setting.mode.mode { modeset = false }
      try fill(request, framebuffer, source, setting, route: modeset)
      if modeset {
        flags |= UInt32(DRM_MODE_ATOMIC_ALLOW_MODESET)
        // Whoever was here before may have left one.
        if !told { cursor?.fillOff(request) }
      }
    }
    if told { cursor?.fill(request, setting) }
    return flags
  }

  /// Everything that a pipe needs to show something; with `route`, the mode and the connector too.
  func fill(
    _ request: AtomicRequest, _ framebuffer: UInt32, _ source: Rectangle, _ setting: Setting, route: Bool
  ) throws(Errno) {
    guard let plane = pipe.plane.properties, let properties else { throw .notSupported }
    if route {
      request.add(pipe.crtc, properties.active, 1)
      request.add(pipe.crtc, properties.mode, UInt64(try blob(of: setting.mode)))
      request.add(pipe.connector.id, properties.connector, UInt64(pipe.crtc))
      removeStrays(request)
    }
    let id = pipe.plane.id
    request.add(id, plane.framebuffer, UInt64(framebuffer))
    request.add(id, plane.crtc, UInt64(pipe.crtc))
    // Source coordinates have 16 bits behind the point.
    request.add(id, plane.sourceX, UInt64(source.x) << 16)
    request.add(id, plane.sourceY, UInt64(source.y) << 16)
    request.add(id, plane.sourceWidth, UInt64(source.width) << 16)
    request.add(id, plane.sourceHeight, UInt64(source.height) << 16)
    request.add(id, plane.crtcX, UInt64(setting.x))
    request.add(id, plane.crtcY, UInt64(setting.y))
    request.add(id, plane.crtcWidth, UInt64(source.width))
    request.add(id, plane.crtcHeight, UInt64(source.height))
  }

  func fillOff(_ request: AtomicRequest) {
    request.removeAll()
    guard let plane = pipe.plane.properties, let properties else { return }
    request.add(pipe.crtc, properties.active, 0)
    request.add(pipe.crtc, properties.mode, 0)
    request.add(pipe.connector.id, properties.connector, 0)
    request.add(pipe.plane.id, plane.framebuffer, 0)
    request.add(pipe.plane.id, plane.crtc, 0)
    cursor?.fillOff(request)
    removeStrays(request)
  }

  private func removeStrays(_ request: AtomicRequest) {
    for stray in strays { request.add(stray.connector, stray.property, 0) }
    for stray in pipe.strayPlanes {
      guard let properties = stray.properties else { continue }
      request.add(stray.id, properties.framebuffer, 0)
      request.add(stray.id, properties.crtc, 0)
    }
  }

  /// A blob of the mode; the last one if it is the same.
  private func blob(of mode: KMSMode) throws(Errno) -> UInt32 {
    if let modeBlob, modeBlob.mode == mode.mode { return modeBlob.id }
    dropModeBlob()
    let id = try file.createBlob(mode.raw)
    modeBlob = (mode.mode, id)
    return id
  }

  /// What is shown keeps the mode that it was made of.
  func dropModeBlob() {
    if let modeBlob { file.destroyBlob(modeBlob.id) }
    modeBlob = nil
  }

  /// A blob that says what changed; the last one if it says the same. Without one the whole plane is new.
  private func blob(ofDamage rectangle: Rectangle) -> UInt32? {
    if let damageBlob, damageBlob.rectangle == rectangle { return damageBlob.id }
    dropDamage()
    let clip = drm_mode_rect(
      x1: Int32(clamping: rectangle.x), y1: Int32(clamping: rectangle.y),
      x2: Int32(clamping: rectangle.x + rectangle.width), y2: Int32(clamping: rectangle.y + rectangle.height))
    guard let id = try? file.createBlob(clip) else { return nil }
    damageBlob = (rectangle, id)
    return id
  }

  func dropDamage() {
    if let damageBlob { file.destroyBlob(damageBlob.id) }
    damageBlob = nil
  }

  // MARK: The older calls

  func showLegacy(
    _ framebuffer: UInt32, _ source: Rectangle, _ setting: Setting, _ damage: Rectangle, _ tag: UInt64
  ) throws(Errno) -> Completion {
    if case .on(setting, source, let shown) = state {
      if shown == framebuffer {
        let part = damage.intersection(source)
        // A driver without this call shows what is in memory anyway.
        do throws(Errno) { try markDirty(framebuffer, part.isEmpty ? source : part) } catch .noFunction {}
        return .now
      }
      let data = unsafe UnsafeMutableRawPointer(bitPattern: UInt(truncatingIfNeeded: tag))
      do throws(Errno) {
        try file.call {
          unsafe drmModePageFlip($0, pipe.crtc, framebuffer, UInt32(DRM_MODE_PAGE_FLIP_EVENT), data)
        }
        return .event
      } catch .resourceBusy { throw .resourceBusy } catch {
        // Not every two framebuffers can be flipped between; the mode can be set anew.
      }
    }
    var (info, connector) = (setting.mode.raw, pipe.connector.id)
    try file.call {
      unsafe drmModeSetCrtc($0, pipe.crtc, framebuffer, source.x, source.y, &connector, 1, &info)
    }
    return .now
  }

  private func markDirty(_ framebuffer: UInt32, _ part: Rectangle) throws(Errno) {
    var clip = drm_clip_rect(
      x1: UInt16(clamping: part.x), y1: UInt16(clamping: part.y), x2: UInt16(clamping: part.x + part.width),
      y2: UInt16(clamping: part.y + part.height))
    try file.call { unsafe drmModeDirtyFB($0, framebuffer, &clip, 1) }
  }
}
