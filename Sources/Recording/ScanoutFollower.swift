internal import DisplayProtocol
package import Linux
package import SystemPackage
internal import Varlink

/// Copies a scanout's picture after each change. If several changes come during one copy, the newest counts.
package final class ScanoutFollower {
  package enum News {
    /// A picture that differs from the last one.
    case picture(RecordedPicture)
    /// The scanout shows the same picture again.
    case same
    case dark
    /// The helper has announced the end.
    case end
  }

  /// After the service closed a connection, the follower waits this long and connects again. It gives up when this has happened
  /// `mostFailures` times without a picture between.
  private static let pause = TimeSpan.milliseconds(200)
  private static let mostFailures = 10

  private let path: FilePath
  private let scanout: Int
  private let showsCursor: Bool
  private let interval: TimeSpan
  private let loop: EventLoop
  private var watch: DisplayWatch?
  private let reader: ScanoutReader
  private var pacing: Timer?
  private var reconnecting: Timer?
  private let onNews: (News) -> Void
  private let onFailure: (any Error) -> Void

  /// Announced, and not read yet.
  private var (isFrameNew, isImageNew) = (false, false)
  /// The cursor was moved or hidden since the last news.
  private var hasCursorChanged = false
  private var isReading = false
  private var isDark = true
  private var nextRead = Instant.now
  private var failures = 0
  /// The helper has announced the end. The follower still reads what was announced before.
  private var hasEnded = false
  private var isOver = false
  private var told: RecordedPicture?

  /// Connects, and calls nothing yet.
  /// - Parameters:
  ///   - interval: the least time from one copy to the next.
  ///   - onNews: is not called after `end` or a failure.
  package init(
    _ path: FilePath, scanout: Int, showsCursor: Bool, interval: TimeSpan, loop: EventLoop,
    onNews: @escaping (News) -> Void, onFailure: @escaping (any Error) -> Void
  ) throws {
    (self.path, self.scanout, self.showsCursor) = (path, scanout, showsCursor)
    (self.interval, self.loop, self.onNews, self.onFailure) = (interval, loop, onNews, onFailure)
    reader = try ScanoutReader(path, scanout: scanout, loop: loop)
    pacing = try Timer(loop) { [unowned self] in proceed() }
    reconnecting = try Timer(loop) { [unowned self] in reconnect() }
    watch = try DisplayWatch(VarlinkClient(path), loop: loop) { [unowned self] in
      try take($0)
    } onEnd: { [unowned self] error in
      if let error { return end(error) }
      hasEnded = true
      proceed()
    }
  }

  deinit { stop() }

  package func start() throws { try watch?.start() }

  /// After this, `onNews` and `onFailure` are not called.
  package func stop() {
    isOver = true
    watch?.stop()
    (pacing, reconnecting) = (nil, nil)
  }

  /// The helper has announced something that `onNews` has not told yet.
  package var isBehind: Bool { isReading || isFrameNew || isImageNew || hasCursorChanged }

  private func end(_ error: any Error) {
    if isOver { return }
    stop()
    onFailure(error)
  }

  private func tell(_ news: News) { if !isOver { onNews(news) } }

  private func tellEnd() {
    tell(.end)
    stop()
  }

  // MARK: Events

  private func take(_ event: DisplayEvent) throws {
    if event.event == .outputs {
      let count = event.outputs?.count ?? 0
      guard scanout < count else { throw RecordingError.noScanout(scanout, count: count) }
      return
    }
    let number = event.frame?.scanout ?? event.cursor?.scanout ?? event.scanout ?? 0
    guard number == scanout else { return }
    switch event.event {
    case .frame: (isFrameNew, isDark) = (true, false)
    case .off:
      (isFrameNew, isDark, told) = (false, true, nil)
      reader.forgetFrame()
      tell(.dark)
    case .cursor:
      guard showsCursor, let cursor = event.cursor else { return }
      reader.cursor = cursor
      (hasCursorChanged, isImageNew) = (true, reader.needsImage)
    case .outputs, .end: return
    }
    proceed()
  }

  // MARK: Reading

  private func proceed() {
    if isOver || isReading { return }
    let isConnected = reconnecting?.armed != true
    guard isConnected, isBehind else {
      if hasEnded { tellEnd() }
      return
    }
    let now = Instant.now
    if now < nextRead, !hasEnded {
      if pacing?.armed != true { pacing?.arm(after: nextRead - now) }
      return
    }
    if isFrameNew {
      (isReading, isFrameNew) = (true, false)
      reader.readFrame { [unowned self] in finish($0, isFrame: true) }
    } else {
      readCursor()
    }
  }

  private func readCursor() {
    guard isImageNew else { return compare() }
    (isReading, isImageNew) = (true, false)
    reader.readCursor { [unowned self] in finish($0, isFrame: false) }
  }

  private func finish(_ result: Result<Void, any Error>, isFrame: Bool) {
    isReading = false
    if isOver { return }
    do { try result.get() } catch VarlinkClientError.answered(let name, _) where name.hasSuffix(".NoFrame") {
      // An event tells that the scanout is dark.
    } catch VarlinkClientError.closed, VarlinkClientError.transport {
      if hasEnded { return tellEnd() }
      // This process held pages for too long, as after a stop (SIGSTOP), and the guest wanted them back.
      failures += 1
      if failures == Self.mostFailures { return end(RecordingError.closedAgain(times: failures)) }
      if isFrame { isFrameNew = !isDark } else { isImageNew = true }
      reconnecting?.arm(after: Self.pause)
      return
    } catch { return end(error) }
    if isFrame { readCursor() } else { compare() }
  }

  private func reconnect() {
    do { try reader.connect(path) } catch {
      // The other connection tells whether the helper has ended.
      failures += 1
      if failures == Self.mostFailures { return end(error) }
      reconnecting?.arm(after: Self.pause)
      return
    }
    proceed()
  }

  /// Tells of the picture that was read, unless the scanout went dark meanwhile.
  private func compare() {
    hasCursorChanged = false
    if isDark {
      reader.forgetFrame()
    } else if let picture = reader.picture {
      (failures, nextRead) = (0, .now + interval)
      let isSame = picture == told
      told = picture
      tell(isSame ? .same : .picture(picture))
    }
    proceed()
  }
}
