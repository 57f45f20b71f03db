import Linux
import Logging
import Synchronization
import SystemPackage

/// One line on standard error for each message: program, level, the domain if there is one, message.
///
/// The guest, or a user of a socket, can cause most lines, so their rate is limited. Only `debug` and `trace`, which
/// somebody must ask for, are not limited.
struct StandardErrorLog: LogHandler {
  private final class Limit: Sendable {
    let lines = Mutex(LineLimit())
  }

  let program: String
  private let subject: String
  /// Whether standard error is the system's log, where each line begins with its severity.
  private let toSystemLog: Bool
  private let limit = Limit()
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
    let message = "\(event.message)"
    let isFree = event.level < .info
    guard let text = isFree ? message : limit.lines.withLock({ $0.admit(message) }) else { return }
    let mark = toSystemLog ? "<\(event.level.severity)>" : ""
    printError("\(mark)\(program): \(event.level): \(subject)\(text)")
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

/// The system's log. Lines go there if standard error leads nowhere, as under libvirt.
enum SystemLog {
  /// journald's socket for a stream of lines. Its datagram sockets are no choice: even in the sandbox, a datagram socket
  /// could send descriptors to any other socket of this host.
  private static let path: FilePath = "/run/systemd/journal/stdout"

  /// Makes standard error a connection to the system's log. Each line becomes an entry, also a crash's.
  /// - Returns: whether there is such a log.
  static func replaceStandardError() -> Bool {
    // The fields: a name; no unit; facility daemon (3) and severity info (6) by default; lines may name a severity;
    // nothing is forwarded.
    let header = "\(programName)\n\n\(3 << 3 | 6)\n1\n0\n0\n0\n"
    do throws(Errno) {
      let log = try UnixSocket.connect(path)
      unsafe try log.fd.write(Array(header.utf8).span.bytes)
      // The helper does not wait for a log that accepts nothing.
      try log.fd.setNonblocking()
      return try log.fd.hand(as: 2) == 2
    } catch { return false }
  }
}
