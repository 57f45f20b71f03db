internal import Linux
internal import SystemPackage

/// The clients of a stream, and the pictures that they have.
final class StreamServer {
  /// The most clients at once.
  static let limit = 16
  /// A client may have a picture this long before the guest gets the buffer back. The helper enforces that after twice this time.
  var patience = TimeSpan.milliseconds(500)
  /// At the end, the server waits this long for clients that do not read.
  private static let farewell = TimeSpan.seconds(1)

  private let loop: EventLoop
  private var acceptor: Acceptor?
  private var timer: Timer?
  private var ending: Timer?
  private(set) var clients: [StreamClient] = []
  /// The pictures that clients may still have before their time is over, the oldest first.
  private var kept: [StreamedFrame] = []
  private var lastClient = 0
  private var lastFrame: UInt64 = 0
  /// The newest picture of the scanout, and whether it is shown now.
  private var newest: (sequence: Int, isShown: Bool)?

  private(set) var refused = 0
  /// Called when a client, new or not, can take a picture.
  var whenReady: (() -> Void)?
  /// Called with a client's counts when it is gone.
  var whenGone: ((StreamClientCounts) -> Void)?
  var whenFailed: ((Errno) -> Void)?
  /// Called when no client is left: each was told of the end, or did not read.
  private var whenEnded: (() -> Void)?

  /// - Parameter socket: the listening socket.
  init(_ socket: consuming UnixSocket, loop: EventLoop) throws(Errno) {
    self.loop = loop
    acceptor = try Acceptor(socket, loop: loop) { [unowned self] connected throws(Errno) in
      try take(connected)
    } whenFailed: { [unowned self] in
      whenFailed?($0)
    }
    timer = try Timer(loop) { [unowned self] in endPatience() }
    ending = try Timer(loop) { [unowned self] in giveUp() }
  }

  private func take(_ socket: consuming UnixSocket) throws(Errno) {
    guard clients.count < Self.limit else {
      refused += 1
      return
    }
    lastClient += 1
    let last = newest.map { $0.isShown ? $0.sequence - 1 : $0.sequence }
    let client = try StreamClient(
      socket, number: lastClient, after: last, loop: loop, whenReady: { [unowned self] in whenReady?() },
      whenGone: { [unowned self] in remove($0) })
    clients.append(client)
    whenReady?()
  }

  private func remove(_ client: StreamClient) {
    clients.removeAll { $0 === client }
    if let newest { client.noteLast(newest.sequence) }
    whenGone?(client.counts)
    if clients.isEmpty { whenEnded.take()?() }
  }

  // MARK: Pictures

  /// Called when a picture is shown.
  func noteShown(_ sequence: Int) {
    newest = (sequence, true)
    for client in clients { client.noteShown(sequence) }
  }

  /// Called when the scanout shows nothing.
  func noteOff() { newest?.isShown = false }

  /// A client has not got this picture, and can be sent it.
  func wants(_ sequence: Int) -> Bool { clients.contains { $0.wants(sequence) } }

  func nextID() -> UInt64 {
    lastFrame += 1
    return lastFrame
  }

  /// Sends a picture to all clients that want it, and keeps it for them.
  func send(_ frame: StreamedFrame) {
    // Keeps the frame until all clients have been asked.
    frame.acquire()
    for client in clients { client.send(frame) }
    if frame.users > 1 {
      kept.removeAll { $0.users == 0 }
      kept.append(frame)
      if let timer, !timer.armed { timer.arm(after: patience) }
    }
    frame.release()
  }

  private func endPatience() {
    let now = Instant.now
    kept.removeAll { $0.users == 0 }
    let overdue = kept.prefix { $0.deadline <= now }
    kept.removeFirst(overdue.count)
    for frame in overdue {
      for client in clients { client.noteOverdue(frame) }
      // Another picture may follow at once.
      frame.letGo()
    }
    if let first = kept.first { timer?.arm(after: first.deadline - .now) }
  }

  // MARK: The end

  /// Tells all clients of the end, and accepts no more.
  func end(_ whenEnded: @escaping () -> Void) {
    acceptor = nil
    self.whenEnded = whenEnded
    ending?.arm(after: Self.farewell)
    tellOfEnd()
    if clients.isEmpty { self.whenEnded.take()?() }
  }

  var isEnding: Bool { acceptor == nil }

  /// Tells the clients that were not told yet.
  func tellOfEnd() { for client in clients { _ = client.sendEnd() } }

  private func giveUp() { for client in clients { client.close("it did not read to the end") } }

  /// Ends all connections.
  func close() {
    acceptor = nil
    for client in clients { client.close("this program ended") }
  }
}
