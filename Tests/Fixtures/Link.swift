public import Linux
public import Logging
public import VhostUser

/// A vhost-user session and the front end it serves, on the two ends of a socketpair and in one thread.
public final class Link {
  public let loop: EventLoop
  public private(set) var frontEnd: FrontEnd! = nil
  public private(set) var session: VhostUserSession? = nil
  /// How the session ended: nil as long as it runs, `.some(nil)` after an orderly end.
  public private(set) var end: VhostUserError?? = nil
  /// How often it was said that the session ended.
  public private(set) var endCount = 0

  public init(
    _ device: any VhostUserDevice, loop: EventLoop? = nil,
    logger: Logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
  ) throws {
    let loop = try loop ?? EventLoop()
    self.loop = loop
    try UnixSocket.pair { mine, theirs in
      frontEnd = try FrontEnd(theirs) { try loop.turn(milliseconds: 0) > 0 }
      session = try VhostUserSession(mine, loop: loop, device: device, logger: logger) {
        [unowned self] error in
        end = .some(error)
        endCount += 1
      }
    }
  }

  /// Lets the back end do all there is to do.
  public func settle() throws {
    for _ in 0..<100_000 where try loop.turn(milliseconds: 0) == 0 { return }
  }

  /// Closes the front end's side.
  public func hangUp() { frontEnd = nil }

  /// Ends the session from the back end's side.
  public func dropSession() { session = nil }
}
