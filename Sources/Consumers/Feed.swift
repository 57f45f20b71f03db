internal import Scanout

/// A consumer's way to hear from a `ControlSink`: a call of Watch, or a stream.
protocol Feed: AnyObject {
  /// The state of the scanout of this number has changed.
  func changed(_ subject: FeedSubject, _ index: Int)
  /// The guest has the frame's pages again, so the frame must not be used any more.
  func forget(_ frame: Frame)
  /// Nothing more will come.
  func end()
}

enum FeedSubject { case outputs, picture, cursor }
