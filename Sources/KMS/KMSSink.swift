package import Linux
package import Logging
package import Scanout
internal import SystemPackage
package import Udmabuf

/// Shows frames on the screens of a card: scanout 0 on the first chosen connector, and so on.
///
/// The sink is DRM master from `init` to `close`, and opens nothing after `init`. It waits for the card only in
/// `close`, and in `forget` of a frame on the screen.
///
/// This file takes the card over and gives it up. `+Outputs` makes the offer to the guest, `+Frames` and `+Canvases`
/// take frames in and let them go, `+Presenting` and `+Cursor` show them, and `+Hotplug` follows screens that come
/// and go.
package final class KMSSink: ScanoutSink {
  /// A guest has at most 16 scanouts (virtio 1.3, 5.7.4: VIRTIO_GPU_MAX_SCANOUTS).
  package static let maximumOutputs = 16

  package let card: KMSCard
  package internal(set) var outputs: [SinkOutput]
  /// The modes, by output, that the card could show from guest memory at the start. It can show other modes only by
  /// copying. Nil if there was no udmabuf for the test.
  package let lentSizes: [[DisplayMode]]?
  package weak var observer: (any ScanoutObserver)?
  let lanes: [KMSLane]
  let loop: EventLoop
  let log: Logger
  /// The card as a source of `loop`. Nil when the card is gone or was given up.
  var cardToken: EventLoop.Token?
  /// Runs `settleAll` from the event loop. Nil after `close`.
  private(set) var settling: Deferred?
  /// A loop with the card as its only source, for the rare case in which `forget` must wait for a flip.
  let waiting: EventLoop
  private var waitingToken: EventLoop.Token?
  /// Runs `retryBusy`, for commits that the card was not ready for.
  var retry: Timer?
  /// Runs `retryTurnOffs`, for screens that the card refused to switch off.
  var turnOffRetry: Timer?
  /// Nil if the kernel's announcements cannot be received, or after the sink has stopped watching.
  var hotplug: DeviceEventSocket?
  var hotplugToken: EventLoop.Token?
  /// The framebuffers of prepared frames, by the ids of the frames.
  var framebuffers: [UInt64: UInt32] = [:]
  /// Failures that are in no lane's `outcome`.
  let reports = ReportQueue()
  /// Whether `outputs` has changed, and the observer was not told yet.
  var outputsHaveNews = false
  /// Why the event loop must give the card up.
  var loss: Errno?
  /// Counts commits; its value is the tag of the last one.
  var commits: UInt64 = 0
  /// The longest time for retries of a commit on a busy card.
  var patience = TimeSpan.seconds(2)
  /// The longest wait for a flip before the sink lets go of the frame on the screen.
  var flipPatience = TimeSpan.milliseconds(250)
  /// The bytes that were last read from the card. The array is kept for its capacity.
  var events: [UInt8] = []

  /// Takes the card over: becomes DRM master, gives each connector its CRTC and plane, remembers what they
  /// show, and tries each mode. The screens stay as they are until the first `present`.
  ///
  /// - Parameter connectors: their names in the order of the scanouts; they need no screen yet. Empty means all
  ///   connected ones.
  /// - Parameter udmabuf: makes a buffer like a guest's to test each mode with. Without it the card's own buffers are
  ///   tested.
  package init(
    _ card: KMSCard, connectors: [String] = [], udmabuf: UdmabufDevice? = nil, loop: EventLoop, log: Logger
  ) throws(KMSError) {
    try card.becomeMaster()
    var lanes: [KMSLane] = []
    for (index, pipe) in try KMSPipe.choose(connectors, of: card, limit: Self.maximumOutputs).enumerated() {
      lanes.append(KMSLane(index, try KMSOutput(pipe, of: card)))
    }
    (self.card, self.lanes, self.loop, self.log) = (card, lanes, loop, log)
    if let udmabuf { card.tryImport(udmabuf) }
    let trial = ModeTrial(card, udmabuf)
    let verdicts = lanes.map { trial.run($0.output) }
    outputs = zip(lanes, verdicts).map { Self.offer($0, $1) }
    lentSizes = udmabuf == nil ? nil : verdicts.map(\.lent)
    do throws(Errno) {
      waiting = try EventLoop()
      cardToken = try card.file.withFD { card throws(Errno) in
        try loop.add(card) { [unowned self] in cardIsReady($0) }
      }
      settling = Deferred(loop) { [unowned self] in settleAll() }
      waitingToken = try card.file.withFD { card throws(Errno) in
        try waiting.add(card) { [unowned self] _ in
          takeEvents()
          settling?.schedule()
        }
      }
      retry = try Timer(loop) { [unowned self] in retryBusy() }
      turnOffRetry = try Timer(loop) { [unowned self] in retryTurnOffs() }
    } catch { throw .call("watching its events", card: card.name, error) }
    watchHotplug()
    for lane in lanes {
      // Weak, because `deinit` empties the queues too, when the sink is gone.
      lane.queue.whenReplaced = { [weak self, scanout = lane.scanout] in
        self?.observer?.replaced($0, on: scanout)
      }
    }
    for (output, verdict) in zip(outputs, verdicts) { describe(output, verdict) }
  }

  /// Opens or finds the card that `target` names, and takes it over.
  package convenience init(
    _ target: KMSTarget, udmabuf: UdmabufDevice? = nil, loop: EventLoop, log: Logger
  ) throws(KMSError) {
    try self.init(
      KMSCard(target), connectors: target.connectors, udmabuf: udmabuf, loop: loop, log: log)
  }

  deinit { close() }

  /// Restores what the screens showed before, lets go of all frames, and gives the card up. Waits for the card. A
  /// second call does nothing.
  package func close() {
    guard settling.take() != nil else { return }
    stopWatching()
    reports.deliver(to: observer)
    for lane in lanes { lane.output.restore() }
    for framebuffer in framebuffers.values { card.removeFramebuffer(framebuffer) }
    framebuffers.removeAll()
    card.dropMaster()
    for lane in lanes { lane.queue.removeAll() }
  }

  /// Takes the card, the timers and the announcements out of the event loops.
  func stopWatching() {
    for (token, loop) in [(cardToken.take(), loop), (waitingToken.take(), waiting)] {
      if let token { _ = try? card.file.withFD { loop.remove(token, $0) } }
    }
    if let token = hotplugToken.take(), let hotplug = hotplug.take() { loop.remove(token, hotplug.fd) }
    (retry, turnOffRetry) = (nil, nil)
  }

  var isClosed: Bool { settling == nil }

  /// The lane of a scanout; nil without the scanout, or if the card is gone.
  func lane(_ scanout: ScanoutID) -> KMSLane? {
    cardToken != nil && scanout.rawValue < lanes.count ? lanes[Int(scanout.rawValue)] : nil
  }

  // MARK: Refusals

  func noOutput(_ scanout: ScanoutID) -> SinkError {
    cardToken == nil
      ? SinkError(.disconnected, "\(card.name) has been given up")
      : SinkError(.noOutput, "scanout \(scanout) has no connector; \(card.name) shows \(lanes.count)")
  }

  func noScreen(_ lane: KMSLane) -> SinkError {
    SinkError(
      .noOutput, "\(lane.output.pipe.connector.name) of \(card.name) (\(card.driver)) has no screen now")
  }

  func noMode(_ size: PixelSize, _ output: KMSOutput) -> SinkError {
    var sizes: [PixelSize] = []
    for mode in output.modes where !sizes.contains(mode.size) { sizes.append(mode.size) }
    let listed = sizes.prefix(16).map(\.description).joined(separator: ", ")
    return SinkError(
      .mode,
      "\(output.pipe.connector.name) of \(card.name) (\(card.driver)) has no mode \(size); it has: \(listed)")
  }

  func refusal(_ what: String, _ kind: SinkError.Refusal, _ error: Errno) -> SinkError {
    switch error {
    case .permissionDenied, .notPermitted:
      SinkError(
        .busy,
        "\(card.name) (\(card.driver)) refused \(what): another process is DRM master now; "
          + "switch back to this virtual terminal, or end that process")
    case .operationNotSupportedByDevice:
      SinkError(.disconnected, "\(card.name) (\(card.driver)) is gone")
    default:
      SinkError(
        kind,
        "\(card.name) (\(card.driver)) refused \(what): \(error); another mode may work")
    }
  }
}
