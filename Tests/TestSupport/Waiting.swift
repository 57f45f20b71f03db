internal import Fixtures
internal import Glibc
package import Linux

/// Waits until `condition` holds, for `Patience` and no longer: for an event, and not for a time.
/// - Parameter times: as long as so many ordinary events take.
package func waitUntil(_ what: String, times: Int64 = 1, _ condition: () throws -> Bool) throws {
  var pause: UInt32 = 1000
  try wait(what, times) {
    if try condition() { return true }
    usleep(pause)
    pause = min(pause * 2, 50_000)
    return false
  }
}

extension EventLoop {
  /// Turns the loop until `condition` holds, for `Patience` and no longer.
  /// - Parameter isToldOf: an event of the loop tells of it; else it is looked at again and again.
  package func turn(until what: String, isToldOf: Bool = false, _ condition: () throws -> Bool) throws {
    let pause = isToldOf ? Patience.limit : .milliseconds(10)
    try wait(what, 1) {
      if try condition() { return true }
      try turn(waiting: pause)
      return false
    }
  }
}

/// - Parameter step: returns whether the wait is over; each takes as long as it likes.
private func wait(_ what: String, _ times: Int64, _ step: () throws -> Bool) throws {
  let limit = Patience.limit * times
  let deadline = Instant.now + limit
  while try !step() {
    if Instant.now > deadline {
      throw TroubleInTest("not in \(limit): \(what)")
    }
  }
}
