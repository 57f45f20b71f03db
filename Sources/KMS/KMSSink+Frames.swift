internal import Linux
internal import Logging
package import Scanout
internal import SystemPackage

extension KMSSink {
  /// So many sizes of a canvas are tried.
  private static let canvasTries = 4

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

  package func allocate(
    width: UInt32, height: UInt32, format: FourCC, on scanout: ScanoutID
  ) throws(SinkError) -> Canvas {
    guard let lane = lane(scanout) else { throw noOutput(scanout) }
    let modes = outputs[Int(scanout.rawValue)].modes
    guard lane.output.pipe.connector.isConnected, !modes.isEmpty else { throw noScreen(lane) }
    let picture = PixelSize(width: width, height: height)
    var failure = noMode(picture, lane.output)
    let others = Setting.canvases(for: picture, in: modes).filter { $0 != picture }.prefix(Self.canvasTries)
    for size in (lane.output.mayShow(picture) ? [picture] : []) + others {
      do throws(SinkError) {
        let (buffer, layout, _) = try tryCanvas(size, format, lane)
        return Canvas(memory: buffer, layout: layout, area: Setting.area(of: picture, in: size))
      } catch {
        failure = error
        if !error.refusal.isMendedByCopying || error.refusal == .format { break }
      }
    }
    throw failure
  }

  /// Allocates memory of the card's that can be shown in this size.
  private func tryCanvas(
    _ size: PixelSize, _ format: FourCC, _ lane: KMSLane
  ) throws(SinkError) -> (DumbBuffer, FrameLayout, Setting) {
    let plane = lane.output.pipe.plane
    let format = try card.format(wanted: format, for: plane)
    let buffer = try card.allocate(size)
    let layout = FrameLayout(width: size.width, height: size.height, format: format, stride: buffer.stride)
    let framebuffer = try card.makeFramebuffer(.shadow(buffer), layout, for: plane)
    defer { card.removeFramebuffer(framebuffer) }
    do throws(Errno) { return (buffer, layout, try lane.output.test(framebuffer, layout.bounds)) } catch {
      noteLoss(error)
      throw refusal("the size \(size) on \(lane.output.pipe.connector.name)", .mode, error)
    }
  }

  /// Has the scanout offer this size first, of the screen's modes or made for it. A screen that comes later
  /// offers it too, if it can.
  ///
  /// - Throws: `mode` if the screen that is there now cannot show it.
  package func prefer(width: UInt32, height: UInt32, on scanout: ScanoutID) throws(SinkError) {
    guard let lane = lane(scanout) else { throw noOutput(scanout) }
    let size = PixelSize(width: width, height: height)
    lane.preferred = size
    if !outputs[Int(scanout.rawValue)].modes.isEmpty {
      outputs[Int(scanout.rawValue)].modes = try modes(
        outputs[Int(scanout.rawValue)].modes, first: size, lane)
    }
  }

  func modes(
    _ modes: [DisplayMode], first size: PixelSize, _ lane: KMSLane
  ) throws(SinkError) -> [DisplayMode] {
    var modes = modes
    if let index = modes.firstIndex(where: { $0.hdisplay == size.width && $0.vdisplay == size.height }) {
      modes.insert(modes.remove(at: index), at: 0)
      return modes
    }
    guard lane.output.mayShow(size),
      let mode = DisplayMode.reducedBlanking(width: size.width, height: size.height)
    else { throw noMode(size, lane.output) }
    _ = try tryCanvas(size, .xrgb8888, lane)
    return [mode] + modes
  }

  // MARK: Frames out

  package func forget(_ frame: Frame) {
    guard let framebuffer = framebuffers.removeValue(forKey: frame.id) else { return }
    let error = SinkError(.other, "the frame was taken back before it was shown")
    for lane in lanes where isOnlyScannedOut(frame, lane) { awaitFlip(lane) }
    card.removeFramebuffer(framebuffer)
    // Only now: the uses that end here may hand the pages back to the guest.
    for lane in lanes {
      if case .on(_, _, framebuffer) = lane.output.state { lane.output.wentDark() }
      let removal = lane.queue.remove(frame, isStarted: lane.stepIsStarted)
      if let lost = removal.waiting { report(lost.sequence, lane.scanout, error) }
      if let lost = removal.inFlight {
        report(lost.sequence, lane.scanout, error)
        if case .step = lane.work { lane.drop() }
        start(lane)
      }
    }
  }

  /// The card reads the frame until the flip to the next one, which it has accepted. For the kernel the frame is
  /// not on the screen any more then, and removing its framebuffer does nothing about it.
  private func isOnlyScannedOut(_ frame: Frame, _ lane: KMSLane) -> Bool {
    guard case .step = lane.work, lane.awaited != nil, lane.queue.shown?.frame === frame else { return false }
    if case .present(let next) = lane.queue.current { return next.frame !== frame }
    return true
  }

  /// Waits for the flip that is under way. What it means is told from the event loop, as always.
  private func awaitFlip(_ lane: KMSLane) {
    let deadline = monotonicNanoseconds() + flipPatience
    while lane.awaited != nil, cardToken != nil {
      let left = deadline - monotonicNanoseconds()
      guard left > 0, (try? waiting.turn(milliseconds: Int32(left / 1_000_000 + 1))) != nil else {
        return log.error(
          "\(card.name) (\(card.driver)) has accepted a flip and not done it; it may still read pages that went back"
        )
      }
      if loss != nil { return }
    }
  }

  // MARK: The cursor

  package func setCursor(_ image: CursorImage?, at position: CursorPosition, on scanout: ScanoutID) {
    guard let lane = lane(scanout), let cursor = lane.output.cursor, cursor.isUsable else { return }
    cursor.set(image, at: position)
    start(lane)
  }

  package func moveCursor(to position: CursorPosition, on scanout: ScanoutID) {
    guard let lane = lane(scanout), let cursor = lane.output.cursor, cursor.isUsable else { return }
    cursor.move(to: position)
    start(lane)
  }
}
