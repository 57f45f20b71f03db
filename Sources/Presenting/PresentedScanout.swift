internal import Buffers
internal import DisplayProtocol
internal import Linux
internal import Pictures
internal import Scanout
internal import SystemPackage
internal import Varlink

/// One of the guest's scanouts, shown on one of the sink's. Each has its own connection, with its own holds.
///
/// A buffer is held from before it goes to the card until the flip that replaces it, or while it is copied. Of the
/// pictures that come meanwhile, only the newest is shown.
final class PresentedScanout {
  /// At most this many buffers are kept, for this time after they were last shown. A kept buffer's pages stay pinned,
  /// and the helper does not tell when the guest gives the buffer up.
  private static let keptBuffers = 8
  private static let keptFor = TimeSpan.seconds(1)
  /// After this time the presenter replaces a connection that the helper has closed.
  private static let pause = TimeSpan.milliseconds(200)

  private unowned let presenter: Presenter
  private let index: Int
  private let scanout: ScanoutID
  private var caller: DisplayCaller?
  private var sweeping: Timer?
  private var reconnecting: Timer?
  private var buffers: [PresentedBuffer] = []

  /// The next picture, which has not been handed to the sink yet.
  private var news: (frame: DisplayFrame, damage: Rectangle?)?
  private var isAsking = false
  /// The last picture that was handed to the sink; nil when the scanout is dark.
  private var last: (buffer: PresentedBuffer, frame: DisplayFrame)?
  private var sequence: UInt64 = 0
  /// Whether a newer picture than `last` was refused. It is requested again for another screen.
  private var wasRefused = false
  private var saidOf: String?

  private var cursor: DisplayCursor?
  private var cursorImage: (number: Int, image: CursorImage)?
  private var isAskingForCursor = false
  /// Whether the cursor has moved since its image was requested.
  private var hasCursorMoved = false

  init(_ index: Int, _ presenter: Presenter, _ client: VarlinkClient) throws {
    (self.index, self.presenter) = (index, presenter)
    scanout = ScanoutID(UInt32(index))
    sweeping = try Timer(presenter.loop) { [unowned self] in sweep() }
    reconnecting = try Timer(presenter.loop) { [unowned self] in reconnect() }
    try use(client)
  }

  private func use(_ client: VarlinkClient) throws(Errno) {
    caller = try DisplayCaller(client, loop: presenter.loop) { [unowned self] _ in disconnected() }
  }

  func stop() {
    caller = nil
    (sweeping, reconnecting) = (nil, nil)
  }

  private func call(_ method: String, _ request: DisplayRequest, _ answer: @escaping DisplayCaller.Answer) {
    caller?.call(method, request, answer)
  }

  /// The helper ends, or has taken back buffers that were held for too long. They are the guest's again, and must not
  /// be shown.
  private func disconnected() {
    (isAsking, isAskingForCursor) = (false, false)
    for buffer in buffers { forget(buffer) }
    buffers = []
    last = nil
    presenter.sink.turnOff(scanout)
    reconnecting?.arm(after: Self.pause)
  }

  private func reconnect() {
    // The other connection tells whether the helper has ended.
    guard let client = presenter.connectAgain() else { return }
    do throws(Errno) { try use(client) } catch { return presenter.end(error) }
    ask()
  }

  // MARK: Frames

  func changed(_ frame: DisplayFrame, _ damage: Rectangle?) {
    let before = news
    let sum = before.flatMap { before in damage.flatMap { before.damage?.union($0) } }
    news = (frame, before == nil ? damage : sum)
    proceed()
  }

  func turnOff() {
    (news, last, wasRefused) = (nil, nil, false)
    presenter.sink.turnOff(scanout)
    sweepSoon()
  }

  private func proceed() {
    guard !isAsking, let news else { return }
    guard let buffer = buffers.first(where: { $0.number == news.frame.buffer }) else { return ask() }
    if buffer.holds > 0 { return show(buffer) }
    isAsking = true
    call("Hold", DisplayRequest(buffer: buffer.number)) { [unowned self] answer in
      isAsking = false
      switch consume answer {
      case .success:
        buffer.holds += 1
        show(buffer)
      case .failure(let error):
        // The buffer is gone. The helper announces the picture that replaced it.
        if self.news?.frame.buffer == buffer.number { self.news = nil }
        remove(buffer)
        if case .answered(let name, _) = error, !name.hasSuffix(".NoSuchBuffer") {
          presenter.complain("\(error)")
        }
      }
      proceed()
    }
  }

  /// Requests the present picture with its descriptor.
  private func ask() {
    isAsking = true
    call("GetFrame", DisplayRequest(scanout: index, hold: true)) { [unowned self] answer in
      isAsking = false
      switch consume answer {
      case .success(var reply):
        do {
          let told = try reply.decode(DisplayFrameReply.self)
          let fd = reply.descriptor.take()
          if let known = buffers.first(where: { $0.number == told.frame.buffer }) {
            takeIn(known, told.frame)
          } else if let fd {
            takeIn(try add(fd, told.frame), told.frame)
          }
        } catch {
          news = nil
          presenter.complain("\(error)")
        }
      case .failure(let error):
        news = nil
        if case .answered(let name, _) = error, !name.hasSuffix(".NoFrame") { presenter.complain("\(error)") }
      }
      proceed()
    }
  }

  private func add(_ fd: consuming FD, _ frame: DisplayFrame) throws -> PresentedBuffer {
    guard let (layout, _) = frame.geometry else {
      throw PresentingError.unshowable(frame)
    }
    while buffers.count >= Self.keptBuffers,
      let oldest = buffers.filter(\.isIdle).min(by: { $0.lastUse < $1.lastUse })
    {
      remove(oldest)
    }
    let buffer = try PresentedBuffer(
      fd, frame, layout, id: presenter.maker.newFrameID(), udmabuf: presenter.udmabuf)
    buffer.frame?.whenIdle = { [weak self, unowned buffer] in self?.settle(buffer) }
    buffers.append(buffer)
    presenter.counts.buffers += 1
    return buffer
  }

  private func takeIn(_ buffer: PresentedBuffer, _ frame: DisplayFrame) {
    buffer.holds += 1
    // A later picture was announced meanwhile, and is still in `news`.
    if let known = news, known.frame.sequence > frame.sequence { return settle(buffer) }
    news = (frame, nil)
    show(buffer)
  }

  /// Shows the picture in `news`, if it is in this buffer. The buffer is held.
  private func show(_ buffer: PresentedBuffer) {
    defer { settle(buffer) }
    guard let (frame, damage) = news, frame.buffer == buffer.number else { return }
    news = nil
    guard let (layout, source) = frame.geometry, layout == buffer.layout else {
      return presenter.complain("\(PresentingError.unshowable(frame))")
    }
    let isSame = last?.buffer === buffer && last?.frame.source == frame.source
    let changed = isSame ? (damage ?? source).intersection(source) : source
    do throws(SinkError) {
      let (shown, part, new, why) = try picture(buffer, source, changed, isNew: !isSame)
      sequence += 1
      (buffer.lastUse, last, wasRefused) = (.now, (buffer, frame), false)
      presenter.sink.present(
        Presentation(frame: shown, source: part, damage: new, sequence: sequence), on: scanout)
      let what = "\(layout) \(why ?? "")"
      if what != saidOf {
        saidOf = what
        presenter.say(layout, on: index, copied: why)
      }
    } catch {
      wasRefused = true
      presenter.counts.failed += 1
      presenter.complain("scanout \(index) cannot show \(layout): \(error)")
    }
    sweepSoon()
  }

  /// The buffer itself, or a copy if the card refuses the buffer or the cursor must be drawn.
  private func picture(
    _ buffer: PresentedBuffer, _ source: Rectangle, _ changed: Rectangle, isNew: Bool
  ) throws(SinkError) -> (frame: Frame, source: Rectangle, damage: Rectangle, whyCopied: String?) {
    let drawn = blendedCursor
    let verdict: PictureMaker.Verdict
    if let frame = buffer.frame, drawn == nil, buffer.whyCopied == nil, buffer.prepared == source {
      verdict = .lent(frame)
    } else {
      verdict = try presenter.maker.judge(
        buffer.itself, source: source, on: scanout, standing: buffer.whyCopied, drawsCursor: drawn != nil)
    }
    let cause: ShadowCause
    switch verdict {
    case .lent(let frame):
      buffer.prepared = source
      return (frame, source, changed, nil)
    case .copied(let why): cause = why
    }
    let view = View(layout: buffer.layout, source: source)
    let (copy, old) = try buffer.copy(of: source) { () throws(SinkError) in
      try presenter.maker.makeShadow(
        on: try presenter.maker.allocate(view, on: scanout), of: view, on: scanout, cause: cause)
    }
    if let old { presenter.sink.forget(old.frame) }
    if isNew { copy.isStale = true }
    do throws(Errno) {
      let (new, count) = try buffer.read { copy.update(changed, from: $0, cursor: drawn) }
      presenter.counts.bytesCopied += count
      return (copy.frame, copy.frame.layout.bounds, new, cause.message)
    } catch { throw SinkError(.other, "buffer \(buffer.number) cannot be read: \(error)") }
  }

  // MARK: Letting go

  /// Releases a buffer that the card does not read.
  private func settle(_ buffer: PresentedBuffer) {
    guard (buffer.frame?.uses ?? 0) == 0 else { return }
    while buffer.holds > 0 {
      buffer.holds -= 1
      call("Release", DisplayRequest(buffer: buffer.number)) { _ in }
    }
  }

  private func remove(_ buffer: PresentedBuffer) {
    buffers.removeAll { $0 === buffer }
    if last?.buffer === buffer { last = nil }
    forget(buffer)
    settle(buffer)
  }

  private func forget(_ buffer: PresentedBuffer) {
    if let frame = buffer.frame { presenter.sink.forget(frame) }
    buffer.prepared = nil
    if let copy = buffer.takeCopy() { presenter.sink.forget(copy.frame) }
  }

  private func sweepSoon() {
    if let sweeping, !sweeping.armed { sweeping.arm(after: Self.keptFor) }
  }

  private func sweep() {
    let limit = Instant.now - Self.keptFor
    for buffer in buffers where buffer !== last?.buffer && buffer.isIdle && buffer.lastUse <= limit {
      remove(buffer)
    }
    if buffers.count > (last == nil ? 0 : 1) { sweepSoon() }
  }

  // MARK: The screen and the cursor

  private var hasCursorPlane: Bool { presenter.sink.outputs[index].hasCursor }

  /// A screen came or went, so a refused picture may be shown now.
  func outputChanged() {
    for buffer in buffers {
      buffer.prepared = nil
      if let copy = buffer.takeCopy() { presenter.sink.forget(copy.frame) }
    }
    // An idle guest does not announce its picture again.
    if wasRefused, !isAsking { ask() }
    applyCursor()
    redraw()
  }

  /// Shows the same picture anew, unless another one is on its way.
  private func redraw() {
    guard news == nil, !isAsking, let last else { return }
    news = (last.frame, Rectangle(x: 0, y: 0, width: 0, height: 0))
    proceed()
  }

  func moveCursor(_ cursor: DisplayCursor) {
    self.cursor = cursor
    hasCursorMoved = true
    guard cursor.visible, cursorImage?.number != cursor.image else { return applyCursor() }
    guard !isAskingForCursor else { return }
    (isAskingForCursor, hasCursorMoved) = (true, false)
    call("GetCursor", DisplayRequest(scanout: index)) { [unowned self] answer in
      isAskingForCursor = false
      guard case .success(var reply) = consume answer, let fd = reply.descriptor.take(),
        let told = try? reply.decode(DisplayCursorReply.self).cursor
      else { return }
      do throws(Errno) {
        let size = Int(CursorImage.side * CursorImage.side) * 4
        let pixels = try Memfd(adopting: fd).mapForReading(size).bytes(at: 0, count: size)
        let (hotX, hotY) = (UInt32(clamping: told.hotX), UInt32(clamping: told.hotY))
        cursorImage = (told.image, CursorImage(pixels: pixels, hotX: hotX, hotY: hotY))
      } catch { return presenter.complain("the cursor's image cannot be read: \(error)") }
      moveCursor(hasCursorMoved ? self.cursor ?? told : told)
    }
  }

  private var visibleCursor: PlacedCursor? {
    guard let cursor, cursor.visible, let cursorImage else { return nil }
    let position = CursorPosition(x: Int32(clamping: cursor.x), y: Int32(clamping: cursor.y))
    return PlacedCursor(image: cursorImage.image, position: position)
  }

  private var blendedCursor: PlacedCursor? { hasCursorPlane ? nil : visibleCursor }

  private func applyCursor() {
    guard hasCursorPlane else { return redraw() }
    var position = visibleCursor?.position ?? CursorPosition(x: 0, y: 0)
    // If the picture is in the middle of a larger screen, its cursor moves with it.
    if let area = last?.buffer.copy?.area {
      (position.x, position.y) = (
        position.x &+ Int32(clamping: area.x), position.y &+ Int32(clamping: area.y)
      )
    }
    presenter.sink.setCursor(visibleCursor?.image, at: position, on: scanout)
  }
}
