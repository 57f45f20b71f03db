import Glibc
import Linux
import Recording
import SystemPackage

/// A recording in a loop of its own, until its end or SIGINT or SIGTERM.
final class RecordingRun {
  let loop: EventLoop
  private let signals: SignalFD
  private var recorder: Recorder?

  init() throws {
    try ignoreWriteSignals()
    try exitOnBusError("udmabridge: memory of the guest became shorter while it was copied\n")
    loop = try EventLoop()
    signals = try SignalFD([SIGTERM, SIGINT])
  }

  /// The output calls these two.
  func end(_ reason: RecordingEnd) { recorder?.end(reason) }
  func fail(_ error: any Error) { recorder?.fail(error) }

  /// - Throws: why the recording failed.
  /// - Returns: the recorder, which says why it ended.
  func record(
    _ path: FilePath, scanout: Int, showsCursor: Bool, interval: TimeSpan = .zero, limits: RecordingLimits,
    to output: any RecordingOutput
  ) throws -> Recorder {
    let recorder = try Recorder(
      path, scanout: scanout, showsCursor: showsCursor, interval: interval, limits: limits, output: output,
      loop: loop)
    self.recorder = recorder
    let token = try loop.add(signals.fd) { [unowned self] _ in
      while signals.next() != nil { end(.stopped) }
    }
    defer { loop.remove(token, signals.fd) }
    try recorder.start()
    try loop.run()
    if let failure = recorder.failure { throw failure }
    return recorder
  }
}
