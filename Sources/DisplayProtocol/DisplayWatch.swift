package import Linux
package import SystemPackage
package import Varlink

/// Receives the events of `io.udmabridge.Display.Watch` in an event loop, on a connection of its own.
package final class DisplayWatch {
  /// One turn of the loop takes at most this many events. A service that sends more does not hold up timers and other
  /// sources.
  private static let mostEvents = 64

  private let client: VarlinkClient
  private let loop: EventLoop
  private var token: EventLoop.Token?
  private var goingOn: Deferred?
  private let onEvent: (DisplayEvent) throws -> Void
  private let onEnd: ((any Error)?) -> Void

  /// Calls nothing yet.
  /// - Parameters:
  ///   - onEvent: receives each event. If it throws, the watch ends.
  ///   - onEnd: receives the error that ended the watch, or nil if the service announced the end. `stop` does not call it.
  package init(
    _ client: VarlinkClient, loop: EventLoop, onEvent: @escaping (DisplayEvent) throws -> Void,
    onEnd: @escaping ((any Error)?) -> Void
  ) throws(Errno) {
    (self.client, self.loop, self.onEvent, self.onEnd) = (client, loop, onEvent, onEnd)
    goingOn = Deferred(loop) { [unowned self] in receive() }
    token = try client.withDescriptor { fd throws(Errno) in
      try loop.add(fd) { [unowned self] _ in receive() }
    }
  }

  deinit { stop() }

  package func start() throws(VarlinkClientError) {
    try client.callMore("\(displayInterfaceName).Watch")
  }

  /// Whether events can still come.
  package var isActive: Bool { token != nil }

  /// Stops receiving. Neither callback is called after this.
  package func stop() {
    goingOn = nil
    if let token = token.take() { client.withDescriptor { loop.remove(token, $0) } }
  }

  private func receive() {
    do {
      for _ in 0..<Self.mostEvents {
        guard isActive, let reply = try client.nextReceived() else { return }
        let event = try reply.decode(DisplayEvent.self)
        if event.event == .end || !reply.continues { return end(nil) }
        try onEvent(event)
      }
      goingOn?.schedule()
    } catch { end(error) }
  }

  private func end(_ error: (any Error)?) {
    guard isActive else { return }
    stop()
    onEnd(error)
  }
}
