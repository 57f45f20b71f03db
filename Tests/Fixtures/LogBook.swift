package import Logging
internal import Synchronization

/// Keeps what was logged.
package final class LogBook: Sendable {
  package struct Line: Sendable {
    package let level: Logger.Level
    package let text: String
  }

  private let kept = Mutex<[Line]>([])

  package init() {}

  package var lines: [Line] { kept.withLock { $0 } }
  package var warnings: [String] { lines.filter { $0.level >= .warning }.map(\.text) }

  fileprivate func add(_ line: Line) { kept.withLock { $0.append(line) } }

  package var logger: Logger { Logger(label: "test") { [self] _ in Handler(book: self) } }

  private struct Handler: LogHandler {
    let book: LogBook
    var metadata: Logger.Metadata = [:]
    var logLevel: Logger.Level = .trace

    init(book: LogBook) { self.book = book }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
      get { metadata[key] }
      set { metadata[key] = newValue }
    }

    func log(event: LogEvent) { book.add(Line(level: event.level, text: "\(event.message)")) }
  }
}
