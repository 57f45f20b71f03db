internal import Scanout
internal import SystemPackage

/// The picture of a pipe: a part of a framebuffer, and its place on the screen.
struct PipeContent: Equatable {
  /// The id of the framebuffer.
  let framebuffer: UInt32
  /// The part of the framebuffer, in its pixels.
  let source: Rectangle
  let setting: Setting
}

/// Tells the kernel the picture of one pipe, by atomic commits or by the legacy calls.
///
/// It leaves the checks to the kernel. A call that throws has changed nothing on the screen.
protocol ModeSetting: AnyObject {
  /// Nil if the card shows no cursor above the picture.
  var cursor: KMSCursor? { get }

  /// Whether `test` asks the card. Otherwise every mode of the screen counts as accepted.
  var canTest: Bool { get }

  /// Asks whether the pipe could show `content`; changes nothing.
  /// - Parameter withCursor: whether to test it together with a cursor.
  func test(_ content: PipeContent, withCursor: Bool) throws(Errno)

  /// Shows `next`, and the cursor with it.
  /// - Parameters:
  ///   - current: the pipe's present picture; nil if it is off, or shows something unknown.
  ///   - damage: the part of the framebuffer that changed since `current`, in its pixels.
  ///   - tag: comes back with the flip event.
  /// - Throws: `resourceBusy` while the card is busy; try again later.
  func show(
    _ next: PipeContent, after current: PipeContent?, damage: Rectangle, tag: UInt64
  ) throws(Errno) -> Completion

  /// Shows the wanted cursor above the present picture. If the card refuses the cursor, the cursor is given up
  /// without an error.
  /// - Parameter setting: the setting of the picture.
  /// - Throws: as `show` does.
  func showCursor(in setting: Setting, tag: UInt64) throws(Errno) -> Completion

  /// Switches the CRTC off.
  /// - Throws: as `show` does.
  func turnOff(tag: UInt64) throws(Errno) -> Completion

  /// Removes the cursor for good, restores the CRTC's earlier state, and frees the kernel's blobs for this pipe.
  /// Waits for the card.
  func restore(_ saved: SavedCRTC)
}

/// When a call takes effect: at once, or with a flip event.
enum Completion { case now, event }

extension Errno {
  /// Whether the card refuses this for good, and is not merely busy, gone, or without us as DRM master.
  var isRefusal: Bool {
    switch self {
    case .resourceBusy, .permissionDenied, .notPermitted, .operationNotSupportedByDevice: false
    default: true
    }
  }
}
