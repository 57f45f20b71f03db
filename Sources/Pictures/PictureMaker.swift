package import Buffers
package import Scanout

/// Decides whether a scanout shows memory itself or a copy, and makes the copy's memory. The device uses it for a guest's
/// resources, and a presenter for the buffers of another process.
package final class PictureMaker {
  package enum Verdict {
    /// The sink has agreed to show the memory itself.
    case lent(Frame)
    case copied(ShadowCause)
  }

  package let sink: any ScanoutSink
  private var lastFrameID: UInt64 = 0

  package init(_ sink: any ScanoutSink) { self.sink = sink }

  /// The cause if a screen has no plane for the guest's cursor.
  package static let noCursorPlane = ShadowCause(
    .noCursorPlane, "the screen has no plane for the guest's cursor, which is drawn into a copy")

  package func newFrameID() -> UInt64 {
    lastFrameID += 1
    return lastFrameID
  }

  /// - Parameters:
  ///   - frame: the memory itself, called only if no obstacle is known.
  ///   - standing: the known obstacle.
  ///   - drawsCursor: whether a cursor must be drawn into the picture.
  /// - Throws: the sink's refusal, if a copy does not help or is not wanted.
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

  /// Memory of the sink that can show a copy of the view.
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
