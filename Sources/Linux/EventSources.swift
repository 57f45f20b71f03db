internal import CLinux
internal import Glibc
package import SystemPackage

/// An eventfd, by which the two sides of a virtqueue call each other. Nonblocking.
package struct EventFD: ~Copyable, Sendable {
  /// The eventfd itself: readable while its counter is not zero.
  package let fd: FD

  /// Adopts an eventfd that a peer sent, and makes it nonblocking, because it may be any descriptor.
  package init(adopting fd: consuming FD) throws(Errno) {
    try fd.setNonblocking()
    self.fd = fd
  }

  /// The corresponding C function is `eventfd`.
  package init() throws(Errno) { fd = FD(adopting: try retrying { cl_eventfd() }) }

  /// Adds one to the counter. A full counter wakes the reader too.
  package borrowing func signal() {
    fd.withRaw { raw in
      var one: UInt64 = 1
      _ = try? retrying { unsafe write(raw, &one, 8) }
    }
  }

  /// Sets the counter to zero.
  /// - Returns: false if it was zero or cannot be read.
  @discardableResult
  package borrowing func drain() -> Bool {
    fd.withRaw { raw in
      var counter: UInt64 = 0
      return (try? retrying { unsafe read(raw, &counter, 8) }) == 8
    }
  }
}

/// Makes a pipe, whose ends are nonblocking. The corresponding C function is `pipe2`.
/// - Parameter keep: takes the end for reading. That end sees a hangup when all processes have closed every copy of the
///   other end. The other end sees one (`POLLERR`) when nobody can read any more.
/// - Returns: the end for writing.
package func makePipe(_ keep: (consuming FD) throws(Errno) -> Void) throws(Errno) -> FD {
  var ends: [CInt] = [-1, -1]
  _ = try retrying { unsafe cl_pipe(&ends) }
  let written = FD(adopting: ends[1])
  try keep(FD(adopting: ends[0]))
  return written
}

/// A one-shot timer as a source of an event loop.
package final class Timer {
  private let fd: FD
  private let loop: EventLoop
  private var token: EventLoop.Token?
  /// Whether it was armed and has not fired.
  package private(set) var armed = false

  /// `handler` runs each time an armed delay has passed.
  package init(_ loop: EventLoop, _ handler: @escaping () -> Void) throws(Errno) {
    fd = FD(adopting: try retrying { cl_timerfd() })
    self.loop = loop
    token = try loop.add(fd) { [unowned self] _ in
      armed = false
      _ = try? fd.read(upTo: 8)
      handler()
    }
  }

  deinit { if let token { loop.remove(token, fd) } }

  /// Fires once after `delay`, at least a millisecond. A delay that was armed before is forgotten.
  package func arm(after delay: TimeSpan) {
    armed = true
    _ = fd.withRaw { cl_timerfd_arm($0, max(delay, .milliseconds(1)).nanoseconds) }
  }

  /// Forgets the armed delay.
  package func disarm() {
    guard armed else { return }
    armed = false
    _ = fd.withRaw { cl_timerfd_arm($0, 0) }
  }
}

/// Reports jumps of the system's clock: it was set, or the system woke from sleep, perhaps on another machine.
/// The corresponding C function is `timerfd_settime` with `TFD_TIMER_CANCEL_ON_SET`.
package final class ClockWatch {
  private let fd: FD
  private let loop: EventLoop
  private var token: EventLoop.Token?

  package init(_ loop: EventLoop, _ handler: @escaping () -> Void) throws(Errno) {
    fd = FD(adopting: try retrying { cl_clock_watch() })
    self.loop = loop
    try arm()
    token = try loop.add(fd) { [unowned self] _ in
      _ = try? fd.read(upTo: 8)
      try? arm()
      handler()
    }
  }

  deinit { if let token { loop.remove(token, fd) } }

  private func arm() throws(Errno) {
    _ = try fd.withRaw { raw throws(Errno) in try retrying { cl_clock_watch_arm(raw) } }
  }
}

/// Signals as a source of an event loop. They stay blocked in this thread for good.
package struct SignalFD: ~Copyable {
  /// Readable while a signal waits.
  package let fd: FD

  /// The corresponding C function is `signalfd`.
  package init(_ signals: [CInt]) throws(Errno) {
    fd = FD(
      adopting: try retrying {
        unsafe signals.withUnsafeBufferPointer { unsafe cl_signalfd($0.baseAddress, $0.count) }
      })
  }

  /// The number of the next signal that arrived, or nil.
  package borrowing func next() -> CInt? {
    fd.withRaw { raw in try? retrying { cl_signalfd_read(raw) } }
  }
}

/// Lets a write fail instead of ending the process: with `brokenPipe` if nobody reads the pipe, with `fileTooLarge`
/// beyond this process's limit on a file's size (`RLIMIT_FSIZE`).
package func ignoreWriteSignals() throws(Errno) {
  for number in [SIGPIPE, SIGXFSZ] { _ = try retrying { cl_ignore_signal(number) } }
}

/// From now on, SIGBUS ends the process with status 1 and a line on standard error. SIGBUS comes when mapped memory is
/// missing: a peer made the file shorter, which a file without `F_SEAL_SHRINK` allows, or its file system is full.
package func exitOnBusError(_ line: StaticString) throws(Errno) {
  _ = try retrying { unsafe cl_exit_on_bus_error(line.utf8Start, line.utf8CodeUnitCount) }
}
