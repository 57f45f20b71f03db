import Linux
import Logging

/// One line on standard error for each message: program, level, message.
struct StandardErrorLog: LogHandler {
  let program: String
  var logLevel: Logger.Level
  var metadata: Logger.Metadata = [:]

  init(program: String, level: Logger.Level) { (self.program, logLevel) = (program, level) }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    printError("\(program): \(event.level): \(event.message)")
  }
}
