internal import Scanout
internal import SystemPackage

/// One pipe, and what it was last told to show. `ModeSetting` tells it.
final class KMSOutput {
  /// What the CRTC was last told.
  private enum State: Equatable {
    /// Somebody else told it, or the kernel switched it off.
    case unknown
    case off
    case on(PipeContent)
  }

  /// A guest chooses the sizes; the results of tests are remembered for at most this many.
  private static let rememberedSizes = 64

  private(set) var pipe: KMSPipe
  /// Modes of the screen, the preferred one first.
  private(set) var modes: [KMSMode]
  let cursor: KMSCursor?
  private let modeSetting: any ModeSetting
  private let saved: SavedCRTC
  private var state = State.unknown
  /// The setting for each size that a test has accepted.
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

  /// The screen was plugged in or out, or is another one now. The pipe goes on showing what it shows.
  func replace(_ connector: KMSConnector) {
    pipe.connector = connector
    modes = connector.usableModes
    forgetTests()
  }

  /// The settings to try for pictures of this size, the best first; the accepted one, if a test has accepted one.
  private func candidates(_ size: PixelSize) -> [Setting] {
    if let known = accepted[size] { return [known] }
    return Setting.candidates(for: size, in: modes, canTest: modeSetting.canTest)
  }

  func mayShow(_ size: PixelSize) -> Bool { !candidates(size).isEmpty }

  // MARK: Calls

  /// Asks whether the pipe could show `source` of a framebuffer; changes nothing.
  ///
  /// The legacy calls cannot be asked: they accept every mode of the screen here.
  /// - Parameter withCursor: together with a cursor.
  /// - Returns: the setting in which the pipe would show it.
  /// - Throws: what the kernel answered to the last setting that was tried.
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

  /// Forgets which settings were accepted: framebuffers of another kind are to come, or there is another screen.
  func forgetTests() { accepted.removeAll() }

  /// Shows `source` of a framebuffer, and the cursor with it. Only the legacy calls wait for the card.
  /// - Parameters:
  ///   - damage: what changed in the framebuffer, in its pixels.
  ///   - tag: comes back with the flip event.
  /// - Throws: `resourceBusy` if the card is not done with something else; try again.
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

  /// What the pipe was last told to show; nil if it is off, or shows something unknown.
  private var content: PipeContent? {
    if case .on(let content) = state { content } else { nil }
  }

  func shows(_ framebuffer: UInt32) -> Bool { content?.framebuffer == framebuffer }

  /// The cursor has changed, and the card can be told of it alone.
  var hasCursorNews: Bool {
    if case .on = state, let cursor { cursor.isDirty } else { false }
  }

  /// Tells the card of the cursor alone. Only the legacy calls wait for the card. A cursor that the card refuses is
  /// given up, which is no error.
  /// - Throws: `resourceBusy` if the card is not done with something else; try again.
  func showCursor(tag: UInt64) throws(Errno) -> Completion {
    guard let content else { return .now }
    return try modeSetting.showCursor(in: content.setting, tag: tag)
  }

  /// Switches the CRTC off. Only the legacy calls wait for the card.
  /// - Throws: `resourceBusy` if the card is not done with something else; try again.
  func turnOff(tag: UInt64) throws(Errno) -> Completion {
    if state == .off { return .now }
    let completion = try modeSetting.turnOff(tag: tag)
    state = .off
    cursor?.wentDark()
    return completion
  }

  /// Its framebuffer was removed, or a commit was refused: nobody knows what the pipe shows.
  func wentDark() {
    state = .unknown
    cursor?.wentDark()
  }

  /// Puts back what was shown before. Waits for the card.
  func restore() {
    modeSetting.restore(saved)
    state = .unknown
  }
}
