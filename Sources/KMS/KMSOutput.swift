internal import Scanout
internal import SystemPackage

/// One pipe, and the picture that it was last told to show. `ModeSetting` tells it.
final class KMSOutput {
  /// The state that the CRTC was last told.
  private enum State: Equatable {
    /// Another DRM master set the CRTC, or the kernel switched it off.
    case unknown
    case off
    case on(PipeContent)
  }

  /// Test results are kept for at most this many sizes, because the guest chooses the sizes.
  private static let rememberedSizes = 64

  private(set) var pipe: KMSPipe
  /// Modes of the screen, the preferred one first.
  private(set) var modes: [KMSMode]
  let cursor: KMSCursor?
  private let modeSetting: any ModeSetting
  private let saved: SavedCRTC
  private var state = State.unknown
  /// The setting that a test has accepted, by size.
  private var accepted: [PixelSize: Setting] = [:]

  init(_ pipe: KMSPipe, of card: KMSCard) throws(KMSError) {
    self.pipe = pipe
    modes = pipe.connector.usableModes
    do throws(Errno) {
      saved = try SavedCRTC(pipe, card.file)
      modeSetting =
        if card.isAtomic { try AtomicModeSetting(pipe, of: card) } else { LegacyModeSetting(pipe, of: card) }
    } catch {
      throw .call("reading the properties of \(pipe.connector.name)", card: card.name, error)
    }
    cursor = modeSetting.cursor
  }

  // MARK: The screen

  /// A screen was plugged in or out, or is another one now. The pipe goes on showing its picture.
  func replace(_ connector: KMSConnector) {
    pipe.connector = connector
    modes = connector.usableModes
    forgetTests()
  }

  /// The settings to try for pictures of this size, the best first; only the accepted one, if a test has accepted
  /// one.
  private func candidates(_ size: PixelSize) -> [Setting] {
    if let known = accepted[size] { return [known] }
    return Setting.candidates(for: size, in: modes, canTest: modeSetting.canTest)
  }

  func mayShow(_ size: PixelSize) -> Bool { !candidates(size).isEmpty }

  // MARK: Calls

  /// Asks whether the pipe could show `source` of a framebuffer; changes nothing.
  ///
  /// The legacy calls have no test: with them every mode of the screen counts as accepted.
  /// - Parameter withCursor: whether to test it together with a cursor.
  /// - Returns: the setting in which the pipe would show it.
  /// - Throws: the kernel's answer to the last setting that was tried.
  @discardableResult
  func test(
    _ framebuffer: UInt32, _ source: Rectangle, withCursor: Bool = false
  ) throws(Errno) -> Setting {
    let size = PixelSize(width: source.width, height: source.height)
    var failure = Errno.invalidArgument
    for setting in candidates(size) {
      do throws(Errno) {
        try modeSetting.test(
          PipeContent(framebuffer: framebuffer, source: source, setting: setting), withCursor: withCursor)
        if accepted.count >= Self.rememberedSizes { accepted.removeAll() }
        accepted[size] = setting
        return setting
      } catch { failure = error }
    }
    throw failure
  }

  /// Forgets which settings were accepted, because other framebuffers will come, or there is another screen.
  func forgetTests() { accepted.removeAll() }

  /// Shows `source` of a framebuffer, and the cursor with it. Only the legacy calls wait for the card.
  /// - Parameters:
  ///   - damage: the changed part of the framebuffer, in its pixels.
  ///   - tag: comes back with the flip event.
  /// - Throws: `resourceBusy` while the card is busy; try again later.
  func show(
    _ framebuffer: UInt32, _ source: Rectangle, damage: Rectangle, tag: UInt64
  ) throws(Errno) -> Completion {
    let size = PixelSize(width: source.width, height: source.height)
    let setting = if let known = accepted[size] { known } else { try test(framebuffer, source) }
    let next = PipeContent(framebuffer: framebuffer, source: source, setting: setting)
    let completion = try modeSetting.show(next, after: content, damage: damage, tag: tag)
    state = .on(next)
    return completion
  }

  /// The picture that the pipe was last told to show; nil if it is off, or shows something unknown.
  private var content: PipeContent? {
    if case .on(let content) = state { content } else { nil }
  }

  func shows(_ framebuffer: UInt32) -> Bool { content?.framebuffer == framebuffer }

  /// Whether the cursor has changed, and the card can be told of it alone.
  var hasCursorNews: Bool {
    if case .on = state, let cursor { cursor.isDirty } else { false }
  }

  /// Tells the card of the cursor alone. Only the legacy calls wait for the card. If the card refuses the cursor, the
  /// cursor is given up without an error.
  /// - Throws: `resourceBusy` while the card is busy; try again later.
  func showCursor(tag: UInt64) throws(Errno) -> Completion {
    guard let content else { return .now }
    return try modeSetting.showCursor(in: content.setting, tag: tag)
  }

  /// Switches the CRTC off. Only the legacy calls wait for the card.
  /// - Throws: `resourceBusy` while the card is busy; try again later.
  func turnOff(tag: UInt64) throws(Errno) -> Completion {
    if state == .off { return .now }
    let completion = try modeSetting.turnOff(tag: tag)
    state = .off
    cursor?.wentDark()
    return completion
  }

  /// The pipe's framebuffer was removed, or a commit was refused, so its picture is unknown.
  func wentDark() {
    state = .unknown
    cursor?.wentDark()
  }

  /// Restores the CRTC's state from before. Waits for the card.
  func restore() {
    modeSetting.restore(saved)
    state = .unknown
  }
}
