internal import Linux
internal import Logging
package import Scanout
internal import SystemPackage

extension KMSSink {
  /// The time until the sink retries a commit for which the card was busy.
  private static let retryDelay = TimeSpan.milliseconds(3)
  /// The time until the sink tries again to switch a screen off.
  private static let turnOffDelay = TimeSpan.milliseconds(500)

  package func present(_ presentation: Presentation, on scanout: ScanoutID) {
    guard let lane = lane(scanout) else { return report(presentation.sequence, scanout, noOutput(scanout)) }
    lane.refusedTurnOffs = 0
    if lane.queue.submit(.present(presentation)) { start(lane) }
  }

  package func turnOff(_ scanout: ScanoutID) {
    guard let lane = lane(scanout) else { return }
    lane.refusedTurnOffs = 0
    if lane.queue.submit(.turnOff) { start(lane) }
  }

  /// Starts the next commit, if there is one and none is under way.
  func start(_ lane: KMSLane) {
    guard lane.work == nil, cardToken != nil, loss == nil else { return }
    if lane.queue.current != nil {
      lane.work = .step
    } else if lane.output.hasCursorNews || lane.needsRefresh && lane.queue.shown != nil {
      lane.work = .extra
    } else {
      return
    }
    attempt(lane)
  }

  private func attempt(_ lane: KMSLane) {
    commits += 1
    let tag = commits
    do throws(Errno) {
      guard let completion = try commit(lane, tag) else {
        return settleSoon(lane, .failure(SinkError(.other, "the frame was not prepared")))
      }
      lane.busySince = nil
      switch completion {
      case .event: lane.awaited = tag
      case .now: settleSoon(lane, .success(()))
      }
    } catch {
      let now = Instant.now
      let busySince = lane.busySince ?? now
      if error == .resourceBusy, now - busySince < patience {
        lane.busySince = busySince
        if let retry, !retry.armed { retry.arm(after: Self.retryDelay) }
      } else {
        noteLoss(error)
        // Another DRM master may have set other modes meanwhile: the next commit sets everything anew.
        if error != .resourceBusy { lane.output.wentDark() }
        let kind = error == .resourceBusy ? SinkError.Refusal.busy : .other
        settleSoon(lane, .failure(refusal(whatIsDone(lane), kind, error)))
      }
    }
    noteCursor(lane)
  }

  /// Makes one commit.
  /// - Returns: nil if the frame was not prepared.
  private func commit(_ lane: KMSLane, _ tag: UInt64) throws(Errno) -> Completion? {
    let presentation: Presentation
    switch (lane.work, lane.queue.current) {
    case (.step, .present(let next)): presentation = next
    case (.step, .turnOff): return try lane.output.turnOff(tag: tag)
    default:
      guard lane.needsRefresh, var shown = lane.queue.shown else {
        return try lane.output.showCursor(tag: tag)
      }
      shown.damage = shown.source
      presentation = shown
    }
    guard let framebuffer = framebuffers[presentation.frame.id] else { return nil }
    let completion = try lane.output.show(
      framebuffer, presentation.source, damage: presentation.damage, tag: tag)
    lane.needsRefresh = false
    return completion
  }

  private func whatIsDone(_ lane: KMSLane) -> String {
    let name = lane.output.pipe.connector.name
    return switch (lane.work, lane.queue.current) {
    case (.step, .present(let presentation)): "showing \(presentation.frame.layout) on \(name)"
    case (.step, .turnOff): "switching \(name) off"
    default: "renewing \(name)"
    }
  }

  func retryBusy() {
    for lane in lanes where lane.work != nil && lane.busySince != nil { attempt(lane) }
  }

  func retryTurnOffs() {
    for lane in lanes where lane.refusedTurnOffs > 0 && !lane.queue.isBusy {
      if lane.queue.submit(.turnOff) { start(lane) }
    }
  }

  // MARK: Outcomes

  /// Notes an outcome that is known at once. The event loop reports it later, so that no caller is called back during
  /// its call.
  func settleSoon(_ lane: KMSLane, _ outcome: Result<Void, SinkError>) {
    lane.awaited = nil
    lane.outcome = outcome
    settling?.schedule()
  }

  func report(_ sequence: UInt64, _ scanout: ScanoutID, _ error: SinkError) {
    // After `close` the loop does nothing for this sink.
    if isClosed { return observer?.failed(sequence, on: scanout, error) ?? () }
    reports.append(.failed(sequence, error), on: scanout)
    settling?.schedule()
  }

  func tellOutputsSoon() {
    outputsHaveNews = true
    settling?.schedule()
  }

  /// Makes the event loop give the card up if the error means that the card is gone.
  func noteLoss(_ error: Errno) {
    guard error == .operationNotSupportedByDevice, cardToken != nil, loss == nil else { return }
    loss = error
    settling?.schedule()
  }

  func settleAll() {
    if let loss = loss.take() { disconnect(loss) }
    reports.deliver(to: observer)
    settleOutcomes()
    if outputsHaveNews {
      outputsHaveNews = false
      observer?.outputsChanged()
    }
  }

  private func settleOutcomes() {
    for lane in lanes {
      if let outcome = lane.outcome { settle(lane, outcome) }
    }
  }

  private func settle(_ lane: KMSLane, _ outcome: Result<Void, SinkError>) {
    guard case .step = lane.work else {
      lane.drop()
      // If the picture could not be renewed now, the next step renews it.
      if case .failure = outcome { lane.needsRefresh = false }
      return start(lane)
    }
    let step = lane.queue.current
    lane.drop()
    switch outcome {
    case .success: _ = lane.queue.completed()
    case .failure: _ = lane.queue.failed()
    }
    // The next commit goes first: the time until the vertical blank is short, and the observer can wait.
    start(lane)
    switch (step, outcome) {
    case (.present(let presentation), .success):
      observer?.presented(presentation.sequence, frame: presentation.frame, on: lane.scanout)
    case (.present(let presentation), .failure(let error)):
      observer?.failed(presentation.sequence, on: lane.scanout, error)
    case (.turnOff, .success): lane.refusedTurnOffs = 0
    case (.turnOff, .failure(let error)): turnOffFailed(lane, error)
    case (nil, _): break
    }
  }

  /// Tries again until the screen is dark or has a new picture to show.
  private func turnOffFailed(_ lane: KMSLane, _ error: SinkError) {
    if lane.queue.isBusy { return }
    if lane.refusedTurnOffs == 0 { log.warning("\(error.description); it is tried again") }
    lane.refusedTurnOffs += 1
    turnOffRetry?.arm(after: Self.turnOffDelay)
  }

  // MARK: The card's events

  func cardIsReady(_ readiness: Readiness) {
    takeEvents()
    settleOutcomes()
    if readiness.contains(.hangup) { noteLoss(.operationNotSupportedByDevice) }
    retryBusy()
  }

  /// Reads the card's events and notes which commits have taken effect. The observer is told only after all are
  /// noted, because it may present more.
  func takeEvents() {
    do throws(Errno) {
      let count = try card.file.withFD { card throws(Errno) in try card.read(into: &events, upTo: 1024) }
      let isWhole = unsafe FlipEvent.parse(events.span.bytes.extracting(first: count)) { flip in
        guard let lane = lanes.first(where: { $0.awaited == flip.tag }) else { return }
        (lane.awaited, lane.outcome) = (nil, .success(()))
      }
      if !isWhole { log.error("\(card.name) sent an event that cannot be read") }
      if count == 0 { noteLoss(.operationNotSupportedByDevice) }
    } catch .wouldBlock {} catch { noteLoss(.operationNotSupportedByDevice) }
  }

  /// The card is gone: all present and later presentations fail.
  private func disconnect(_ error: Errno) {
    guard cardToken != nil else { return }
    stopWatching()
    let failure = SinkError(.disconnected, "\(card.name) (\(card.driver)) is gone: \(error)")
    log.error("\(failure.description)")
    reports.deliver(to: observer)
    for lane in lanes {
      lane.queue.whenReplaced = { [weak self, scanout = lane.scanout] in
        self?.observer?.failed($0, on: scanout, failure)
      }
      lane.drop()
      lane.queue.removeAll()
    }
    // A card that is gone takes no commands. Only closing it ends its imports.
    card.file.close()
    for index in outputs.indices { (outputs[index].modes, outputs[index].hasCursor) = ([], false) }
    outputsHaveNews = true
  }
}
