internal import Scanout
internal import SystemPackage

/// What a pipe shows or is to show: a part of a framebuffer, and where it is on the screen.
struct PipeContent: Equatable {
  /// The id of the framebuffer.
  let framebuffer: UInt32
  /// The part of the framebuffer, in its pixels.
  let source: Rectangle
  let setting: Setting
}

/// How the kernel is told what one pipe shows: by atomic commits, or by the legacy calls.
///
/// It does not check what the kernel checks. A call that throws has changed nothing on the screen.
protocol ModeSetting: AnyObject {
  /// Nil where the card shows no cursor above the picture.
  var cursor: KMSCursor? { get }

  /// `test` asks the card. Without that, every mode of the screen counts as accepted.
  var canTest: Bool { get }

  /// Asks whether the pipe could show `content`; changes nothing.
  /// - Parameter withCursor: together with a cursor.
  func test(_ content: PipeContent, withCursor: Bool) throws(Errno)

  /// Shows `next`, and the cursor with it.
  /// - Parameters:
  ///   - current: what the pipe shows now; nil if it is off, or shows something unknown.
  ///   - damage: what changed in the framebuffer since `current`, in its pixels.
  ///   - tag: comes back with the flip event.
  /// - Throws: `resourceBusy` if the card is not done with something else; try again.
  func show(
    _ next: PipeContent, after current: PipeContent?, damage: Rectangle, tag: UInt64
  ) throws(Errno) -> Completion

  /// Shows the cursor as it is to be, above a picture that is shown already. A cursor that the card refuses is given
  /// up, which is no error.
  /// - Parameter setting: of the picture.
  /// - Throws: as `show` does.
  func showCursor(in setting: Setting, tag: UInt64) throws(Errno) -> Completion

  /// Switches the CRTC off.
  /// - Throws: as `show` does.
  func turnOff(tag: UInt64) throws(Errno) -> Completion

  /// Takes the cursor away for good, shows again what was there before, and frees what the kernel keeps for this
  /// pipe. Waits for the card.
  func restore(_ saved: SavedCRTC)
}

/// When a call takes effect: it has already, or a flip event will tell.
enum Completion { case now, event }

extension Errno {
  /// The card will not do this, now or later: not that it is busy, gone, or not ours at the moment.
  var isRefusal: Bool {
    switch self {
    case .resourceBusy, .permissionDenied, .notPermitted, .operationNotSupportedByDevice: false
    default: true
    }
  }
}
