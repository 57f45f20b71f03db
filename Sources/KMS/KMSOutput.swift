internal import CDRM
internal import Scanout
internal import SystemPackage

/// One pipe, what it was last told to show, and the calls that tell it.
///
/// It makes sure of nothing that the kernel checks: a call that cannot be done throws and changes nothing.
final class KMSOutput {
  /// What the CRTC was last told.
  enum State: Equatable {
    /// Not by us, or the kernel switched it off.
    case unknown
    case off
    case on(mode: Int, source: Rectangle, framebuffer: UInt32)
  }

  /// Whether a call has taken effect already or a flip event will tell.
  enum Completion { case now, event }

  let pipe: KMSPipe
  let modes: [KMSMode]
  private let card: KMSCard
  private var file: DRMFile { card.file }
  private let request: AtomicRequest?
  private let properties: (active: UInt32, mode: UInt32, connector: UInt32)?
  private let strays: [(connector: UInt32, property: UInt32)]
  private let saved: SavedCRTC
  private(set) var state = State.unknown
  private var modeBlobs: [Int: UInt32] = [:]
  private var damageBlob: (rectangle: Rectangle, id: UInt32)?
  /// The mode for each size that a test has accepted.
  private var accepted: [PixelSize: Int] = [:]

  init(_ pipe: KMSPipe, of card: KMSCard) throws(KMSError) {
    (self.pipe, self.card) = (pipe, card)
    modes = pipe.connector.usableModes
    do throws(Errno) {
      saved = try SavedCRTC(pipe, card.file)
      guard card.isAtomic else {
        (request, properties, strays) = (nil, nil, [])
        return
      }
      let crtc = try card.file.properties(of: pipe.crtc, DRM_MODE_OBJECT_CRTC)
      let connector = try card.file.properties(of: pipe.connector.id, DRM_MODE_OBJECT_CONNECTOR)
      guard let active = crtc["ACTIVE"]?.id, let mode = crtc["MODE_ID"]?.id,
        let route = connector["CRTC_ID"]?.id, pipe.plane.properties != nil
      else { throw .notSupported }
      properties = (active, mode, route)
      var strays: [(UInt32, UInt32)] = []
      for id in pipe.strayConnectors {
        let properties = try card.file.properties(of: id, DRM_MODE_OBJECT_CONNECTOR)
        if let route = properties["CRTC_ID"]?.id { strays.append((id, route)) }
      }
      self.strays = strays
      request = try AtomicRequest()
    } catch {
      throw .call("reading the properties of \(pipe.connector.name)", card: card.name, error)
    }
  }

  /// Modes of this size, the best one first.
  private func candidates(_ size: PixelSize) -> [Int] {
    if let known = accepted[size] { return [known] }
    return modes.indices.filter { modes[$0].size == size }
  }

  func hasMode(_ size: PixelSize) -> Bool { !candidates(size).isEmpty }

  // MARK: Calls

  /// Asks whether the pipe could show `source` of a framebuffer, in a mode of that size; changes nothing.
  ///
  /// The older calls cannot be asked: every mode is accepted there.
  /// - Throws: what the kernel answered to the last mode of that size.
  func test(_ framebuffer: UInt32, _ source: Rectangle) throws(Errno) {
    let size = PixelSize(width: source.width, height: source.height)
    var failure = Errno.invalidArgument
    for mode in candidates(size) {
      do throws(Errno) {
        if let request {
          request.removeAll()
          try fill(request, framebuffer, source, mode: mode, route: true)
          try request.commit(
            file, flags: UInt32(DRM_MODE_ATOMIC_TEST_ONLY) | UInt32(DRM_MODE_ATOMIC_ALLOW_MODESET))
        }
        accepted[size] = mode
        return
      } catch { failure = error }
    }
    throw failure
  }

  /// Forgets which modes were accepted, as when the framebuffers that were asked about are not those to come.
  func forgetTests() { accepted.removeAll() }

  /// Shows `source` of a framebuffer. Does not wait, but where only the older calls work.
  /// - Throws: `resourceBusy` if the card is not done with something else; try again.
  func show(
    _ framebuffer: UInt32, _ source: Rectangle, damage: Rectangle, tag: UInt64
  ) throws(Errno) -> Completion {
    guard let mode = candidates(PixelSize(width: source.width, height: source.height)).first else {
      throw .invalidArgument
    }
    let completion: Completion
    if let request {
      try flip(request, framebuffer, source, mode, damage, tag)
      completion = .event
    } else {
      completion = try showLegacy(framebuffer, source, mode, damage, tag)
    }
    state = .on(mode: mode, source: source, framebuffer: framebuffer)
    return completion
  }

  /// Switches the CRTC off. Does not wait, but where only the older calls work.
  /// - Throws: `resourceBusy` if the card is not done with something else; try again.
  func turnOff(tag: UInt64) throws(Errno) -> Completion {
    if state == .off { return .now }
    var completion = Completion.now
    if let request {
      fillOff(request)
      let flags = UInt32(DRM_MODE_ATOMIC_NONBLOCK) | UInt32(DRM_MODE_ATOMIC_ALLOW_MODESET)
      do throws(Errno) {
        try request.commit(file, flags: flags | UInt32(DRM_MODE_PAGE_FLIP_EVENT), tag: tag)
        completion = .event
      } catch .invalidArgument {
        // A CRTC that is off already sends no event, and the kernel refuses to promise one.
        try request.commit(file, flags: flags)
      }
    } else {
      try file.call { drmModeSetCrtc($0, pipe.crtc, 0, 0, 0, nil, 0, nil) }
    }
    state = .off
    return completion
  }

  /// What it shows is not known any more: its framebuffer was removed, or a commit was refused.
  func wentDark() { state = .unknown }

  /// Puts back what was shown before. Waits for the card.
  func restore() {
    saved.restore(file)
    state = .unknown
    for blob in modeBlobs.values { file.destroyBlob(blob) }
    modeBlobs.removeAll()
    dropDamage()
  }

  // MARK: Atomic

  private func flip(
    _ request: AtomicRequest, _ framebuffer: UInt32, _ source: Rectangle, _ mode: Int, _ damage: Rectangle,
    _ tag: UInt64
  ) throws(Errno) {
    var flags = UInt32(DRM_MODE_ATOMIC_NONBLOCK) | UInt32(DRM_MODE_PAGE_FLIP_EVENT)
    request.removeAll()
    if case .on(mode, source, _) = state, let plane = pipe.plane.properties {
      request.add(pipe.plane.id, plane.framebuffer, UInt64(framebuffer))
      let part = damage.intersection(source)
      if let property = plane.damage, !part.isEmpty, part != source, let blob = blob(ofDamage: part) {
        request.add(pipe.plane.id, property, UInt64(blob))
      }
    } else {
      var modeset = true
      if case .on(mode, _, _) = state { modeset = false }
      try fill(request, framebuffer, source, mode: mode, route: modeset)
      if modeset { flags |= UInt32(DRM_MODE_ATOMIC_ALLOW_MODESET) }
    }
    try request.commit(file, flags: flags, tag: tag)
  }

  /// Everything that a pipe needs to show something; with `route`, the mode and the connector too.
  private func fill(
    _ request: AtomicRequest, _ framebuffer: UInt32, _ source: Rectangle, mode: Int, route: Bool
  ) throws(Errno) {
    guard let plane = pipe.plane.properties, let properties else { throw .notSupported }
    if route {
      request.add(pipe.crtc, properties.active, 1)
      request.add(pipe.crtc, properties.mode, UInt64(try blob(ofMode: mode)))
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
    request.add(id, plane.crtcX, 0)
    request.add(id, plane.crtcY, 0)
    request.add(id, plane.crtcWidth, UInt64(source.width))
    request.add(id, plane.crtcHeight, UInt64(source.height))
  }

  private func fillOff(_ request: AtomicRequest) {
    request.removeAll()
    guard let plane = pipe.plane.properties, let properties else { return }
    request.add(pipe.crtc, properties.active, 0)
    request.add(pipe.crtc, properties.mode, 0)
    request.add(pipe.connector.id, properties.connector, 0)
    request.add(pipe.plane.id, plane.framebuffer, 0)
    request.add(pipe.plane.id, plane.crtc, 0)
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

  private func blob(ofMode mode: Int) throws(Errno) -> UInt32 {
    if let known = modeBlobs[mode] { return known }
    let id = try file.createBlob(modes[mode].raw)
    modeBlobs[mode] = id
    return id
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

  private func dropDamage() {
    if let damageBlob { file.destroyBlob(damageBlob.id) }
    damageBlob = nil
  }

  // MARK: The older calls

  private func showLegacy(
    _ framebuffer: UInt32, _ source: Rectangle, _ mode: Int, _ damage: Rectangle, _ tag: UInt64
  ) throws(Errno) -> Completion {
    if case .on(mode, source, let shown) = state {
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
    var (info, connector) = (modes[mode].raw, pipe.connector.id)
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
