internal import CDRM
internal import Scanout
internal import SystemPackage

/// Mode setting by atomic commits. The card tests or takes each commit as a whole, and no commit waits for the card.
final class AtomicModeSetting: ModeSetting {
  private let file: DRMFile
  private let pipe: AtomicPipe
  private let request: AtomicRequest
  private let cursorPlane: AtomicCursor?
  private var modeBlob = KeptBlob<DisplayMode>()
  private var damageBlob = KeptBlob<Rectangle>()

  /// - Throws: `notSupported` if an object lacks a property that every commit needs.
  init(_ pipe: KMSPipe, of card: KMSCard) throws(Errno) {
    file = card.file
    self.pipe = try AtomicPipe(pipe, card.file)
    request = try AtomicRequest()
    cursorPlane = AtomicCursor(pipe, of: card)
  }

  var cursor: KMSCursor? { cursorPlane?.cursor }
  var canTest: Bool { true }

  func test(_ content: PipeContent, withCursor: Bool) throws(Errno) {
    request.removeAll()
    try addMode(of: content)
    pipe.add(content, to: request)
    if withCursor { cursorPlane?.addTrial(to: request) } else { cursorPlane?.addOff(to: request) }
    try request.commit(
      file, flags: UInt32(DRM_MODE_ATOMIC_TEST_ONLY) | UInt32(DRM_MODE_ATOMIC_ALLOW_MODESET))
  }

  // MARK: The picture

  func show(
    _ next: PipeContent, after current: PipeContent?, damage: Rectangle, tag: UInt64
  ) throws(Errno) -> Completion {
    func attempt(after current: PipeContent?, withCursor: Bool) throws(Errno) {
      let flags = try fill(next, after: current, damage: damage, withCursor: withCursor)
      try request.commit(file, flags: flags, tag: tag)
      if withCursor { cursor?.wasTold() }
    }
    do throws(Errno) {
      do throws(Errno) {
        try attempt(after: current, withCursor: current == nil || cursor?.isDirty ?? false)
      } catch {
        // Another DRM master may have changed the state meanwhile: set everything anew.
        guard error.isRefusal, current != nil else { throw error }
        try attempt(after: nil, withCursor: true)
      }
    } catch {
      // The card may refuse only the cursor.
      guard error.isRefusal, let cursor, cursor.isDirty else { throw error }
      try attempt(after: nil, withCursor: false)
      cursor.giveUp()
    }
    return .event
  }

  /// Fills the request. If `current` differs only in the framebuffer, the request has the framebuffer and its damage.
  /// Otherwise the request has the whole plane, and the mode if that differs.
  /// - Returns: the commit's flags.
  private func fill(
    _ next: PipeContent, after current: PipeContent?, damage: Rectangle, withCursor: Bool
  ) throws(Errno) -> UInt32 {
    request.removeAll()
    var flags = UInt32(DRM_MODE_ATOMIC_NONBLOCK) | UInt32(DRM_MODE_PAGE_FLIP_EVENT)
    if let current, current.setting == next.setting, current.source == next.source {
      let (plane, properties) = (pipe.plane.id, pipe.plane.properties)
      request.set(properties.framebuffer, of: plane, to: UInt64(next.framebuffer))
      let part = damage.intersection(next.source)
      if let property = properties.damage, !part.isEmpty, part != next.source, let blob = blob(of: part) {
        request.set(property, of: plane, to: UInt64(blob))
      }
    } else {
      let needsMode = current?.setting.mode.mode != next.setting.mode.mode
      if needsMode { try addMode(of: next) }
      pipe.add(next, to: request)
      if needsMode {
        flags |= UInt32(DRM_MODE_ATOMIC_ALLOW_MODESET)
        // The last DRM master may have left a cursor.
        if !withCursor { cursorPlane?.addOff(to: request) }
      }
    }
    if withCursor { cursorPlane?.add(to: request, in: next.setting) }
    return flags
  }

  private func addMode(of content: PipeContent) throws(Errno) {
    let mode = content.setting.mode
    pipe.addMode(blob: try modeBlob.id(of: mode.mode, as: mode.raw, in: file), to: request)
  }

  /// Nil if there is no memory for the blob; the card then takes the whole plane as changed.
  private func blob(of damage: Rectangle) -> UInt32? {
    let clip = drm_mode_rect(
      x1: Int32(clamping: damage.x), y1: Int32(clamping: damage.y),
      x2: Int32(clamping: damage.x + damage.width), y2: Int32(clamping: damage.y + damage.height))
    return try? damageBlob.id(of: damage, as: clip, in: file)
  }

  // MARK: The cursor alone

  func showCursor(in setting: Setting, tag: UInt64) throws(Errno) -> Completion {
    guard let cursorPlane else { return .now }
    request.removeAll()
    cursorPlane.add(to: request, in: setting)
    do throws(Errno) {
      try request.commit(
        file, flags: UInt32(DRM_MODE_ATOMIC_NONBLOCK) | UInt32(DRM_MODE_PAGE_FLIP_EVENT), tag: tag)
    } catch {
      if !error.isRefusal { throw error }
      cursorPlane.cursor.giveUp()
      return .now
    }
    cursorPlane.cursor.wasTold()
    return .event
  }

  // MARK: The end

  func turnOff(tag: UInt64) throws(Errno) -> Completion {
    request.removeAll()
    pipe.addOff(to: request)
    cursorPlane?.addOff(to: request)
    let flags = UInt32(DRM_MODE_ATOMIC_NONBLOCK) | UInt32(DRM_MODE_ATOMIC_ALLOW_MODESET)
    do throws(Errno) {
      try request.commit(file, flags: flags | UInt32(DRM_MODE_PAGE_FLIP_EVENT), tag: tag)
      return .event
    } catch .invalidArgument {
      // A CRTC that is already off sends no event, so the kernel refuses a commit that asks for one.
      try request.commit(file, flags: flags)
      return .now
    }
  }

  func restore(_ saved: SavedCRTC) {
    cursorPlane?.close()
    saved.restore(file)
    modeBlob.free(in: file)
    damageBlob.free(in: file)
  }
}
