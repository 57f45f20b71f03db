package import Linux
package import SystemPackage

/// Answers `GET /metrics` on a listening socket, as a source of an event loop.
package final class MetricsServer {
  /// The most connections at once. One more is told to try again.
  package static let connectionLimit = 16
  /// The default time for a request, and then for its answer.
  package static let patience = TimeSpan.seconds(5)
  /// Helpers are asked at most this often, however many clients want metrics.
  private static let pause = TimeSpan.seconds(1)

  private let loop: EventLoop
  private let patience: TimeSpan
  private let poll: HelperPoll
  private let places: () -> [HelperPlace]
  private let whenAsked: ([HelperReading]) -> Void
  private var acceptor: Acceptor?
  private var connections: [ObjectIdentifier: ScrapeConnection] = [:]
  private var waiting: [ScrapeConnection] = []
  private var last: (text: String, at: Instant)?

  /// - Parameters:
  ///   - socket: the listening socket.
  ///   - patience: the time for a request, and then for its answer.
  ///   - poll: is used by this server alone.
  ///   - places: the present helpers.
  ///   - whenAsked: is called with their answers.
  ///   - whenFailed: is called with the reason when a connection could not be accepted.
  package init(
    _ socket: consuming UnixSocket, loop: EventLoop, patience: TimeSpan = patience, poll: HelperPoll,
    places: @escaping () -> [HelperPlace], whenAsked: @escaping ([HelperReading]) -> Void = { _ in },
    whenFailed: @escaping (Errno) -> Void = { _ in }
  ) throws(Errno) {
    (self.loop, self.patience, self.poll) = (loop, patience, poll)
    (self.places, self.whenAsked) = (places, whenAsked)
    acceptor = try Acceptor(socket, loop: loop) { [unowned self] connected throws(Errno) in
      try take(connected)
    } whenFailed: {
      whenFailed($0)
    }
  }

  deinit { close() }

  package var connectionCount: Int { connections.count }

  /// Stops listening, and ends all connections.
  package func close() {
    acceptor = nil
    waiting = []
    for connection in connections.values { connection.close() }
  }

  private func take(_ connected: consuming UnixSocket) throws(Errno) {
    guard connections.count < Self.connectionLimit else {
      // The server does not wait for the request, and a new connection has room for the answer.
      _ = try? unsafe connected.send(ScrapeStatus.busy.answer().span.bytes)
      return
    }
    let connection = try ScrapeConnection(connected, loop: loop, within: patience) { [unowned self] in
      want($0)
    } whenClosed: { [weak self] in
      self?.remove($0)
    }
    connections[ObjectIdentifier(connection)] = connection
  }

  private func remove(_ connection: ScrapeConnection) {
    connections[ObjectIdentifier(connection)] = nil
    waiting.removeAll { $0 === connection }
  }

  private func want(_ connection: ScrapeConnection) {
    if let last, Instant.now - last.at < Self.pause { return connection.answer(last.text) }
    waiting.append(connection)
    if poll.isBusy { return }
    poll.ask(places()) { [weak self] in self?.answer($0) }
  }

  private func answer(_ readings: [HelperReading]) {
    whenAsked(readings)
    let text = MetricsText.write(readings)
    last = (text, .now)
    let all = waiting
    waiting = []
    for connection in all { connection.answer(text) }
  }
}
