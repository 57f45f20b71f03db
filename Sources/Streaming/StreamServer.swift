internal import Linux
internal import SystemPackage

/// The clients of a stream, and the pictures that they have.
final class StreamServer {
  /// So many clients at once.
  static let limit = 16
  /// So long a client may have a picture before the guest gets the buffer back, which the helper enforces after twice that.
  var patience = TimeSpan.milliseconds(500)
  /// So long clients that do not read are waited for at the end.
  private static let farewell = TimeSpan.seconds(1)

  private let loop: EventLoop
  private var acceptor: Acceptor?
  private var timer: Timer?
  private var ending: Timer?
  private(set) var clients: [StreamClient] = []
  /// The buffers of these are the guest's still, the oldest first.
  private var kept: [StreamedFrame] = []
  private var lastClient = 0
  private var lastFrame: UInt64 = 0
  /// The newest picture of the scanout, and whether it is shown now.
  private var newest: (sequence: Int, isShown: Bool)?

  private(set) var refused = 0
  /// A client takes pictures, which may be its first.
  var whenReady: (() -> Void)?
  /// A client is gone; this is what became of it.
  var whenGone: ((StreamClientCounts) -> Void)?
  var whenFailed: ((Errno) -> Void)?
  /// All have been told of the end, or did not want to hear.
  private var whenEnded: (() -> Void)?

  /// - Parameter socket: listens.
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

  /// A picture is shown.
  func noteShown(_ sequence: Int) {
    newest = (sequence, true)
    for client in clients { client.noteShown(sequence) }
  }

  /// None is.
  func noteOff() { newest?.isShown = false }

  /// Somebody has not got this picture, and can be sent it.
  func wants(_ sequence: Int) -> Bool { clients.contains { $0.wants(sequence) } }

  func nextID() -> UInt64 {
    lastFrame += 1
    return lastFrame
  }

  /// Sends it to all who want it, and keeps it for them.
  func send(_ frame: StreamedFrame) {
    // Until all have been asked.
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

  /// Tells all of the end, and takes nobody any more.
  func end(_ whenEnded: @escaping () -> Void) {
    acceptor = nil
    self.whenEnded = whenEnded
    ending?.arm(after: Self.farewell)
    tellOfEnd()
    if clients.isEmpty { self.whenEnded.take()?() }
  }

  var isEnding: Bool { acceptor == nil }

  /// Those who were not told yet.
  func tellOfEnd() { for client in clients { _ = client.sendEnd() } }

  private func giveUp() { for client in clients { client.close("it did not read to the end") } }

  /// All connections are over.
  func close() {
    acceptor = nil
    for client in clients { client.close("this program ended") }
  }
}
