package import Linux
package import Scanout
package import SystemPackage

/// The conditions that end a recording; nil for those that do not.
package struct RecordingLimits {
  /// The recording has lasted this long since its first picture.
  package var span: TimeSpan?
  /// The picture has not changed for this long.
  package var stillness: TimeSpan?
  /// A picture matches this one.
  package var reference: PictureReference?
  /// The part that may not change for `stillness`; nil for all of the picture.
  package var region: Rectangle?
  /// The recording has lasted this long since its start.
  package var timeout: TimeSpan?

  /// Nothing ends the recording.
  package init() {}

  /// The recording waits for something that a guest may never show.
  package var isWaiting: Bool { stillness != nil || reference != nil }
}

/// Why a recording is over.
package enum RecordingEnd: String, Encodable, Sendable {
  /// The recording has all pictures that it should have.
  case count
  /// `RecordingLimits.span` is over.
  case time
  case still, match, timeout
  /// The user has stopped the recording.
  case stopped
  /// The helper has ended.
  case ended
}

/// Records what a scanout shows.
package final class Recorder {
  /// After a timeout or a stop, the reader of the recording has this much time for the rest of it.
  private static let patience = TimeSpan.seconds(5)

  private let limits: RecordingLimits
  private let loop: EventLoop
  private let output: any RecordingOutput
  private var follower: ScanoutFollower?
  private var lasting: Timer?
  private var resting: Timer?
  private var timing: Timer?
  /// The stillness has lasted long enough, unless a picture that was announced and not yet read differs.
  private var isRestOver = false
  /// The part that may not change, as it was shown last.
  private var rest: ArraySlice<UInt32>?
  private var isFinishing = false

  /// Nil until the recording is over, and if it failed.
  package private(set) var reason: RecordingEnd?
  package private(set) var failure: (any Error)?
  /// The number of pictures so far.
  package private(set) var count = 0
  /// The comparison of the last picture with `RecordingLimits.reference`.
  package private(set) var comparison: PictureReference.Comparison?

  /// Connects, and calls nothing yet.
  /// - Parameters:
  ///   - interval: the least time from one picture to the next.
  ///   - loop: is stopped when all is done.
  package init(
    _ path: FilePath, scanout: Int, showsCursor: Bool, interval: TimeSpan, limits: RecordingLimits,
    output: any RecordingOutput, loop: EventLoop
  ) throws {
    (self.limits, self.output, self.loop) = (limits, output, loop)
    lasting = try Timer(loop) { [unowned self] in end(.time) }
    resting = try Timer(loop) { [unowned self] in endRest() }
    timing = try Timer(loop) { [unowned self] in runOut() }
    follower = try ScanoutFollower(
      path, scanout: scanout, showsCursor: showsCursor, interval: interval, loop: loop,
      onNews: { [unowned self] in take($0) }, onFailure: { [unowned self] in fail($0) })
  }

  package func start() throws {
    if let timeout = limits.timeout { timing?.arm(after: timeout) }
    try follower?.start()
  }

  private func take(_ news: ScanoutFollower.News) {
    let now = Instant.now
    do {
      switch news {
      case .picture(let picture):
        count += 1
        if count == 1, let span = limits.span { lasting?.arm(after: span) }
        try output.show(picture, at: now)
        if reason == nil { look(at: picture) }
      case .same: break
      case .dark:
        (rest, isRestOver) = (nil, false)
        resting?.disarm()
        try output.show(nil, at: now)
      case .end: return end(.ended)
      }
    } catch { return fail(error) }
    if isRestOver { endRest() }
  }

  private func look(at picture: RecordedPicture) {
    if let reference = limits.reference {
      comparison = reference.compare(picture)
      if comparison == .same { return end(.match) }
    }
    guard let stillness = limits.stillness else { return }
    let part = picture.part(limits.region?.intersection(picture.bounds) ?? picture.bounds)
    if part == rest { return }
    (rest, isRestOver) = (part, false)
    resting?.arm(after: stillness)
  }

  private func endRest() {
    isRestOver = follower?.isBehind ?? false
    if !isRestOver { end(.still) }
  }

  private func runOut() {
    guard isFinishing else { return end(.timeout) }
    // The recording is incomplete.
    if reason != .stopped { reason = .timeout }
    loop.stop()
  }

  /// Ends the recording. A second call, with `stopped`, does not wait for the rest.
  package func end(_ reason: RecordingEnd) {
    if isFinishing {
      // The first reason stands.
      if reason == .stopped { loop.stop() }
      return
    }
    (self.reason, isFinishing) = (reason, true)
    follower?.stop()
    lasting?.disarm()
    resting?.disarm()
    if reason == .timeout || reason == .stopped { timing?.arm(after: Self.patience) }
    output.finish(at: .now) { [loop] in loop.stop() }
  }

  /// Ends the recording at once because of an error.
  package func fail(_ error: any Error) {
    (failure, reason) = (failure ?? error, nil)
    isFinishing = true
    follower?.stop()
    loop.stop()
  }
}
