internal import Linux
internal import Logging
internal import Pictures
internal import Scanout

// Screens that come and go.
extension Scanouts {
  /// Takes the sink's new outputs. Scanouts keep their numbers, and their count never changes: an output that is gone has
  /// no modes, and an additional one is not offered.
  package func outputsChanged() {
    guard let sink else { return }
    let now = sink.outputs
    let changed = all.enumerated().filter { index, scanout in
      let before = scanout.output
      if index < now.count { scanout.output = now[index] } else { scanout.output.modes = [] }
      return scanout.output != before
    }
    if changed.isEmpty { return }
    owner.outputsHaveChanged()
    for (_, scanout) in changed {
      let mode = scanout.output.modes.first
      logger.info("scanout \(scanout.id), \(scanout.output.name): \(mode?.description ?? "no screen")")
      // The sink's answers were for another screen, so they are forgotten.
      for resource in resources.values { drop(resource.forgetPictures(on: scanout.id)) }
      if mode != nil { showAgain(scanout) }
    }
  }

  /// Shows the guest's picture on the scanout's new screen, if the screen can show it. Not every guest hears of the change.
  private func showAgain(_ scanout: GuestScanout) {
    if scanout.output.hasCursor, let cursor = scanout.cursor { setCursor(scanout, cursor) }
    // Pixels of a lost backing stay as they were last copied. Without a screen, flushes may have come that nothing copied.
    guard let binding = scanout.binding, binding.resource.bytes != nil,
      scanout.last != nil || binding.picture == nil
    else { return }
    do throws(Mistake) {
      let picture = try picture(of: binding.resource, binding.view, on: scanout)
      bind(scanout, binding.resource, binding.view, picture)
      if picture != nil { present(scanout, damage: binding.view.source, ownInitiative: true) }
    } catch { mistakes.report(error) }
  }

  /// Scanouts are side by side, in the order of their numbers.
  var displayInfo: [Rectangle?] {
    var left: UInt32 = 0
    return all.map { scanout in
      guard let mode = scanout.output.modes.first else { return nil }
      let area = Rectangle(x: left, y: 0, width: UInt32(mode.hdisplay), height: UInt32(mode.vdisplay))
      left += area.width
      return area
    }
  }

  /// A scanout of the front end without an output of ours, or without a mode, has an empty EDID.
  func edid(_ id: ScanoutID) throws(Mistake) -> [UInt8] {
    guard id.rawValue < UInt32(GPUDevice.maxScanouts) else {
      throw Mistake(
        .invalidScanout, .invalidScanout,
        "there is no scanout \(id); a guest has at most \(GPUDevice.maxScanouts)")
    }
    let index = Int(id.rawValue)
    guard index < all.count, !all[index].output.modes.isEmpty else { return [] }
    return EDID.make(all[index].output, serial: id.rawValue + 1)
  }
}
