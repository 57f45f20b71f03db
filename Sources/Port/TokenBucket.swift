package import Linux

/// How often something may happen: `burst` times at once, and `rate` times a second after that.
package struct TokenBucket {
  private let interval, room: TimeSpan
  /// What was taken is paid by the time until then.
  private var paid: Instant?

  package init(rate: Int, burst: Int) {
    interval = .nanoseconds(1_000_000_000 / Int64(rate))
    room = interval * Int64(burst)
  }

  /// How long it takes until it may happen again; nil if it may now.
  package func wait(at now: Instant) -> TimeSpan? {
    guard let paid, paid > now else { return nil }
    let debt = paid - now + interval
    return debt > room ? debt - room : nil
  }

  /// It happens.
  package mutating func take(at now: Instant) { paid = max(paid ?? now, now) + interval }
}
