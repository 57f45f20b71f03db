package import SystemPackage

// Times as plain numbers, for what does not know `Instant` and `TimeSpan` yet.

/// Nanoseconds of `CLOCK_MONOTONIC`.
package func monotonicNanoseconds() -> Int64 { Instant.now.nanoseconds }

extension Timer {
  /// Fires once after that time, a millisecond at least.
  package func arm(milliseconds: UInt32) { arm(after: .milliseconds(Int64(milliseconds))) }
}

extension EventLoop {
  /// Waits for at most `milliseconds`; -1: as long as it takes.
  @discardableResult
  package func turn(milliseconds: Int32) throws(Errno) -> Int {
    try turn(waiting: milliseconds < 0 ? nil : .milliseconds(Int64(milliseconds)))
  }
}

extension LineLimit {
  /// Decides on one more line.
  package mutating func next(at nanoseconds: Int64) -> Verdict { next(at: Instant(nanoseconds)) }
}
