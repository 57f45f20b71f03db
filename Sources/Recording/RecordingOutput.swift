package import Linux

/// Where what is recorded goes.
package protocol RecordingOutput: AnyObject {
  /// Takes what is shown from a moment on; nil where nothing is shown.
  func show(_ picture: RecordedPicture?, at time: Instant) throws

  /// Completes what there is of the time until a moment, and says then that this is done.
  func finish(at time: Instant, _ done: @escaping () -> Void)
}
