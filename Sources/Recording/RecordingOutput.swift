package import Linux

/// The destination of a recording.
package protocol RecordingOutput: AnyObject {
  /// Takes the picture that is shown from `time` on; nil if the scanout shows nothing.
  func show(_ picture: RecordedPicture?, at time: Instant) throws

  /// Completes the recording up to `time`, and then calls `done`.
  func finish(at time: Instant, _ done: @escaping () -> Void)
}
