package import Linux

/// How much may be said on the port.
package struct PortLimits: Equatable, Sendable {
  /// Bytes of a line of the guest, with its newline.
  package var line = 16 << 10
  package var linesPerSecond = 2000
  /// So many lines may come at once.
  package var burst = 200
  /// How long a guest may say nothing after a device's fresh start until QEMU has to connect anew. More than zero.
  package var silence: TimeSpan = .seconds(10)
  package init() {}
}

/// What was said since the start.
package struct PortStatistics: Equatable, Sendable, Encodable {
  package internal(set) var sessions: UInt64 = 0
  /// What came as a line, whatever became of it.
  package internal(set) var lines: UInt64 = 0
  /// How often the guest had to wait, since it said too much.
  package internal(set) var throttled: UInt64 = 0
  /// Connections that were closed: another one was there, or its user may not connect.
  package internal(set) var refused: UInt64 = 0
  /// The errors that were answered, by their class.
  package internal(set) var errors: [String: UInt64] = [:]
  package init() {}
}
