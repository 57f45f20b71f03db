internal import CLinux

/// How long something takes, or may take.
package struct TimeSpan: Hashable, Comparable, Sendable, CustomStringConvertible {
  package let nanoseconds: Int64

  @usableFromInline init(_ nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  package static func nanoseconds(_ count: Int64) -> TimeSpan { TimeSpan(count) }
  package static func milliseconds(_ count: Int64) -> TimeSpan { TimeSpan(count * 1_000_000) }
  package static func seconds(_ count: Int64) -> TimeSpan { TimeSpan(count * 1_000_000_000) }

  /// In whole milliseconds, rounded up: whoever waits that long waits no less than this.
  package var milliseconds: Int64 {
    nanoseconds <= 0 ? 0 : (nanoseconds - 1) / 1_000_000 + 1
  }

  @inlinable package static func < (a: TimeSpan, b: TimeSpan) -> Bool { a.nanoseconds < b.nanoseconds }

  package static func + (a: TimeSpan, b: TimeSpan) -> TimeSpan { TimeSpan(a.nanoseconds + b.nanoseconds) }
  package static func - (a: TimeSpan, b: TimeSpan) -> TimeSpan { TimeSpan(a.nanoseconds - b.nanoseconds) }
  package static func * (a: TimeSpan, count: Int64) -> TimeSpan { TimeSpan(a.nanoseconds * count) }

  /// In whole seconds where it is that, else in milliseconds.
  package var description: String {
    nanoseconds % 1_000_000_000 == 0 ? "\(nanoseconds / 1_000_000_000) s" : "\(milliseconds) ms"
  }
}

/// A point in time on the monotonic clock, which nobody sets and which stands still while the machine sleeps
/// (`CLOCK_MONOTONIC`).
package struct Instant: Hashable, Comparable, Sendable {
  @usableFromInline let nanoseconds: Int64

  @usableFromInline init(_ nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  package static var now: Instant { Instant(cl_monotonic_nanoseconds()) }
  /// Later than every other one.
  package static let never = Instant(.max)

  @inlinable package static func < (a: Instant, b: Instant) -> Bool { a.nanoseconds < b.nanoseconds }

  @inlinable package static func - (a: Instant, b: Instant) -> TimeSpan {
    TimeSpan(a.nanoseconds - b.nanoseconds)
  }

  /// `never` is the end of it.
  @inlinable package static func + (a: Instant, span: TimeSpan) -> Instant {
    let (sum, isBeyond) = a.nanoseconds.addingReportingOverflow(span.nanoseconds)
    return isBeyond ? Instant(.max) : Instant(sum)
  }

  @inlinable package static func - (a: Instant, span: TimeSpan) -> Instant {
    Instant(a.nanoseconds - span.nanoseconds)
  }
}
