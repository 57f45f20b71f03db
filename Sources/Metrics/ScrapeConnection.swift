internal import Linux
internal import SystemPackage

/// A connection for metrics: one request, one answer, and the end. It blocks nothing else, and each part has a limit of time and
/// size.
final class ScrapeConnection {
  /// The most bytes that are read and dropped after a request. Unread bytes at the close would lose the answer.
  private static let mostDropped = 64 << 10

  private enum State {
    case reading
    /// The metrics are on their way here.
    case waiting(headersOnly: Bool)
    case sending
    /// The answer was sent, and the connection waits for the peer's end.
    case ending
    case closed
  }

  private let socket: UnixSocket
  private let loop: EventLoop
  private let limit: TimeSpan
  private let want: (ScrapeConnection) -> Void
  private let whenClosed: (ScrapeConnection) -> Void
  private var token: EventLoop.Token?
  private var timer: Timer?
  private var state = State.reading
  private var input: [UInt8] = []
  private var output: [UInt8] = []
  private var sent = 0
  private var dropped = 0

  /// - Parameters:
  ///   - limit: the time for the request, and then for the answer.
  ///   - want: is called when metrics are wanted; `answer` gives them.
  ///   - whenClosed: runs once, when the connection is over.
  init(
    _ socket: consuming UnixSocket, loop: EventLoop, within limit: TimeSpan,
    want: @escaping (ScrapeConnection) -> Void, whenClosed: @escaping (ScrapeConnection) -> Void
  ) throws(Errno) {
    self.socket = socket
    (self.loop, self.limit, self.want, self.whenClosed) = (loop, limit, want, whenClosed)
    timer = try Timer(loop) { [unowned self] in expire() }
    token = try loop.add(self.socket.fd) { [unowned self] in ready($0) }
    timer?.arm(after: limit)
  }

  deinit { stop() }

  /// Gives the metrics that this connection wanted.
  func answer(_ metrics: String) {
    guard case .waiting(let headersOnly) = state else { return }
    respond(ScrapeStatus.ok.answer(metrics, headersOnly: headersOnly))
  }

  private func stop() {
    timer = nil
    if let token = token.take() { loop.remove(token, socket.fd) }
  }

  func close() {
    if case .closed = state { return }
    state = .closed
    stop()
    whenClosed(self)
  }

  private func expire() {
    if case .reading = state { return respond(ScrapeStatus.late.answer()) }
    close()
  }

  private func ready(_ readiness: Readiness) {
    switch state {
    case .reading: receive()
    // The peer is gone, and needs no answer.
    case .waiting: if readiness.contains(.hangup) { close() }
    case .sending: send()
    case .ending: drop()
    case .closed: break
    }
  }

  /// - Returns: the received bytes, as far as they fit; nil if there are none, and the connection may be over.
  private func take(upTo count: Int) -> [UInt8]? {
    var bytes: [UInt8] = []
    var descriptors = ReceivedDescriptors()
    do throws(Errno) {
      // Descriptors from a peer are closed here.
      if try socket.receive(into: &bytes, upTo: count, descriptors: &descriptors) > 0 { return bytes }
      close()
    } catch { if error != .wouldBlock { close() } }
    return nil
  }

  private func receive() {
    guard let bytes = take(upTo: ScrapeRequest.longest + 3 - input.count) else { return }
    input += bytes
    switch ScrapeRequest.read(input) {
    case .incomplete: break
    case .refused(let status, let headersOnly): respond(status.answer(headersOnly: headersOnly))
    case .metrics(let headersOnly):
      state = .waiting(headersOnly: headersOnly)
      // The helpers' answers have a time limit of their own.
      timer?.disarm()
      watch([])
      want(self)
    }
  }

  private func respond(_ answer: [UInt8]) {
    (state, input, output, sent) = (.sending, [], answer, 0)
    timer?.arm(after: limit)
    send()
  }

  private func send() {
    do throws(Errno) {
      while sent < output.count {
        sent += try unsafe socket.send(output.span.bytes.extracting(droppingFirst: sent))
      }
    } catch {
      if error == .wouldBlock { return watch(.writable) }
      return close()
    }
    (state, output) = (.ending, [])
    socket.endSending()
    watch(.readable)
  }

  private func drop() {
    while let bytes = take(upTo: 4096) {
      dropped += bytes.count
      if dropped > Self.mostDropped { return close() }
    }
  }

  private func watch(_ readiness: Readiness) {
    guard let token else { return }
    do throws(Errno) { try loop.modify(token, socket.fd, readiness) } catch { close() }
  }
}
