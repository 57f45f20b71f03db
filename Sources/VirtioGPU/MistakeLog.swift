internal import Buffers
internal import Linux
internal import Logging

/// Counts mistakes by kind, and logs each kind at most once in `interval`.
final class MistakeLog {
  private struct Entry {
    var count: UInt64 = 0
    var lastLogged: Instant?
    var unlogged = 0
  }

  var interval = TimeSpan.seconds(1)
  private let logger: Logger
  private let advice: Advice
  private var entries: [MistakeKind: Entry] = [:]

  init(_ logger: Logger, advice: @escaping Advice = { _ in nil }) {
    (self.logger, self.advice) = (logger, advice)
  }

  func report(_ mistake: Mistake) {
    report(
      mistake.kind,
      mistake.message + (mistake.quota.flatMap { advice(.quota($0)) }.map { "; \($0)" } ?? ""))
  }

  /// - Parameter message: names the value, and the limit.
  func report(_ kind: MistakeKind, _ message: @autoclosure () -> String) {
    let now = Instant.now
    var entry = entries[kind] ?? Entry()
    entry.count += 1
    if let last = entry.lastLogged, now - last < interval {
      entry.unlogged += 1
    } else {
      let more = entry.unlogged == 0 ? "" : " (and \(entry.unlogged) more like it)"
      logger.warning("\(message())\(more)")
      (entry.lastLogged, entry.unlogged) = (now, 0)
    }
    entries[kind] = entry
  }

  func report(into statistics: inout Statistics) {
    for (kind, entry) in entries { statistics.protocolErrors[kind.rawValue, default: 0] += entry.count }
  }
}
