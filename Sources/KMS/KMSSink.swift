public import Linux
public import Logging
public import Scanout
internal import SystemPackage
public import Udmabuf

/// Shows frames on the screens of a card: scanout 0 on the first chosen connector, and so on.
///
/// It is DRM master from `init` to `close`, opens nothing after `init`, and waits for the card only in
/// `close` and where a frame that is on the screen is forgotten.
public final class KMSSink: ScanoutSink {
  /// A guest has at most 16 scanouts (virtio 1.3, 5.7.4: VIRTIO_GPU_MAX_SCANOUTS).
  public static let maximumOutputs = 16
  /// How soon something that the card was not ready for is tried again, in milliseconds.
  private static let retryDelay: UInt32 = 3
  /// How long it is tried, in nanoseconds.
  private static let patience: Int64 = 2_000_000_000

  /// What one output is at.
  private final class Lane {
    let output: KMSOutput
    let queue = PresentationQueue()
    /// The queue's current step was taken on: it is in the card, waits for a retry, or waits to be settled.
    var isTaken = false
    /// The tag of the commit whose flip event is awaited.
    var awaited: UInt64?
    /// Since when the card has been busy with something else.
    var busySince: Int64?
    /// What became of the current step, to be settled from the event loop.
    var outcome: Result<Void, SinkError>?

    init(_ output: KMSOutput) { self.output = output }
  }

  public let card: KMSCard
  public let outputs: [SinkOutput]
  /// The sizes, by output, that can be shown straight from guest memory; other modes only by copying.
  /// Nil where no udmabuf was there to try it with.
  public let lentSizes: [[DisplayMode]]?
  public weak var observer: (any ScanoutObserver)?
  private let lanes: [Lane]
  private let loop: EventLoop
  private let log: Logger
  private let wake: EventFD
  private var tokens: (card: EventLoop.Token, wake: EventLoop.Token)?
  private var retry: Timer?
  private var framebuffers: [UInt64: UInt32] = [:]
  private var reports: [(ScanoutID, UInt64, SinkError)] = []
  private var commits: UInt64 = 0
  private var events: [UInt8] = []

  /// Takes the card over: becomes DRM master, gives each connector its CRTC and plane, remembers what they
  /// show, and tries each mode. The screens stay as they are until the first `present`.
  ///
  /// - Parameter connectors: their names in the order of the scanouts; empty means all that are connected.
  /// - Parameter udmabuf: to try each mode with a buffer like those to come; without it, one of the card's
  ///   own is taken.
  public init(
    _ card: KMSCard, connectors: [String] = [], udmabuf: UdmabufDevice? = nil, loop: EventLoop, log: Logger
  ) throws(KMSError) {
    try card.becomeMaster()
    var outputs: [KMSOutput] = []
    for pipe in try KMSPipe.choose(connectors, of: card, limit: Self.maximumOutputs) {
      outputs.append(try KMSOutput(pipe, of: card))
    }
    (self.card, self.loop, self.log) = (card, loop, log)
    lanes = outputs.map(Lane.init)
    let trial = ModeTrial(card, udmabuf)
    let verdicts = outputs.map { trial.run($0) }
    self.outputs = zip(outputs, verdicts).map { output, verdict in
      let connector = output.pipe.connector
      return SinkOutput(
        name: connector.name, modes: verdict.shown, widthMillimetres: connector.widthMillimetres,
        heightMillimetres: connector.heightMillimetres)
    }
    lentSizes = udmabuf == nil ? nil : verdicts.map(\.lent)
    do throws(Errno) {
      wake = try EventFD()
      let events = try loop.add(card.file.fd) { [unowned self] in cardIsReady($0) }
      let woken = try loop.add(wake.fd) { [unowned self] _ in settleAll() }
      tokens = (events, woken)
      retry = try Timer(loop) { [unowned self] in retryBusy() }
    } catch { throw .call("watching its events", card: card.name, error) }
    for (index, lane) in lanes.enumerated() {
      // Weak, as the queues are emptied in `deinit` too, when nobody is there to hear of it.
      lane.queue.whenReplaced = { [weak self] in self?.observer?.replaced($0, on: ScanoutID(UInt32(index))) }
    }
    for (output, verdict) in zip(self.outputs, verdicts) {
      let card = "\(card.name) (\(card.driver)\(card.isAtomic ? "" : ", without atomic commits"))"
      let preferred = verdict.shown.first?.description ?? "none"
      log.info(
        "\(card): \(output.name), \(verdict.shown.count) modes, \(preferred) preferred"
      )
      for refusal in verdict.refusals { log.debug("\(output.name): \(refusal)") }
    }
  }

  /// Opens or finds the card that `target` says, and takes it over.
  public convenience init(
    _ target: KMSTarget, udmabuf: UdmabufDevice? = nil, loop: EventLoop, log: Logger
  ) throws(KMSError) {
    try self.init(
      KMSCard(target), connectors: target.connectors, udmabuf: udmabuf, loop: loop, log: log)
  }

  deinit { close() }

  /// Puts back what the screens showed before, lets go of all frames, and gives the card up. Waits for the
  /// card. Nothing happens the second time.
  public func close() {
    guard let tokens else { return }
    self.tokens = nil
    loop.remove(tokens.card, card.file.fd)
    loop.remove(tokens.wake, wake.fd)
    retry = nil
    deliverReports()
    for lane in lanes { lane.output.restore() }
    for framebuffer in framebuffers.values { card.removeFramebuffer(framebuffer) }
    framebuffers.removeAll()
    card.dropMaster()
    for lane in lanes { lane.queue.removeAll() }
  }

  // MARK: Frames

  public func prepare(_ frame: Frame, source: Rectangle, on scanout: ScanoutID) throws(SinkError) {
    guard let lane = lane(scanout) else { throw noOutput(scanout) }
    let output = lane.output
    guard !source.isEmpty, source.fits(width: frame.layout.width, height: frame.layout.height) else {
      throw SinkError(.other, "the part \(source) is not inside the frame \(frame.layout)")
    }
    if card.showsFromStartOnly, source.x != 0 || source.y != 0 {
      throw SinkError(
        .part,
        "\(card.name) (\(card.driver)) shows a frame from its first pixel on, not the part \(source); "
          + "the guest has to show the whole of its buffer")
    }
    let size = PixelSize(width: source.width, height: source.height)
    guard output.hasMode(size) else { throw noMode(size, output) }
    let known = framebuffers[frame.id]
    let framebuffer =
      if let known { known } else {
        try card.makeFramebuffer(frame.memory, frame.layout, for: output.pipe.plane)
      }
    do throws(Errno) {
      try output.test(framebuffer, source)
      framebuffers[frame.id] = framebuffer
    } catch {
      if known == nil { card.removeFramebuffer(framebuffer) }
      throw refusal("the mode \(size) of \(output.pipe.connector.name) with \(frame.layout)", .mode, error)
    }
  }

  public func allocate(
    width: UInt32, height: UInt32, format: FourCC, on scanout: ScanoutID
  ) throws(SinkError) -> Canvas {
    guard let lane = lane(scanout) else { throw noOutput(scanout) }
    let buffer = try card.allocate(PixelSize(width: width, height: height))
    let formats = lane.output.pipe.plane.formats
    // Behind the lowest plane there is nothing that alpha could let through.
    let format = [format.opaque, format].compactMap(\.self).first(where: formats.contains) ?? .xrgb8888
    let layout = FrameLayout(width: width, height: height, format: format, stride: buffer.stride)
    return Canvas(memory: buffer, layout: layout, area: layout.bounds)
  }

  public func setCursor(_ image: CursorImage?, at position: CursorPosition, on scanout: ScanoutID) {}

  public func moveCursor(to position: CursorPosition, on scanout: ScanoutID) {}

  public func forget(_ frame: Frame) {
    guard let framebuffer = framebuffers.removeValue(forKey: frame.id) else { return }
    let error = SinkError(.other, "the frame was taken back before it was shown")
    card.removeFramebuffer(framebuffer)
    // Only now: the uses that end here may hand the pages back to the guest.
    for (index, lane) in lanes.enumerated() {
      if case .on(_, _, framebuffer) = lane.output.state { lane.output.wentDark() }
      let removal = lane.queue.remove(frame)
      let scanout = ScanoutID(UInt32(index))
      if let lost = removal.waiting { report(lost.sequence, scanout, error) }
      if let lost = removal.inFlight {
        report(lost.sequence, scanout, error)
        drop(lane)
        start(lane)
      }
    }
  }

  // MARK: Presenting

  public func present(_ presentation: Presentation, on scanout: ScanoutID) {
    guard let lane = lane(scanout) else { return report(presentation.sequence, scanout, noOutput(scanout)) }
    if lane.queue.submit(.present(presentation)) { start(lane) }
  }

  public func turnOff(_ scanout: ScanoutID) {
    guard let lane = lane(scanout) else { return }
    if lane.queue.submit(.turnOff) { start(lane) }
  }

  private func lane(_ scanout: ScanoutID) -> Lane? {
    tokens != nil && scanout.rawValue < lanes.count ? lanes[Int(scanout.rawValue)] : nil
  }

  /// Takes on the queue's current step, if there is one that has not been taken on.
  private func start(_ lane: Lane) {
    guard !lane.isTaken, lane.queue.current != nil else { return }
    lane.isTaken = true
    attempt(lane)
  }

  private func attempt(_ lane: Lane) {
    commits += 1
    let tag = commits
    var action = ""
    do throws(Errno) {
      let completion: KMSOutput.Completion
      switch lane.queue.current {
      case .present(let presentation):
        action = "showing \(presentation.frame.layout) on \(lane.output.pipe.connector.name)"
        guard let framebuffer = framebuffers[presentation.frame.id] else {
          return settleSoon(lane, .failure(SinkError(.other, "the frame was not prepared")))
        }
        completion = try lane.output.show(
          framebuffer, presentation.source, damage: presentation.damage, tag: tag)
      case .turnOff:
        action = "switching \(lane.output.pipe.connector.name) off"
        completion = try lane.output.turnOff(tag: tag)
      case nil: return drop(lane)
      }
      lane.busySince = nil
      switch completion {
      case .event: lane.awaited = tag
      case .now: settleSoon(lane, .success(()))
      }
    } catch {
      let now = monotonicNanoseconds()
      if error == .resourceBusy, now - (lane.busySince ?? now) < Self.patience {
        lane.busySince = lane.busySince ?? now
        if let retry, !retry.armed { retry.arm(milliseconds: Self.retryDelay) }
      } else {
        // Somebody else may have set other modes meanwhile: the next one sets everything anew.
        if error != .resourceBusy { lane.output.wentDark() }
        settleSoon(lane, .failure(refusal(action, error == .resourceBusy ? .busy : .other, error)))
      }
    }
  }

  private func retryBusy() {
    for lane in lanes where lane.isTaken && lane.busySince != nil { attempt(lane) }
  }

  /// The current step is no longer anybody's business.
  private func drop(_ lane: Lane) {
    lane.isTaken = false
    lane.awaited = nil
    lane.busySince = nil
    lane.outcome = nil
  }

  // MARK: Outcomes

  /// Outcomes that are known at once are told from the event loop all the same, so that nobody is called
  /// back in the middle of a call.
  private func settleSoon(_ lane: Lane, _ outcome: Result<Void, SinkError>) {
    lane.outcome = outcome
    wake.signal()
  }

  private func report(_ sequence: UInt64, _ scanout: ScanoutID, _ error: SinkError) {
    // Without the card the loop does not look here any more.
    guard tokens != nil else {
      observer?.failed(sequence, on: scanout, error)
      return
    }
    reports.append((scanout, sequence, error))
    wake.signal()
  }

  private func settleAll() {
    wake.drain()
    deliverReports()
    for (index, lane) in lanes.enumerated() {
      if let outcome = lane.outcome { settle(lane, ScanoutID(UInt32(index)), outcome) }
    }
  }

  private func deliverReports() {
    let failures = reports
    reports.removeAll()
    for (scanout, sequence, error) in failures { observer?.failed(sequence, on: scanout, error) }
  }

  private func settle(_ lane: Lane, _ scanout: ScanoutID, _ outcome: Result<Void, SinkError>) {
    let step = lane.queue.current
    drop(lane)
    switch outcome {
    case .success: _ = lane.queue.completed()
    case .failure: _ = lane.queue.failed()
    }
    // The next one first: the card's time until the vertical blank is shorter than the observer's.
    start(lane)
    guard case .present(let presentation) = step else { return }
    switch outcome {
    case .success: observer?.presented(presentation.sequence, frame: presentation.frame, on: scanout)
    case .failure(let error): observer?.failed(presentation.sequence, on: scanout, error)
    }
  }

  private func cardIsReady(_ readiness: Readiness) {
    do throws(Errno) {
      let count = try card.file.fd.read(into: &events, upTo: 1024)
      let isWhole = unsafe FlipEvent.parse(events.span.bytes.extracting(first: count)) { flip in
        guard let index = lanes.firstIndex(where: { $0.awaited == flip.tag }) else { return }
        settle(lanes[index], ScanoutID(UInt32(index)), .success(()))
      }
      if !isWhole { log.error("\(card.name) sent an event that cannot be read") }
      if count == 0 { disconnect(.operationNotSupportedByDevice) }
    } catch .wouldBlock {
      if readiness.contains(.hangup) { disconnect(.operationNotSupportedByDevice) }
    } catch { disconnect(error) }
    retryBusy()
  }

  /// The card is gone: everything that is under way fails, and so does what comes.
  private func disconnect(_ error: Errno) {
    guard let tokens else { return }
    self.tokens = nil
    loop.remove(tokens.card, card.file.fd)
    loop.remove(tokens.wake, wake.fd)
    retry = nil
    let failure = SinkError(.disconnected, "\(card.name) (\(card.driver)) is gone: \(error)")
    log.error("\(failure.description)")
    deliverReports()
    for (index, lane) in lanes.enumerated() {
      lane.queue.whenReplaced = { [weak self] in
        self?.observer?.failed($0, on: ScanoutID(UInt32(index)), failure)
      }
      drop(lane)
      lane.queue.removeAll()
    }
  }

  // MARK: Refusals

  private func noOutput(_ scanout: ScanoutID) -> SinkError {
    tokens == nil
      ? SinkError(.disconnected, "\(card.name) has been given up")
      : SinkError(.noOutput, "scanout \(scanout) has no connector; \(card.name) shows \(lanes.count)")
  }

  private func noMode(_ size: PixelSize, _ output: KMSOutput) -> SinkError {
    var sizes: [PixelSize] = []
    for mode in output.modes where !sizes.contains(mode.size) { sizes.append(mode.size) }
    let listed = sizes.prefix(16).map(\.description).joined(separator: ", ")
    return SinkError(
      .mode,
      "\(output.pipe.connector.name) of \(card.name) (\(card.driver)) has no mode \(size); it has: \(listed)")
  }

  private func refusal(_ what: String, _ kind: SinkError.Refusal, _ error: Errno) -> SinkError {
    switch error {
    case .permissionDenied, .notPermitted:
      SinkError(
        .busy,
        "\(card.name) (\(card.driver)) refused \(what): somebody else is DRM master now; "
          + "switch back to this virtual terminal, or end the other one")
    case .operationNotSupportedByDevice:
      SinkError(.disconnected, "\(card.name) (\(card.driver)) is gone")
    default:
      SinkError(
        kind,
        "\(card.name) (\(card.driver)) refused \(what): \(error); another mode may work")
    }
  }
}
