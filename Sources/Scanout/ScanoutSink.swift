/// A sink's abilities on one scanout.
package struct SinkOutput: Equatable, Sendable {
  /// The name for users, such as `Virtual-1`.
  package var name: String
  /// The modes that the scanout can show, the preferred one first.
  package var modes: [DisplayMode]
  /// The size of the visible area in millimetres; 0 if unknown.
  package var widthMillimetres, heightMillimetres: UInt32
  /// Whether the scanout shows a cursor above the picture, without changing the picture.
  package var hasCursor: Bool

  package init(
    name: String, modes: [DisplayMode], widthMillimetres: UInt32 = 0, heightMillimetres: UInt32 = 0,
    hasCursor: Bool = false
  ) {
    (self.name, self.modes, self.hasCursor) = (name, modes, hasCursor)
    (self.widthMillimetres, self.heightMillimetres) = (widthMillimetres, heightMillimetres)
  }
}

/// Why a sink will not show a frame: the refusal, the reason, and the remedy.
package struct SinkError: Error, Equatable, CustomStringConvertible {
  package enum Refusal: String, Sendable, CaseIterable {
    case noOutput, importing, bouncing, format, stride, mode, part, offset, disconnected, busy, other

    /// Whether the card imports no memory, in any layout.
    package var concernsAllMemory: Bool { self == .importing || self == .bouncing }

    /// Whether a copy helps, with other memory, or another format, stride or size.
    package var isMendedByCopying: Bool {
      switch self {
      case .importing, .bouncing, .format, .stride, .mode, .part, .offset, .other: true
      case .noOutput, .disconnected, .busy: false
      }
    }
  }
  /// The frame was forgotten before its turn came.
  package static let takenBack = SinkError(.other, "the frame was taken back")

  package var refusal: Refusal
  package var description: String

  package init(_ refusal: Refusal, _ description: String) {
    (self.refusal, self.description) = (refusal, description)
  }
}

/// A frame on its way to one scanout.
package struct Presentation {
  package let frame: Frame
  /// The part of the frame that the scanout shows.
  package let source: Rectangle
  /// The changes since this scanout's last presentation, in the frame's pixels.
  package var damage: Rectangle
  /// Counts up with each `present` of this scanout.
  package let sequence: UInt64

  package init(frame: Frame, source: Rectangle, damage: Rectangle, sequence: UInt64) {
    (self.frame, self.source, self.damage, self.sequence) = (frame, source, damage, sequence)
  }
}

/// Shows frames: a KMS card, QEMU's display, other processes.
///
/// Every call returns at once. Results that take time go to the observer, from the event loop.
package protocol ScanoutSink: AnyObject {
  /// One output for each scanout that can be shown, by the scanout's number.
  var outputs: [SinkOutput] { get }
  var observer: (any ScanoutObserver)? { get set }

  /// Whether somebody sees the frames. If nobody does, nothing is prepared and presented.
  var isAttended: Bool { get }

  /// Asks the display behind the sink for its screens. When `finished` is called, `outputs` is up to date, and the observer
  /// was told.
  /// - Returns: false if there is nobody to ask; `outputs` is then all that is known. Otherwise `finished` is called once,
  ///   later, or never, if the display goes away.
  func inquire(_ finished: @escaping () -> Void) -> Bool

  /// Asks in the same way for the EDID of a scanout; nil if there is none.
  func inquireEDID(of scanout: ScanoutID, _ finished: @escaping ([UInt8]?) -> Void) -> Bool

  /// Imports the frame without showing it, and checks that `scanout` could show `source` of it.
  /// A frame that was prepared must be forgotten.
  func prepare(_ frame: Frame, source: Rectangle, on scanout: ScanoutID) throws(SinkError)

  /// Allocates memory for a copy of `width` x `height` pixels on the scanout, with a size, a stride and a format that
  /// the sink shows; `format` itself if possible. The memory is all zero, which is black. A frame of it is prepared
  /// like any other, as a whole.
  func allocate(
    width: UInt32, height: UInt32, format: FourCC, on scanout: ScanoutID
  ) throws(SinkError) -> Canvas

  /// Shows a prepared frame as soon as possible, in place of one that still waits for its turn.
  /// The sink holds a use of the frame from now until another one is shown in its place.
  func present(_ presentation: Presentation, on scanout: ScanoutID)

  /// Shows nothing on the scanout, as soon as possible.
  func turnOff(_ scanout: ScanoutID)

  /// Shows this cursor above the scanout's picture from now on; nil shows none. The output must have `hasCursor`.
  func setCursor(_ image: CursorImage?, at position: CursorPosition, on scanout: ScanoutID)

  /// Moves the shown cursor.
  func moveCursor(to position: CursorPosition, on scanout: ScanoutID)

  /// Lets go of the frame. A frame in use is cut off: its screen goes dark.
  func forget(_ frame: Frame)
}

extension ScanoutSink {
  /// Most sinks show the frames themselves.
  package var isAttended: Bool { true }
  /// Most sinks know their screens themselves.
  package func inquire(_ finished: @escaping () -> Void) -> Bool { false }
  /// Most sinks let the device make EDIDs for their outputs.
  package func inquireEDID(of scanout: ScanoutID, _ finished: @escaping ([UInt8]?) -> Void) -> Bool { false }
}

/// Receives the result of each presentation from a sink: exactly one of these for every sequence number.
package protocol ScanoutObserver: AnyObject {
  /// The frame is on the screen now.
  func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID)
  /// A later presentation, or a turn-off, replaced the frame before its turn.
  func replaced(_ sequence: UInt64, on scanout: ScanoutID)
  /// The frame will not be on the screen, for this reason.
  func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError)
  /// `outputs` has changed: a screen was plugged in or out. Refused frames may be shown now.
  func outputsChanged()
}
