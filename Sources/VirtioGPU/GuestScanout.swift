internal import Buffers
internal import Linux
internal import Pictures
internal import Scanout

/// One scanout: what it shows, as the guest wants it, and how far that has got. `Scanouts` alone changes it.
final class GuestScanout {
  let id: ScanoutID
  /// What the guest is offered to show frames on.
  var output: SinkOutput
  /// What SET_SCANOUT chose. It comes on the screen with its first flush.
  var binding: Binding?
  /// The frame of the last presentation, until it is turned off.
  var last: Frame?
  /// Of the last presentation.
  var sequence: UInt64 = 0
  /// The last presentation waits for its copy.
  var copy: PictureCopy?
  /// It left a fence waiting until its time was over. Nobody waits for it again until it shows a frame in time.
  var isSilent = false
  /// The presentation by which that is found out, and when it was handed to the sink.
  var probe: (sequence: UInt64, since: Instant)?
  /// Presentations that no flush asked for, and that are not counted as frames.
  var ownInitiative: [UInt64] = []
  /// The cursor, as long as it is to be seen.
  var cursor: PlacedCursor?
  /// One that a move has hidden. The next one that names a resource shows it again.
  var hiddenCursor: PlacedCursor?

  struct Binding {
    let resource: Resource
    let view: View
    /// Nil where there is nobody to show it.
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
