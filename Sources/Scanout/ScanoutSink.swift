/// What a sink can show on one scanout.
package struct SinkOutput: Equatable, Sendable {
  /// As its users call it, such as `Virtual-1`.
  package var name: String
  /// The modes it can show, the preferred one first.
  package var modes: [DisplayMode]
  /// Of the visible area, in millimetres; 0 when unknown.
  package var widthMillimetres, heightMillimetres: UInt32
  /// It shows a cursor above the picture, without a change to the picture.
  package var hasCursor: Bool

  package init(
    name: String, modes: [DisplayMode], widthMillimetres: UInt32 = 0, heightMillimetres: UInt32 = 0,
    hasCursor: Bool = false
  ) {
    (self.name, self.modes, self.hasCursor) = (name, modes, hasCursor)
    (self.widthMillimetres, self.heightMillimetres) = (widthMillimetres, heightMillimetres)
  }
}

/// Why a sink will not show a frame: what it refused, why, and what to do about it.
package struct SinkError: Error, Equatable, CustomStringConvertible {
  package enum Refusal: String, Sendable, CaseIterable {
    case noOutput, importing, bouncing, format, stride, mode, part, offset, disconnected, busy, other

    /// The card takes no memory of others, whatever the layout.
    package var concernsAllMemory: Bool { self == .importing || self == .bouncing }

    /// Another memory, format, stride or size may be shown where this one is not: a copy helps.
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
  /// What has changed since this scanout's last presentation, in the frame's pixels.
  package var damage: Rectangle
  /// Counts up with each `present` of this scanout.
  package let sequence: UInt64

  package init(frame: Frame, source: Rectangle, damage: Rectangle, sequence: UInt64) {
    (self.frame, self.source, self.damage, self.sequence) = (frame, source, damage, sequence)
  }
}

/// Shows frames: a KMS card, QEMU's display, other processes.
///
/// Everything returns at once; what takes time is told to the observer, from the event loop.
package protocol ScanoutSink: AnyObject {
  /// One for each scanout that can be shown, by the scanout's number.
  var outputs: [SinkOutput] { get }
  var observer: (any ScanoutObserver)? { get set }

  /// There is somebody to show frames to. Where there is nobody, nothing is prepared and presented.
  var isAttended: Bool { get }

  /// Asks whoever shows the frames what there is to show them on: `outputs` is up to date, and the observer was told,
  /// when `finished` is called.
  /// - Returns: false if there is nobody to be asked, and `outputs` is all that is known. Else `finished` is called
  ///   later, once; or never, when whoever was asked is gone.
  func inquire(_ finished: @escaping () -> Void) -> Bool

  /// Asks in the same way for the EDID that the guest is to see on a scanout; nil and nothing else if there is none.
  func inquireEDID(of scanout: ScanoutID, _ finished: @escaping ([UInt8]?) -> Void) -> Bool

  /// Takes the frame in, without showing it, and checks that `scanout` could show `source` of it.
  /// A frame that was prepared must be forgotten.
  func prepare(_ frame: Frame, source: Rectangle, on scanout: ScanoutID) throws(SinkError)

  /// Allocates what a copy of `width` x `height` pixels can be shown in on the scanout: of a size, a stride and
  /// a format that the sink shows, `format` itself if that is possible. It is all zero, which is black.
  /// A frame of it is prepared like any other, as a whole.
  func allocate(
    width: UInt32, height: UInt32, format: FourCC, on scanout: ScanoutID
  ) throws(SinkError) -> Canvas

  /// Shows a prepared frame as soon as can be; one that still waits for its turn is replaced.
  /// The sink holds a use of the frame from now until another one is shown in its place.
  func present(_ presentation: Presentation, on scanout: ScanoutID)

  /// Shows nothing on the scanout, as soon as can be.
  func turnOff(_ scanout: ScanoutID)

  /// Shows this cursor above the scanout's picture from now on; nil shows none. Only where the output
  /// `hasCursor`.
  func setCursor(_ image: CursorImage?, at position: CursorPosition, on scanout: ScanoutID)

  /// The cursor that is shown goes there.
  func moveCursor(to position: CursorPosition, on scanout: ScanoutID)

  /// Lets go of the frame. One that is still in use is cut off: what shows it goes dark.
  func forget(_ frame: Frame)
}

extension ScanoutSink {
  /// Most sinks are what shows the frames.
  package var isAttended: Bool { true }
  /// Most sinks know by themselves what they show frames on.
  package func inquire(_ finished: @escaping () -> Void) -> Bool { false }
  /// And have EDIDs made for their outputs.
  package func inquireEDID(of scanout: ScanoutID, _ finished: @escaping ([UInt8]?) -> Void) -> Bool { false }
}

/// Hears from a sink what became of each presentation: exactly one of these, for every sequence number.
package protocol ScanoutObserver: AnyObject {
  /// It is on the screen now.
  func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID)
  /// Another one, or nothing at all, was to be shown before its turn came.
  func replaced(_ sequence: UInt64, on scanout: ScanoutID)
  /// It will not be on the screen, and why.
  func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError)
  /// `outputs` has changed: a screen was plugged in or out. What was refused may be shown now.
  func outputsChanged()
}
