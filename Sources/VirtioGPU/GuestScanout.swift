internal import Buffers
internal import Linux
internal import Pictures
internal import Scanout

/// One scanout: the picture that the guest wants, and how far it has got. Only `Scanouts` changes it.
final class GuestScanout {
  let id: ScanoutID
  /// The output that the guest is offered.
  var output: SinkOutput
  /// The choice of SET_SCANOUT, which comes on the screen with its first flush.
  var binding: Binding?
  /// The frame of the last presentation, until the scanout is turned off.
  var last: Frame?
  /// The sequence number of the last presentation.
  var sequence: UInt64 = 0
  /// The last presentation waits for its copy.
  var copy: PictureCopy?
  /// Whether the scanout let a fence's time pass. Nobody waits for it again until it shows a frame in time.
  var isSilent = false
  /// The presentation that tests that, and when the sink got it.
  var probe: (sequence: UInt64, since: Instant)?
  /// Presentations without a flush, which do not count as frames.
  var ownInitiative: [UInt64] = []
  /// The cursor, as long as it is visible.
  var cursor: PlacedCursor?
  /// A cursor that a move has hidden. The next move that names a resource shows it again.
  var hiddenCursor: PlacedCursor?

  struct Binding {
    let resource: Resource
    let view: View
    /// Nil if there is nobody to show the picture.
    let picture: Picture?
  }

  init(_ id: ScanoutID, _ output: SinkOutput) { (self.id, self.output) = (id, output) }
}

/// A presentation whose picture is being copied.
struct PictureCopy {
  let sequence: UInt64
  let source: ByteSource
  var update: Shadow.Update
}
