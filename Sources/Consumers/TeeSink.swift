package import Scanout

/// Shows each frame on one sink, and also offers it to other processes. The sink sets the pace, and refuses frames
/// that it cannot show.
package final class TeeSink: ScanoutSink {
  package weak var observer: (any ScanoutObserver)?
  private let shown: any ScanoutSink
  private let offered: ControlSink
  private var relay: Relay?

  /// - Parameter offered: has the outputs of `shown`.
  package init(_ shown: any ScanoutSink, _ offered: ControlSink) {
    precondition(shown.outputs == offered.outputs, "both have the same scanouts")
    (self.shown, self.offered) = (shown, offered)
    relay = Relay(self)
    shown.observer = relay
  }

  private final class Relay: ScanoutObserver {
    unowned let tee: TeeSink
    init(_ tee: TeeSink) { self.tee = tee }

    func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID) {
      tee.observer?.presented(sequence, frame: frame, on: scanout)
    }
    func replaced(_ sequence: UInt64, on scanout: ScanoutID) { tee.observer?.replaced(sequence, on: scanout) }
    func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError) {
      tee.observer?.failed(sequence, on: scanout, error)
    }
    func outputsChanged() {
      tee.offered.outputs = tee.shown.outputs
      tee.observer?.outputsChanged()
    }
  }

  package var outputs: [SinkOutput] { shown.outputs }

  package func inquire(_ finished: @escaping () -> Void) -> Bool { shown.inquire(finished) }

  package func inquireEDID(of scanout: ScanoutID, _ finished: @escaping ([UInt8]?) -> Void) -> Bool {
    shown.inquireEDID(of: scanout, finished)
  }

  package func prepare(_ frame: Frame, source: Rectangle, on scanout: ScanoutID) throws(SinkError) {
    try shown.prepare(frame, source: source, on: scanout)
    try offered.prepare(frame, source: source, on: scanout)
  }

  package func allocate(
    width: UInt32, height: UInt32, format: FourCC, on scanout: ScanoutID
  ) throws(SinkError) -> Canvas {
    try shown.allocate(width: width, height: height, format: format, on: scanout)
  }

  package func present(_ presentation: Presentation, on scanout: ScanoutID) {
    shown.present(presentation, on: scanout)
    offered.present(presentation, on: scanout)
  }

  package func turnOff(_ scanout: ScanoutID) {
    shown.turnOff(scanout)
    offered.turnOff(scanout)
  }

  package func setCursor(_ image: CursorImage?, at position: CursorPosition, on scanout: ScanoutID) {
    shown.setCursor(image, at: position, on: scanout)
    offered.setCursor(image, at: position, on: scanout)
  }

  package func moveCursor(to position: CursorPosition, on scanout: ScanoutID) {
    shown.moveCursor(to: position, on: scanout)
    offered.moveCursor(to: position, on: scanout)
  }

  package func forget(_ frame: Frame) {
    shown.forget(frame)
    offered.forget(frame)
  }
}
