internal import Linux
internal import Logging
package import Scanout
internal import SystemPackage

extension KMSSink {
  // MARK: Frames in

  package func prepare(_ frame: Frame, source: Rectangle, on scanout: ScanoutID) throws(SinkError) {
    guard let lane = lane(scanout) else { throw noOutput(scanout) }
    let output = lane.output
    guard output.pipe.connector.isConnected else { throw noScreen(lane) }
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
    guard output.mayShow(size) else { throw noMode(size, output) }
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
      noteLoss(error)
      throw refusal("the size \(size) on \(output.pipe.connector.name) with \(frame.layout)", .mode, error)
    }
  }

  // MARK: Frames out

  package func forget(_ frame: Frame) {
    guard let framebuffer = framebuffers.removeValue(forKey: frame.id) else { return }
    let error = SinkError(.other, "the frame was taken back before it was shown")
    for lane in lanes where isOnlyScannedOut(frame, lane) { awaitFlip(lane) }
    card.removeFramebuffer(framebuffer)
    // This comes last, because a use that ends here may give the pages back to the guest.
    for lane in lanes {
      if lane.output.shows(framebuffer) { lane.output.wentDark() }
      let removal = lane.queue.remove(frame, isStarted: lane.stepIsStarted)
      if let lost = removal.waiting { report(lost.sequence, lane.scanout, error) }
      if let lost = removal.inFlight {
        report(lost.sequence, lane.scanout, error)
        if case .step = lane.work { lane.drop() }
        start(lane)
      }
    }
  }

  /// Whether the card has accepted the flip to the next frame, and reads this one until the flip. The kernel no
  /// longer counts this frame as shown, so removing its framebuffer would not stop the card.
  private func isOnlyScannedOut(_ frame: Frame, _ lane: KMSLane) -> Bool {
    guard case .step = lane.work, lane.awaited != nil, lane.queue.shown?.frame === frame else { return false }
    if case .present(let next) = lane.queue.current { return next.frame !== frame }
    return true
  }

  /// Waits for the flip that is under way. The observer hears of it from the event loop, as always.
  private func awaitFlip(_ lane: KMSLane) {
    let deadline = Instant.now + flipPatience
    while lane.awaited != nil, cardToken != nil {
      let left = deadline - .now
      guard left > .zero, (try? waiting.turn(waiting: left)) != nil else {
        return log.error(
          "\(card.name) (\(card.driver)) has not done a flip in time; it may still read pages that the guest has again"
        )
      }
      if loss != nil { return }
    }
  }
}
