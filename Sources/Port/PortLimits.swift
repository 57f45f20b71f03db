package import Linux

/// The limits on the port's lines.
package struct PortLimits: Equatable, Sendable {
  /// The most bytes of a line of the guest, with its newline.
  package var line = 16 << 10
  package var linesPerSecond = 2000
  /// At most this many lines may come at once.
  package var burst = 200
  /// How long a guest may send nothing after a device's fresh start, before QEMU must connect again. More than zero.
  package var silence: TimeSpan = .seconds(10)
  package init() {}
}

/// Counts since the start.
package struct PortStatistics: Equatable, Sendable, Encodable {
  package internal(set) var sessions: UInt64 = 0
  /// Lines, right or wrong.
  package internal(set) var lines: UInt64 = 0
  /// How often the guest had to wait, because it sent too much.
  package internal(set) var throttled: UInt64 = 0
  /// Connections that were closed, because there was one already, or the user may not connect.
  package internal(set) var refused: UInt64 = 0
  /// The error answers, by their class.
  package internal(set) var errors: [String: UInt64] = [:]
  package init() {}
}
