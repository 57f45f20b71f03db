import Linux
import Logging
import Synchronization
import SystemPackage

/// One line on standard error for each message: program, level, the domain if there is one, message.
///
/// Most lines can be caused by the guest, or by whoever uses a socket: they are limited. What only somebody reads who
/// asked for it (`debug`, `trace`) is not.
struct StandardErrorLog: LogHandler {
  private final class Limit: Sendable {
    let lines = Mutex(LineLimit())
  }

  let program: String
  private let subject: String
  /// Standard error is the system's log, which wants each line's severity first.
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

/// Where lines go when standard error leads nowhere, as libvirt has it: the system's log.
enum SystemLog {
  /// journald's, which takes a stream of lines. Its datagram sockets are no use: in the sandbox too, a socket for
  /// datagrams could send one, with descriptors, to any other socket of this host.
  private static let path: FilePath = "/run/systemd/journal/stdout"

  /// Makes standard error a connection to the system's log, in which each line is an entry; what a crash has to say
  /// included.
  /// - Returns: whether there is one.
  static func replaceStandardError() -> Bool {
    // A name, no unit, facility daemon (3) with severity info (6) for lines that do not say, and that lines may say; the
    // log need not go anywhere else.
    let header = "\(programName)\n\n\(3 << 3 | 6)\n1\n0\n0\n0\n"
    do throws(Errno) {
      let log = try UnixSocket.connect(path)
      unsafe try log.fd.write(Array(header.utf8).span.bytes)
      // A log that takes nothing is not waited for.
      try log.fd.setNonblocking()
      return try log.fd.hand(as: 2) == 2
    } catch { return false }
  }
}
