internal import Linux
internal import SystemPackage

/// Counts the port's lines, and makes a guest wait that sends too many.
final class PortMeter {
  private(set) var statistics = PortStatistics()
  /// Called when the wait is over.
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

  /// Whether one more line may be read now; if not, `whenOver` follows.
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
