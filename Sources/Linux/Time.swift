internal import CLinux

/// A span of time.
package struct TimeSpan: Hashable, Comparable, Sendable, CustomStringConvertible {
  package let nanoseconds: Int64

  @inlinable init(_ nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  package static let zero = TimeSpan(0)

  @inlinable package static func nanoseconds(_ count: Int64) -> TimeSpan { TimeSpan(count) }
  @inlinable package static func milliseconds(_ count: Int64) -> TimeSpan { TimeSpan(count * 1_000_000) }
  @inlinable package static func seconds(_ count: Int64) -> TimeSpan { TimeSpan(count * 1_000_000_000) }

  /// Whole milliseconds, rounded up so that a wait is never too short. Never below zero.
  package var milliseconds: Int64 { count(of: 1_000_000) }
  /// Whole seconds, rounded up. Never below zero.
  package var seconds: Int64 { count(of: 1_000_000_000) }

  private func count(of unit: Int64) -> Int64 { nanoseconds <= 0 ? 0 : (nanoseconds - 1) / unit + 1 }

  @inlinable package static func < (a: TimeSpan, b: TimeSpan) -> Bool { a.nanoseconds < b.nanoseconds }

  @inlinable package static func + (a: TimeSpan, b: TimeSpan) -> TimeSpan {
    TimeSpan(a.nanoseconds + b.nanoseconds)
  }

  @inlinable package static func - (a: TimeSpan, b: TimeSpan) -> TimeSpan {
    TimeSpan(a.nanoseconds - b.nanoseconds)
  }

  @inlinable package static func * (a: TimeSpan, count: Int64) -> TimeSpan { TimeSpan(a.nanoseconds * count) }

  /// The remainder of `a` divided by `b`.
  @inlinable package static func % (a: TimeSpan, b: TimeSpan) -> TimeSpan {
    TimeSpan(a.nanoseconds % b.nanoseconds)
  }

  /// In seconds if it is a whole number of them, otherwise in milliseconds.
  package var description: String {
    nanoseconds % 1_000_000_000 == 0 ? "\(nanoseconds / 1_000_000_000) s" : "\(milliseconds) ms"
  }
}

extension TimeSpan? {
  /// A time to wait for `poll` and `epoll_wait`: in milliseconds, -1 for no limit.
  var timeout: CInt { map { CInt(clamping: $0.milliseconds) } ?? -1 }
}

/// An instant of the monotonic clock, which nobody can set, and which stops while the machine sleeps.
/// The corresponding C constant is `CLOCK_MONOTONIC`.
package struct Instant: Hashable, Comparable, Sendable {
  @usableFromInline let nanoseconds: Int64

  @inlinable init(_ nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  package static var now: Instant { Instant(cl_monotonic_nanoseconds()) }
  /// The clock's value in nanoseconds, the same for every process of this machine.
  package var reading: UInt64 { UInt64(clamping: nanoseconds) }
  /// An instant later than all others.
  package static let never = Instant(.max)

  @inlinable package static func < (a: Instant, b: Instant) -> Bool { a.nanoseconds < b.nanoseconds }

  @inlinable package static func - (a: Instant, b: Instant) -> TimeSpan {
    TimeSpan(a.nanoseconds - b.nanoseconds)
  }

  /// The sum, at most `never`.
  @inlinable package static func + (a: Instant, span: TimeSpan) -> Instant {
    let (sum, isBeyond) = a.nanoseconds.addingReportingOverflow(span.nanoseconds)
    return isBeyond ? Instant(.max) : Instant(sum)
  }

  @inlinable package static func - (a: Instant, span: TimeSpan) -> Instant {
    Instant(a.nanoseconds - span.nanoseconds)
  }
}
