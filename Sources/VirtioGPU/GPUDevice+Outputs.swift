internal import Logging
internal import Pictures
internal import Scanout

// The configuration space (5.7.4: `struct virtio_gpu_config`): events_read, events_clear, num_scanouts,
// num_capsets and blob_alignment, of four bytes each. By its events the guest hears that a screen was plugged in or out.
extension GPUDevice {
  /// Where events_clear is.
  private static let eventsClear: Range<UInt64> = 4..<8
  /// VIRTIO_GPU_EVENT_DISPLAY
  static let displayEvent: UInt32 = 1 << 0

  /// `size` bytes of it from `offset` on; zero beyond its end.
  package func config(offset: UInt32, size: UInt32) -> [UInt8] {
    var fields = [UInt8](repeating: 0, count: 20)
    for byte in 0..<4 { fields[byte] = UInt8(truncatingIfNeeded: eventsRead >> (8 * byte)) }
    fields[8] = UInt8(scanoutCount)
    for byte in 0..<4 { fields[16 + byte] = UInt8(truncatingIfNeeded: Self.blobAlignment >> (8 * byte)) }
    return (0..<UInt64(size)).map { byte in
      let place = UInt64(offset) + byte
      return place < UInt64(fields.count) ? fields[Int(place)] : 0
    }
  }

  // MARK: What the guest asks

  /// Whoever shows the frames may know better, and is asked first. Who left a question unanswered is asked, but not
  /// waited for.
  func answerDisplayInfo() -> Outcome {
    let own = Response.displayInfo(displayInfo())
    let errand = Errand(ifAbandoned: own, patience: patience.inquiry, isOfFrontEnd: false)
    let isAsked = sink?.inquire { [weak self] in
      guard let self else { return }
      finish(errand, .displayInfo(displayInfo()))
    }
    return isAsked == true && !sinkIsSilent ? .whenDone(errand) : .now(own)
  }

  /// The same for an EDID.
  func answerEDID(_ scanout: ScanoutID) throws(Mistake) -> Outcome {
    let own = try edid(scanout)
    let errand = Errand(ifAbandoned: .edid(own), patience: patience.inquiry, isOfFrontEnd: false)
    let isAsked = sink?.inquireEDID(of: scanout) { [weak self] bytes in
      guard let self else { return }
      // The outputs may be others by now.
      finish(errand, .edid(bytes ?? (try? edid(scanout)) ?? own))
    }
    return isAsked == true && !sinkIsSilent ? .whenDone(errand) : .now(.edid(own))
  }

  private func finish(_ errand: Errand, _ response: Response) {
    sinkIsSilent = false
    errand.finish(response)
    wake()
  }

  /// Scanouts stand side by side, in the order of their numbers.
  private func displayInfo() -> [Rectangle?] {
    var left: UInt32 = 0
    return outputs.map { output in
      guard let mode = output.modes.first else { return nil }
      let area = Rectangle(x: left, y: 0, width: UInt32(mode.hdisplay), height: UInt32(mode.vdisplay))
      left += area.width
      return area
    }
  }

  /// A scanout that the front end has, but no output of ours, or none with a mode, has an empty EDID.
  private func edid(_ scanout: ScanoutID) throws(Mistake) -> [UInt8] {
    guard scanout.rawValue < UInt32(Self.maxScanouts) else {
      throw Mistake(
        .invalidScanout, "invalidScanout", "there is no scanout \(scanout); the limit is \(Self.maxScanouts)")
    }
    let index = Int(scanout.rawValue)
    guard index < outputs.count, !outputs[index].modes.isEmpty else { return [] }
    return EDID.make(outputs[index], serial: scanout.rawValue + 1)
  }

  // MARK: What the driver writes

  /// The driver, or a front end that writes the whole space on its behalf, may write events_clear alone: the
  /// bits that are set there are cleared in events_read. The rest is ignored.
  package func writeConfig(offset: UInt32, _ bytes: [UInt8]) {
    for (index, byte) in bytes.enumerated() {
      let place = UInt64(offset) + UInt64(index)
      guard Self.eventsClear.contains(place) else { continue }
      eventsRead &= ~(UInt32(byte) << (8 * UInt32(place - Self.eventsClear.lowerBound)))
    }
  }

  /// A scanout keeps its number, and their count is what it was at the start: an output that is gone has no
  /// modes, and one that came in addition is not offered.
  package func outputsChanged() {
    guard let sink else { return }
    let now = sink.outputs
    let offered = outputs.enumerated().map { index, before -> SinkOutput in
      if index < now.count { return now[index] }
      var output = before
      output.modes = []
      return output
    }
    let changed = outputs.indices.filter { offered[$0] != outputs[$0] }
    if changed.isEmpty { return }
    outputs = offered
    eventsRead |= Self.displayEvent
    tell(.configChanged)
    for index in changed {
      let (scanout, mode) = (scanouts[index].id, outputs[index].modes.first)
      logger.info("scanout \(scanout), \(outputs[index].name): \(mode?.description ?? "no screen")")
      // What was agreed to, or refused, was so for another screen.
      for resource in resources.values { drop(resource.forgetPictures(on: scanout)) }
      if mode != nil { showAgain(index) }
    }
  }

  /// Brings what the guest shows on this scanout to its new screen, if that can show it: not every guest hears
  /// of the change.
  private func showAgain(_ index: Int) {
    if outputs[index].hasCursor, let cursor = scanouts[index].cursor { setCursor(index, cursor) }
    // What could not be kept of a backing that is gone stays as it was last copied. Where there was nobody to show it,
    // it may have been flushed.
    guard let binding = scanouts[index].binding, binding.resource.bytes != nil,
      scanouts[index].last != nil || binding.picture == nil
    else { return }
    do throws(Mistake) {
      let picture = try picture(binding.resource, binding.view, index)
      bind(index, binding.resource, binding.view, picture)
      if picture != nil { present(index, damage: binding.view.source, ownInitiative: true) }
    } catch { mistakes.report(error.kind, error.message) }
  }
}
