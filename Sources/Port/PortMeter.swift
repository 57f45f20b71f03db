internal import Linux
internal import SystemPackage

/// Counts what is said on the port, and makes a guest wait that says too much.
final class PortMeter {
  private(set) var statistics = PortStatistics()
  /// It need not wait any more.
  var whenOver: () -> Void = {}
  private let clock: () -> Instant
  private var bucket: TokenBucket
  private var timer: Timer?
  private var isWaiting = false

  init(_ limits: PortLimits, clock: @escaping () -> Instant, loop: EventLoop) throws(Errno) {
    self.clock = clock
    bucket = TokenBucket(rate: limits.linesPerSecond, burst: limits.burst)
    timer = try Timer(loop) { [unowned self] in
      isWaiting = false
      whenOver()
    }
  }

  /// Whether one more line may be looked at now; if not, `whenOver` says when.
  func mayTakeLine() -> Bool {
    if isWaiting { return false }
    guard let wait = bucket.wait(at: clock()) else { return true }
    isWaiting = true
    statistics.throttled += 1
    timer?.arm(after: wait)
    return false
  }

  func takeLine() {
    statistics.lines += 1
    bucket.take(at: clock())
  }

  func countSession() { statistics.sessions += 1 }
  func countRefused() { statistics.refused += 1 }
  func count(_ error: PortError) { statistics.errors[error.name.rawValue, default: 0] += 1 }
}
