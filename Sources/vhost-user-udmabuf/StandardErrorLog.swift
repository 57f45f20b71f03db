import Linux
import Logging

/// One line on standard error for each message: program, level, the domain if there is one, message.
struct StandardErrorLog: LogHandler {
  let program: String
  private let subject: String
  /// Standard error is the system's log, which wants each line's facility (daemon, 3) and severity first.
  private let toSystemLog: Bool
  var logLevel: Logger.Level
  var metadata: Logger.Metadata = [:]

  init(program: String, domain: String?, level: Logger.Level, toSystemLog: Bool) {
    (self.program, logLevel, self.toSystemLog) = (program, level, toSystemLog)
    subject = domain.map { "domain \($0): " } ?? ""
  }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    let mark = toSystemLog ? "<\(3 << 3 | event.level.severity)>" : ""
    printError("\(mark)\(program): \(event.level): \(subject)\(event.message)")
  }
}

extension Logger.Level {
  /// As in syslog(3).
  fileprivate var severity: Int {
    switch self {
    case .trace, .debug: 7
    case .info: 6
    case .notice: 5
    case .warning: 4
    case .error: 3
    case .critical: 2
    }
  }
}
