package import Linux

/// Limits how often an event may happen: `burst` times at once, and `rate` times a second after that.
package struct TokenBucket {
  private let interval, room: TimeSpan
  /// The time at which all taken tokens are back.
  private var paid: Instant?

  package init(rate: Int, burst: Int) {
    interval = .nanoseconds(1_000_000_000 / Int64(rate))
    room = interval * Int64(burst)
  }

  /// The time until the event may happen again; nil if it may now.
  package func wait(at now: Instant) -> TimeSpan? {
    guard let paid, paid > now else { return nil }
    let debt = paid - now + interval
    return debt > room ? debt - room : nil
  }

  /// Takes a token.
  package mutating func take(at now: Instant) { paid = max(paid ?? now, now) + interval }
}
