internal import Linux

/// How long importers of revoked buffers are waited for. The guest's driver waits for one buffer after the other, with a lock held,
/// so `patience` is the time for all that end together, in which only waiting counts.
struct RevocationTime {
  private let patience: TimeSpan
  /// Revocations between which nobody was waited for that long do not end together.
  private let pause: TimeSpan
  private var left: TimeSpan
  /// Buffers whose importers are waited for, and until when.
  private var waiting = 0
  private var end = Instant.never
  private var lastEnd: Instant?

  init(_ patience: TimeSpan, pause: TimeSpan) {
    (self.patience, self.pause, left) = (patience, pause, patience)
  }

  /// Importers of one more buffer are waited for.
  /// - Returns: until when.
  mutating func begin(_ now: Instant) -> Instant {
    waiting += 1
    if waiting > 1 { return end }
    if lastEnd.map({ now - $0 > pause }) ?? true { left = patience }
    end = now + left
    return end
  }

  /// The last importer of one of them has let go, or was cut off.
  mutating func finish(_ now: Instant) {
    waiting -= 1
    if waiting > 0 { return }
    left = max(.zero, end - now)
    lastEnd = now
  }
}
