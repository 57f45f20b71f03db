internal import CDRM
internal import Scanout
internal import SystemPackage

/// One pipe, what it was last told to show, and the calls that tell it. What a commit is made of is in
/// `KMSOutput+Commits`.
///
/// It makes sure of nothing that the kernel checks: a call that cannot be done throws and changes nothing.
final class KMSOutput {
  /// What the CRTC was last told.
  enum State: Equatable {
    /// Not by us, or the kernel switched it off.
    case unknown
    case off
    case on(Setting, source: Rectangle, framebuffer: UInt32)
  }

  /// Whether a call has taken effect already or a flip event will tell.
  enum Completion { case now, event }

  /// A guest chooses the sizes; of more than these no verdict is remembered.
  private static let rememberedSizes = 64

  private(set) var pipe: KMSPipe
  private(set) var modes: [KMSMode]
  let cursor: KMSCursor?
  let card: KMSCard
  var file: DRMFile { card.file }
  let request: AtomicRequest?
  let properties: (active: UInt32, mode: UInt32, connector: UInt32)?
  let strays: [(connector: UInt32, property: UInt32)]
  private let saved: SavedCRTC
  private(set) var state = State.unknown
  var modeBlob: (mode: DisplayMode, id: UInt32)?
  var damageBlob: (rectangle: Rectangle, id: UInt32)?
  /// The setting for each size that a test has accepted.
  private var accepted: [PixelSize: Setting] = [:]

  init(_ pipe: KMSPipe, of card: KMSCard) throws(KMSError) {
    (self.pipe, self.card) = (pipe, card)
    modes = pipe.connector.usableModes
    do throws(Errno) {
      saved = try SavedCRTC(pipe, card.file)
      guard card.isAtomic else {
        (request, properties, strays) = (nil, nil, [])
        cursor = KMSCursor(pipe, of: card)
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
      cursor = KMSCursor(pipe, of: card)
    } catch {
      throw .call("reading the properties of \(pipe.connector.name)", card: card.name, error)
    }
  }

  // MARK: The screen

  /// The screen was plugged in or out, or is another one now. What is shown goes on.
  func replace(_ connector: KMSConnector) {
    pipe.connector = connector
    modes = connector.usableModes
    forgetTests()
  }

  /// What may be tried for pictures of this size, the best first; what was accepted, if something was.
  private func candidates(_ size: PixelSize) -> [Setting] {
    if let known = accepted[size] { return [known] }
    return Setting.candidates(for: size, in: modes, canAsk: request != nil)
  }

  func mayShow(_ size: PixelSize) -> Bool { !candidates(size).isEmpty }

  // MARK: Calls

  /// Asks whether the pipe could show `source` of a framebuffer; changes nothing.
  ///
  /// The older calls cannot be asked: every mode of the screen is accepted there.
  /// - Parameter withCursor: together with a cursor.
  /// - Returns: the setting in which it would be shown.
  /// - Throws: what the kernel answered to the last thing that was tried.
  @discardableResult
  func test(
    _ framebuffer: UInt32, _ source: Rectangle, withCursor: Bool = false
  ) throws(Errno) -> Setting {
    let size = PixelSize(width: source.width, height: source.height)
    var failure = Errno.invalidArgument
    for setting in candidates(size) {
      do throws(Errno) {
        if let request {
          request.removeAll()
          try fill(request, framebuffer, source, setting, route: true)
          if withCursor { cursor?.fillTrial(request) } else { cursor?.fillOff(request) }
          try request.commit(
            file, flags: UInt32(DRM_MODE_ATOMIC_TEST_ONLY) | UInt32(DRM_MODE_ATOMIC_ALLOW_MODESET))
        }
        if accepted.count >= Self.rememberedSizes { accepted.removeAll() }
        accepted[size] = setting
        return setting
      } catch { failure = error }
    }
    throw failure
  }

  /// Forgets which settings were accepted, as when the framebuffers that were asked about are not those to come.
  func forgetTests() { accepted.removeAll() }

  /// Shows `source` of a framebuffer, and the cursor with it. Does not wait, but where only the older calls work.
  /// - Throws: `resourceBusy` if the card is not done with something else; try again.
  func show(
    _ framebuffer: UInt32, _ source: Rectangle, damage: Rectangle, tag: UInt64
  ) throws(Errno) -> Completion {
    let size = PixelSize(width: source.width, height: source.height)
    let setting = if let known = accepted[size] { known } else { try test(framebuffer, source) }
    let completion: Completion
    if let request {
      try flip(request, framebuffer, source, setting, damage, tag)
      completion = .event
    } else {
      completion = try showLegacy(framebuffer, source, setting, damage, tag)
      if let cursor, cursor.isDirty { tellLegacy(cursor, setting) }
    }
    state = .on(setting, source: source, framebuffer: framebuffer)
    return completion
  }

  /// The cursor is to be told, and can be told alone.
  var hasCursorNews: Bool {
    if case .on = state, let cursor { cursor.isDirty } else { false }
  }

  /// Tells the card of the cursor alone. Does not wait, but where only the older calls work.
  /// - Throws: `resourceBusy` if the card is not done with something else; try again. A cursor that is refused is
  ///   given up, and is not thrown.
  func showCursor(tag: UInt64) throws(Errno) -> Completion {
    guard case .on(let setting, _, _) = state, let cursor else { return .now }
    guard let request else {
      tellLegacy(cursor, setting)
      return .now
    }
    request.removeAll()
    cursor.fill(request, setting)
    do throws(Errno) {
      try request.commit(
        file, flags: UInt32(DRM_MODE_ATOMIC_NONBLOCK) | UInt32(DRM_MODE_PAGE_FLIP_EVENT), tag: tag)
    } catch {
      if !error.isRefusal { throw error }
      cursor.giveUp()
      return .now
    }
    cursor.wasTold()
    return .event
  }

  private func tellLegacy(_ cursor: KMSCursor, _ setting: Setting) {
    do throws(Errno) { try cursor.tell(setting) } catch {
      if error.isRefusal { cursor.giveUp() }
    }
  }

  private func flip(
    _ request: AtomicRequest, _ framebuffer: UInt32, _ source: Rectangle, _ setting: Setting,
    _ damage: Rectangle, _ tag: UInt64
  ) throws(Errno) {
    func attempt(from state: State, cursor told: Bool) throws(Errno) {
      request.removeAll()
      let flags = try fillFlip(request, framebuffer, source, setting, damage, from: state, cursor: told)
      try request.commit(file, flags: flags, tag: tag)
      if told { cursor?.wasTold() }
    }
    do throws(Errno) {
      do throws(Errno) {
        if case .on = state {
          try attempt(from: state, cursor: cursor?.isDirty ?? false)
        } else {
          try attempt(from: .unknown, cursor: true)
        }
      } catch {
        // Somebody else may have set something else meanwhile: all of it anew.
        guard error.isRefusal, case .on = state else { throw error }
        try attempt(from: .unknown, cursor: true)
      }
    } catch {
      guard error.isRefusal, let cursor, cursor.isDirty else { throw error }
      try attempt(from: .unknown, cursor: false)
      cursor.giveUp()
    }
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
    cursor?.wentDark()
    return completion
  }

  /// What it shows is not known any more: its framebuffer was removed, or a commit was refused.
  func wentDark() {
    state = .unknown
    cursor?.wentDark()
  }

  /// Puts back what was shown before. Waits for the card.
  func restore() {
    cursor?.close()
    saved.restore(file)
    state = .unknown
    dropModeBlob()
    dropDamage()
  }
}

extension Errno {
  /// The card will not do this, now or later: not that it is busy, gone, or not ours at the moment.
  var isRefusal: Bool {
    switch self {
    case .resourceBusy, .permissionDenied, .notPermitted, .operationNotSupportedByDevice: false
    default: true
    }
  }
}
