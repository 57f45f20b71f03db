internal import Glibc
package import Linux

/// How long a test waits for an event: far off, since the machine may be busy, and the test host is emulated. It is one
/// bound for all tests, so that none of them measures the machine.
package enum Patience {
  package static let limit = TimeSpan.seconds(300)

  /// The end of a wait that begins now.
  package static func deadline() -> Instant { .now + limit }
}

extension FrontEnd {
  /// Gives a back end in another process time for its answers, as long as that process runs.
  package static func turns(while isRunning: @escaping () -> Bool) -> Turn {
    // Of a millisecond at least. Only what is waited counts, however long the connection lasts.
    var left = Patience.limit
    return {
      left = left - .milliseconds(1)
      if left < .zero { throw FrontEndError.late }
      usleep(1000)
      return isRunning()
    }
  }
}

extension UnixSocket {
  /// Ends the connection for the other end too, at once. To close a socket is not enough: a process that another test
  /// starts just then has a copy of it until it becomes its program.
  package borrowing func shutDown() { fd.withRaw { _ = shutdown($0, CInt(SHUT_RDWR)) } }
}
