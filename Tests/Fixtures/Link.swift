package import Linux
package import Logging
package import VhostUser

/// A vhost-user session and the front end it serves, on the two ends of a socketpair and in one thread.
package final class Link {
  package let loop: EventLoop
  package private(set) var frontEnd: FrontEnd! = nil
  package private(set) var session: VhostUserSession? = nil
  /// How the session ended: nil as long as it runs, `.some(nil)` after an orderly end.
  package private(set) var end: VhostUserError?? = nil
  /// How often it was said that the session ended.
  package private(set) var endCount = 0

  package init(
    _ device: any VhostUserDevice, loop: EventLoop? = nil,
    logger: Logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
  ) throws {
    let loop = try loop ?? EventLoop()
    self.loop = loop
    try UnixSocket.pair { mine, theirs in
      let turnsToItsEnd = FrontEnd.turns { true }
      frontEnd = try FrontEnd(theirs) { [unowned self] in
        if try loop.turn(waiting: .zero) > 0 { return true }
        // The end of the connection comes when nobody has a copy of the session's socket (`shutDown`).
        return hasEnded ? try turnsToItsEnd() : false
      }
      session = try VhostUserSession(mine, loop: loop, device: device, logger: logger) {
        [unowned self] error in
        end = .some(error)
        endCount += 1
      }
    }
  }

  private var hasEnded: Bool { session == nil || end != nil }

  /// Lets the back end do all there is to do.
  package func settle() throws {
    for _ in 0..<100_000 where try loop.turn(waiting: .zero) == 0 { return }
  }

  /// Closes the front end's side.
  package func hangUp() {
    frontEnd.socket.shutDown()
    frontEnd = nil
  }

  /// Ends the session from the back end's side.
  package func dropSession() { session = nil }
}
