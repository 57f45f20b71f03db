package import Buffers
package import Scanout

/// Decides whether a scanout shows memory itself or a copy of it, and makes the copy's place. The device asks for a
/// guest's resources, and a presenter for what another process lends it.
package final class PictureMaker {
  package enum Verdict {
    /// The sink has agreed to show this frame itself.
    case lent(Frame)
    case copied(ShadowCause)
  }

  package let sink: any ScanoutSink
  private var lastFrameID: UInt64 = 0

  package init(_ sink: any ScanoutSink) { self.sink = sink }

  /// The cause where a screen has no plane for the guest's cursor.
  package static let noCursorPlane = ShadowCause(
    .noCursorPlane, "the screen has no plane for the guest's cursor, which is drawn into a copy")

  package func newFrameID() -> UInt64 {
    lastFrameID += 1
    return lastFrameID
  }

  /// - Parameters:
  ///   - frame: the memory itself, asked for only if nothing is known to stand against it.
  ///   - standing: what is known to.
  ///   - drawsCursor: a cursor is to be drawn into the picture.
  /// - Throws: what the sink refuses, if a copy does not help against it or is not wanted.
  package func judge(
    _ frame: @autoclosure () -> Frame, source: Rectangle, on scanout: ScanoutID, standing: ShadowCause?,
    drawsCursor: Bool, choice: BackingChoice = .auto
  ) throws(SinkError) -> Verdict {
    if let standing { return .copied(standing) }
    if drawsCursor { return .copied(Self.noCursorPlane) }
    let frame = frame()
    do throws(SinkError) {
      try sink.prepare(frame, source: source, on: scanout)
      return .lent(frame)
    } catch {
      guard choice == .auto, error.refusal.isMendedByCopying else { throw error }
      return .copied(ShadowCause(error))
    }
  }

  /// Memory of the sink in which a copy of the view can be shown.
  package func allocate(_ view: View, on scanout: ScanoutID) throws(SinkError) -> Canvas {
    try sink.allocate(
      width: view.source.width, height: view.source.height, format: view.layout.format, on: scanout)
  }

  /// A copy on this canvas, which the sink has agreed to show. It is filled when it is presented.
  package func makeShadow(
    on canvas: Canvas, of view: View, on scanout: ScanoutID, cause: ShadowCause
  ) throws(SinkError) -> Shadow {
    let shadow = Shadow(canvas, of: view, frameID: newFrameID(), cause: cause)
    try sink.prepare(shadow.frame, source: canvas.layout.bounds, on: scanout)
    return shadow
  }
}
