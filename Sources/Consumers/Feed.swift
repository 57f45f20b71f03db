internal import Scanout

/// How a consumer hears of what a `ControlSink` offers: a call of Watch, or a stream.
protocol Feed: AnyObject {
  /// Something else is to be told, of the scanout of this number.
  func changed(_ subject: FeedSubject, _ index: Int)
  /// The frame is the guest's again: it must not be used any more.
  func forget(_ frame: Frame)
  /// There will be nothing more.
  func end()
}

enum FeedSubject { case outputs, picture, cursor }
