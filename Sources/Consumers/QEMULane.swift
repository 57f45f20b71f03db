internal import Linux
internal import Scanout
internal import SystemPackage
internal import Udmabuf
internal import VhostUser

/// One scanout on QEMU's display: its picture, and how much of it QEMU was told.
final class QEMULane {
  /// An UPDATE has at most this many bytes of pixels, so that QEMU is never in the middle of a long message.
  var bandBytes = 256 << 10
  /// At most this many parts are sent in one turn of the loop, because QEMU may read as fast as they are sent.
  var bandsPerTurn = 16

  let id: ScanoutID
  let queue = PresentationQueue()
  private var scanout: UInt32 { id.rawValue }

  /// QEMU's picture on this console, from any socket.
  private enum Content { case nothing, buffer, pixels }
  private var content = Content.nothing
  /// The picture that was announced on this socket.
  private var announced: Announced?
  private struct Announced: Equatable {
    var frame: UInt64
    var source: Rectangle
  }
  /// Whether the picture must be told again, on a new socket.
  private var needsRefresh = false
  private var job: Job?
  private var lastJob: UInt64 = 0
  /// Whether sending stopped although there was room, to give other sources a turn.
  private(set) var hasMore = false

  /// One step or refresh, in one or several messages to QEMU.
  private struct Job {
    let number: UInt64
    let step: PresentationQueue.Step
    /// Whether the job renews the picture, and is no step of the queue.
    let isRefresh: Bool
    /// The changed part, in the frame's pixels.
    var damage = Rectangle(x: 0, y: 0, width: 0, height: 0)
    var state = State.start
    enum State {
      case start
      /// Pixels from this row on are not sent yet.
      case pixels(Rectangle)
      /// The last message is not sent yet.
      case end
      /// QEMU has not answered yet.
      case waiting(since: Instant)
    }
  }

  private var cursor: (image: CursorImage?, position: CursorPosition)?
  private enum CursorNews { case none, position, image }
  private var cursorNews = CursorNews.none

  init(_ scanout: UInt32) { id = ScanoutID(scanout) }

  /// When QEMU was told; nil if QEMU owes no answer.
  var waitingSince: Instant? { if case .waiting(let since) = job?.state { since } else { nil } }

  /// The buffer that QEMU was told or will be told of, and has not answered for.
  var unanswered: Frame? {
    guard content == .buffer, case .present(let presentation) = job?.step else { return nil }
    return presentation.frame
  }

  // MARK: The picture

  func setCursor(_ image: CursorImage?, at position: CursorPosition) {
    // The image is the same, at another place.
    let isMove = image != nil && image == cursor?.image && cursorNews != .image
    cursor = (image, position)
    cursorNews = isMove ? .position : .image
  }

  func moveCursor(to position: CursorPosition) {
    guard cursor?.image != nil else { return }
    cursor?.position = position
    if cursorNews == .none { cursorNews = .position }
  }

  /// Takes a frame out. If QEMU shows it, QEMU is told to stop.
  func remove(_ frame: Frame) -> PresentationQueue.Removal {
    var isConcerned = false
    if case .present(let presentation) = job?.step, presentation.frame === frame { isConcerned = true }
    let isStarted = isConcerned && job?.isRefresh == false
    let removal = queue.remove(frame, isStarted: isStarted)
    if isConcerned { job = nil }
    if job == nil, removal.wasShown || isConcerned { needsRefresh = true }
    return removal
  }

  /// The socket is gone, and with it the messages on it. QEMU goes on showing its picture.
  func forgetWhatWasTold() {
    (announced, job) = (nil, nil)
    needsRefresh = true
    if cursor != nil { cursorNews = .image }
  }

  /// QEMU is gone.
  func abandon() {
    forgetWhatWasTold()
    (content, needsRefresh, cursor, cursorNews) = (.nothing, false, nil, .none)
    queue.removeAll()
  }

  // MARK: Telling QEMU

  /// - Parameters:
  ///   - barrier: the question to ask after messages without an answer.
  ///   - answered: called with the number of a job when QEMU has done it.
  /// - Returns: false if there is no room for more.
  func proceed(
    _ connection: QEMUDisplayConnection, _ features: QEMUDisplayFeatures,
    barrier: QEMUDisplayMessage = .getProtocolFeatures, _ answered: @escaping (UInt64) -> Void
  ) -> Bool {
    hasMore = false
    var bands = 0
    while let now = job ?? nextJob() {
      job = now
      switch now.state {
      case .waiting: return sendCursor(connection)
      case .start:
        switch now.step {
        case .present(let presentation):
          guard announce(presentation, connection, features) else { return false }
        case .turnOff:
          if content == .nothing {
            _ = finish(now.number)
            continue
          }
          guard leaveBuffer(connection), connection.send(.scanout(scanout, width: 0, height: 0)) else {
            return false
          }
          (content, announced) = (.nothing, nil)
          job?.state = .end
        }
      case .pixels(let rest):
        guard case .present(let presentation) = now.step else { preconditionFailure("pixels are of a frame") }
        if bands == bandsPerTurn {
          hasMore = true
          return false
        }
        bands += 1
        guard sendPixels(rest, presentation, connection) else { return false }
      case .end:
        guard connection.ask(lastMessage(now) ?? barrier, { _ in answered(now.number) }) else { return false }
        job?.state = .waiting(since: .now)
      }
    }
    return sendCursor(connection)
  }

  private func nextJob() -> Job? {
    let step: PresentationQueue.Step
    let isRefresh: Bool
    if let current = queue.current {
      (step, isRefresh) = (current, false)
    } else if needsRefresh {
      isRefresh = true
      step = queue.shown.map { .present($0) } ?? .turnOff
    } else {
      return nil
    }
    needsRefresh = false
    lastJob += 1
    return Job(number: lastJob, step: step, isRefresh: isRefresh)
  }

  /// QEMU has done a job.
  /// - Returns: the picture that is newly shown.
  func finish(_ number: UInt64) -> Presentation? {
    // The job may have been given up, and another one may have its place.
    guard let done = job, done.number == number else { return nil }
    job = nil
    if done.isRefresh { return nil }
    _ = queue.completed()
    if case .present(let presentation) = done.step { return presentation }
    return nil
  }

  // MARK: Messages

  private func announce(
    _ presentation: Presentation, _ connection: QEMUDisplayConnection, _ features: QEMUDisplayFeatures
  ) -> Bool {
    let (frame, source) = (presentation.frame, presentation.source)
    let wanted = Announced(frame: frame.id, source: source)
    let isKnown = announced == wanted
    let damage = isKnown ? presentation.damage : source
    job?.damage = damage
    switch frame.memory {
    case .lent(let dmabuf):
      let isSent =
        isKnown || dmabuf.withSharedDescriptor { send(frame.layout, source, $0, connection, features) }
      guard isSent else { return false }
      (content, announced) = (.buffer, wanted)
      job?.state = .end
    case .shadow(let shadow) where shadow.isDMABuf:
      if !isKnown {
        // Without a free descriptor nothing new can be shown. The next frame tries again.
        if let fd = try? shadow.descriptor() {
          guard send(frame.layout, source, fd, connection, features) else { return false }
          (content, announced) = (.buffer, wanted)
        }
      }
      job?.state = .end
    case .shadow:
      if !isKnown {
        guard leaveBuffer(connection),
          connection.send(.scanout(scanout, width: source.width, height: source.height))
        else { return false }
        (content, announced) = (.pixels, wanted)
      }
      job?.state = .pixels(damage)
    }
    return true
  }

  /// Makes QEMU show its surface again, in place of its dma-buf.
  private func leaveBuffer(_ connection: QEMUDisplayConnection) -> Bool {
    guard content == .buffer else { return true }
    guard connection.send(.dmabufScanout(scanout, nil)) else { return false }
    // The surface's old content is useless.
    (content, announced) = (.pixels, nil)
    return true
  }

  private func send(
    _ layout: FrameLayout, _ source: Rectangle, _ fd: borrowing FD, _ connection: QEMUDisplayConnection,
    _ features: QEMUDisplayFeatures
  ) -> Bool {
    // The shown part begins with the image, and is sent as an image of its own.
    let buffer = QEMUDisplayBuffer(
      area: QEMUDisplayArea(x: 0, y: 0, width: source.width, height: source.height), width: source.width,
      height: source.height, stride: layout.stride, fourcc: (layout.format.opaque ?? layout.format).rawValue)
    let message: QEMUDisplayMessage =
      features.contains(.dmabuf2)
      ? .dmabufScanout2(scanout, buffer, modifier: layout.modifier) : .dmabufScanout(scanout, buffer)
    return connection.send(message, passing: fd)
  }

  /// Sends as many rows as fit into one message; the job keeps the rest.
  private func sendPixels(
    _ rest: Rectangle, _ presentation: Presentation, _ connection: QEMUDisplayConnection
  ) -> Bool {
    guard !rest.isEmpty, case .shadow(let shadow) = presentation.frame.memory else {
      job?.state = .end
      return true
    }
    let (layout, source) = (presentation.frame.layout, presentation.source)
    let rows = min(rest.height, max(1, UInt32(bandBytes) / (rest.width * 4)))
    let area = QEMUDisplayArea(x: rest.x - source.x, y: rest.y - source.y, width: rest.width, height: rows)
    let offset = Int(layout.offset) + Int(rest.y) * Int(layout.stride) + Int(rest.x) * 4
    let pixels = QEMUDisplayPixels(shadow.mapping, offset: offset, stride: Int(layout.stride))
    guard connection.send(.update(scanout, area, pixels)) else { return false }
    job?.state = .pixels(
      Rectangle(x: rest.x, y: rest.y + rows, width: rest.width, height: rest.height - rows))
    return true
  }

  /// The message that QEMU answers after it has done everything before; nil if there is none.
  private func lastMessage(_ now: Job) -> QEMUDisplayMessage? {
    guard case .present(let presentation) = now.step, content == .buffer else { return nil }
    let (damage, source) = (now.damage, presentation.source)
    return .dmabufUpdate(
      scanout,
      QEMUDisplayArea(
        x: damage.x - source.x, y: damage.y - source.y, width: damage.width, height: damage.height))
  }

  private func sendCursor(_ connection: QEMUDisplayConnection) -> Bool {
    guard cursorNews != .none, let cursor else { return true }
    let place = QEMUDisplayCursorPlace(scanout: scanout, x: cursor.position.x, y: cursor.position.y)
    let message: QEMUDisplayMessage
    if let image = cursor.image {
      message =
        cursorNews == .position
        ? .cursorPosition(place)
        : .cursorUpdate(place, hotX: image.hotX, hotY: image.hotY, image: image.pixels)
    } else {
      message = .cursorHide(place)
    }
    guard connection.send(message) else { return false }
    cursorNews = .none
    return true
  }
}
