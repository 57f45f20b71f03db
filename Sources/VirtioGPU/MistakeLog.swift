internal import Buffers
internal import Linux
internal import Logging

/// Counts what the guest does wrong, or asks for in vain, by kind, and logs each kind at most once in `interval`.
final class MistakeLog {
  private struct Kind {
    var lastLogged: Int64 = .min
    var unlogged = 0
  }

  /// In nanoseconds.
  var interval: Int64 = 1_000_000_000
  private let buffers: BufferTable
  private let logger: Logger
  private var kinds: [String: Kind] = [:]

  init(_ buffers: BufferTable, _ logger: Logger) { (self.buffers, self.logger) = (buffers, logger) }

  /// `kind` is one of a fixed few; `message` names the value and the limit.
  func report(_ kind: String, _ message: @autoclosure () -> String) {
    buffers.statistics.protocolErrors[kind, default: 0] += 1
    let now = monotonicNanoseconds()
    var entry = kinds[kind] ?? Kind()
    if entry.lastLogged == .min || now - entry.lastLogged >= interval {
      let more = entry.unlogged == 0 ? "" : " (and \(entry.unlogged) more like it)"
      logger.warning("\(message())\(more)")
      entry = Kind(lastLogged: now)
    } else {
      entry.unlogged += 1
    }
    kinds[kind] = entry
  }
}
