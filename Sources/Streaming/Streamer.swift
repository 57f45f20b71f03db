internal import DisplayProtocol
package import Linux
internal import Scanout
package import SystemPackage
package import Udmabuf
package import Varlink

/// Follows one scanout on a control socket, and sends its pictures to GStreamer.
///
/// The helper holds a buffer while clients have a picture in it. The stream waits for no client: a slow one gets the newest
/// picture when there is room for it.
package final class Streamer {
  /// At most this many buffers are kept, and for this long after they were shown last. The helper does not say when the guest
  /// gives up a buffer, and a kept buffer pins its pages.
  private static let keptBuffers = 8
  private static let keptFor = TimeSpan.seconds(1)
  /// The streamer waits this long before it connects again, after the helper closed a connection.
  private static let pause = TimeSpan.milliseconds(200)

  private var watch: DisplayWatch?
  private let path: FilePath
  private let scanout: Int
  private let kind: CapsKind
  private let udmabuf: UdmabufDevice?
  private let loop: EventLoop
  let server: StreamServer
  private let onPicture: (StreamedPicture) -> Void
  private let onClient: (StreamClientCounts) -> Void
  private let onComplaint: (String) -> Void

  private var caller: DisplayCaller?
  private var sweeping: Timer?
  private var reconnecting: Timer?
  private var buffers: [StreamedBuffer] = []
  private var copies = StreamedCopies()

  /// The frame that is shown now, and since when.
  private var shown: (frame: DisplayFrame, since: Instant)?
  private var isAsking = false
  /// The number of the picture that was sent last.
  private var lastSequence: Int?
  /// The picture that was refused, and what it lacked. The streamer tries it again when there is more of that.
  private var refusal: (sequence: Int, lacked: Lack)?
  private var said: StreamedPicture?
  private var lines = LineLimit()
  private var lastComplaint: String?
  private var total = StreamCounts()
  /// The numbers of the scanout's pictures since the start.
  private var sequences: ClosedRange<Int>?
  /// The error that ended the stream; nil if none did.
  package private(set) var failure: (any Error)?

  private enum Lack {
    /// The helper lets this connection hold no more buffers at once.
    case holds
    /// Clients have all copies.
    case copies
    case other
  }

  /// Connects, and asks for nothing yet.
  /// - Parameters:
  ///   - watching: a connection to the control socket, which is `path`.
  ///   - socket: listens for clients.
  ///   - udmabuf: makes dma-bufs of memfds, where dma-bufs are wanted.
  ///   - onPicture: is called when the form of the pictures changes.
  ///   - onClient: is called with a client's counts when it is gone.
  ///   - onComplaint: is called with one line that says why something could not be streamed.
  package init(
    _ watching: VarlinkClient, _ path: FilePath, scanout: Int, as kind: CapsKind,
    to socket: consuming UnixSocket,
    udmabuf: UdmabufDevice?, loop: EventLoop, onPicture: @escaping (StreamedPicture) -> Void,
    onClient: @escaping (StreamClientCounts) -> Void, onComplaint: @escaping (String) -> Void
  ) throws {
    (self.path, self.scanout, self.kind) = (path, scanout, kind)
    (self.udmabuf, self.loop) = (kind == .dmabuf ? udmabuf : nil, loop)
    (self.onPicture, self.onClient, self.onComplaint) = (onPicture, onClient, onComplaint)
    server = try StreamServer(socket, loop: loop)
    sweeping = try Timer(loop) { [unowned self] in sweep() }
    reconnecting = try Timer(loop) { [unowned self] in reconnect() }
    caller = try makeCaller()
    watch = try DisplayWatch(watching, loop: loop) { [unowned self] in
      take($0)
    } onEnd: { [unowned self] in
      failure = $0
      end()
    }
    server.whenReady = { [unowned self] in
      if server.isEnding { server.tellOfEnd() } else { proceed() }
    }
    server.whenGone = { [unowned self] in note($0) }
    server.whenFailed = { [unowned self] in
      complain("a client could not be accepted, the next try is in a second: \($0)")
    }
  }

  deinit {
    (server.whenReady, server.whenGone, server.whenFailed) = (nil, nil, nil)
    close()
  }

  package func start() throws { try watch?.start() }

  /// Ends all connections. After this, no callback comes.
  package func close() {
    watch?.stop()
    caller = nil
    server.close()
  }

  /// The counts so far.
  package var counts: StreamCounts {
    var counts = total
    counts.frames = sequences?.count ?? 0
    counts.refused = server.refused
    return counts
  }

  private func note(_ client: StreamClientCounts) {
    total.clients += 1
    total.sent += client.sent
    total.skipped += client.skipped
    total.overdue += client.overdue
    onClient(client)
  }

  // MARK: The helper

  private func makeCaller() throws -> DisplayCaller {
    try DisplayCaller(VarlinkClient(path), loop: loop) { [unowned self] _ in disconnected() }
  }

  private func call(_ method: String, _ request: DisplayRequest, _ answer: @escaping DisplayCaller.Answer) {
    caller?.call(method, request, answer)
  }

  /// Called when the helper has ended, or has closed the connection because this process held a buffer too long.
  private func disconnected() {
    isAsking = false
    for buffer in buffers { buffer.holds = 0 }
    buffers = []
    reconnecting?.arm(after: Self.pause)
  }

  private func reconnect() {
    guard watch?.isActive == true else { return }
    do { caller = try makeCaller() } catch {
      reconnecting?.arm(after: Self.pause)
      return
    }
    // Calls that were made meanwhile went nowhere.
    isAsking = false
    proceed()
  }

  /// Tells clients that there is no more, and then stops the loop.
  package func end() {
    watch?.stop()
    server.end { [unowned self] in loop.stop() }
  }

  private func take(_ event: DisplayEvent) {
    switch event.event {
    case .frame:
      if let frame = event.frame, frame.scanout == scanout { note(frame) }
      proceed()
    case .off:
      guard event.scanout == scanout else { return }
      shown = nil
      server.noteOff()
      sweepSoon()
    case .outputs:
      let outputs = event.outputs ?? []
      if !outputs.contains(where: { $0.scanout == scanout }) {
        complain("the guest has \(outputs.count) scanouts, from 0 on, and no scanout \(scanout)")
      }
    case .cursor, .end: break
    }
  }

  private func note(_ frame: DisplayFrame) {
    let first = sequences?.lowerBound ?? frame.sequence
    // The answer of GetFrame can come before the event of an earlier frame.
    guard frame.sequence >= sequences?.upperBound ?? first else { return }
    sequences = first...frame.sequence
    shown = (frame, .now)
    server.noteShown(frame.sequence)
  }

  // MARK: Pictures

  /// Holds the frame that is shown, if a client wants it.
  private func proceed() {
    guard !isAsking, let frame = shown?.frame, frame.sequence != refusal?.sequence,
      server.wants(frame.sequence)
    else { return }
    guard let buffer = buffers.first(where: { $0.number == frame.buffer }) else { return ask() }
    if buffer.holds > 0 {
      stream(buffer)
      return proceed()
    }
    isAsking = true
    call("Hold", DisplayRequest(buffer: buffer.number)) { [unowned self] answer in
      isAsking = false
      switch consume answer {
      case .success: hold(buffer)
      case .failure(let error):
        // If the buffer is gone, the helper announces the next frame.
        if shown?.frame.buffer == buffer.number { refuse(error) }
        if refusal?.lacked != .holds { buffers.removeAll { $0 === buffer } }
      }
      proceed()
    }
  }

  /// Gets the frame that is shown now, with its descriptor.
  private func ask() {
    isAsking = true
    call("GetFrame", DisplayRequest(scanout: scanout, hold: true)) { [unowned self] answer in
      isAsking = false
      switch consume answer {
      case .success(var reply):
        do {
          let frame = try reply.decode(DisplayFrameReply.self).frame
          // The event of this frame may still be on the way.
          if let known = shown?.frame, known.sequence < frame.sequence { note(frame) }
          if let buffer = buffers.first(where: { $0.number == frame.buffer }) {
            hold(buffer)
          } else if let fd = reply.descriptor.take() {
            do { hold(try add(fd, frame)) } catch {
              release(frame.buffer)
              throw error
            }
          } else {
            throw StreamingError.unstreamable(frame)
          }
        } catch { refuse(error) }
      case .failure(let error): refuse(error)
      }
      proceed()
    }
  }

  /// Called when the helper holds the buffer.
  private func hold(_ buffer: StreamedBuffer) {
    buffer.holds += 1
    stream(buffer)
  }

  private func release(_ number: Int) { call("Release", DisplayRequest(buffer: number)) { _ in } }

  private func refuse(_ error: any Error) {
    guard let sequence = shown?.frame.sequence else { return }
    var lacked = Lack.other
    if case StreamingError.copiesAreInUse = error { lacked = .copies }
    if case VarlinkClientError.answered(let name, _) = error {
      if name.hasSuffix(".TooManyHolds") { lacked = .holds }
      // Another picture is shown by now.
      if name.hasSuffix(".NoSuchBuffer") || name.hasSuffix(".NoFrame") {
        refusal = (sequence, .other)
        return
      }
    }
    refusal = (sequence, lacked)
    complain("\(error)")
  }

  private func add(_ fd: consuming FD, _ frame: DisplayFrame) throws -> StreamedBuffer {
    guard let (layout, _) = frame.geometry else { throw StreamingError.unstreamable(frame) }
    while buffers.count >= Self.keptBuffers,
      let oldest = buffers.filter({ $0.uses == 0 }).min(by: { $0.lastUse < $1.lastUse })
    {
      remove(oldest)
    }
    let buffer = try StreamedBuffer(fd, frame, layout, udmabuf: udmabuf)
    buffers.append(buffer)
    return buffer
  }

  /// Sends the frame that is shown, if it is in this buffer, which is held.
  private func stream(_ buffer: StreamedBuffer) {
    defer { settle(buffer) }
    guard let (frame, since) = shown, frame.buffer == buffer.number else { return }
    do {
      guard let (layout, source) = frame.geometry, layout == buffer.layout,
        let caps = VideoCaps(kind, width: source.width, height: source.height, format: layout.format)
      else { throw StreamingError.unstreamable(frame) }
      let part = try StreamedPart(of: buffer, source, as: caps, &copies)
      if part.copied != nil {
        total.copied += 1
        total.bytesCopied += UInt64(caps.rowBytes) * UInt64(caps.height)
      }
      buffer.lastUse = .now
      let isNew = lastSequence != frame.sequence
      lastSequence = frame.sequence
      let streamed = StreamedFrame(
        id: server.nextID(), sequence: frame.sequence, time: isNew ? since : .now,
        deadline: .now + server.patience, caps: caps, part: part)
      if case .copy(let copy) = part.memory {
        streamed.whenUnused = { [weak self] in
          copy.giveBack()
          self?.tryAgain(.copies)
        }
      } else {
        buffer.uses += 1
        streamed.whenLetGo = { [weak self] in
          buffer.uses -= 1
          self?.settle(buffer)
        }
      }
      server.send(streamed)
      say(StreamedPicture(scanout: scanout, picture: "\(layout)", caps: caps.text, copied: part.copied))
    } catch { refuse(error) }
    sweepSoon()
  }

  // MARK: Letting go

  /// Releases a buffer that no client has.
  private func settle(_ buffer: StreamedBuffer) {
    guard buffer.uses == 0, buffer.holds > 0 else { return }
    for _ in 0..<buffer.holds { release(buffer.number) }
    buffer.holds = 0
    tryAgain(.holds)
  }

  /// Called when there is more of what a picture may have lacked.
  private func tryAgain(_ lacked: Lack) {
    guard refusal?.lacked == lacked else { return }
    refusal = nil
    proceed()
  }

  private func remove(_ buffer: StreamedBuffer) {
    buffers.removeAll { $0 === buffer }
    settle(buffer)
  }

  private func sweepSoon() {
    if let sweeping, !sweeping.armed { sweeping.arm(after: Self.keptFor) }
  }

  private func sweep() {
    let limit = Instant.now - Self.keptFor
    for buffer in buffers
    where buffer.number != shown?.frame.buffer && buffer.uses == 0 && buffer.lastUse <= limit {
      remove(buffer)
    }
    if buffers.count > (shown == nil ? 0 : 1) { sweepSoon() }
  }

  // MARK: Messages to the user

  private func say(_ picture: StreamedPicture) {
    if picture == said { return }
    said = picture
    switch lines.next() {
    case .write: onPicture(picture)
    case .sayItIsFull: onComplaint(LineLimit.full)
    case .leaveOut: break
    }
  }

  /// Reports a problem, unless the last report said the same.
  private func complain(_ what: String) {
    if what == lastComplaint { return }
    lastComplaint = what
    if let line = lines.admit(what) { onComplaint(line) }
  }
}
