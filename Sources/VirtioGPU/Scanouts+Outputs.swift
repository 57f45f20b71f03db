internal import Linux
internal import Logging
internal import Pictures
internal import Scanout

// Screens that come and go.
extension Scanouts {
  /// A scanout keeps its number, and their count is what it was at the start: an output that is gone has no
  /// modes, and one that came in addition is not offered.
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
      // What was agreed to, or refused, was so for another screen.
      for resource in resources.values { drop(resource.forgetPictures(on: scanout.id)) }
      if mode != nil { showAgain(scanout) }
    }
  }

  /// Brings what the guest shows on this scanout to its new screen, if that can show it: not every guest hears
  /// of the change.
  private func showAgain(_ scanout: GuestScanout) {
    if scanout.output.hasCursor, let cursor = scanout.cursor { setCursor(scanout, cursor) }
    // What could not be kept of a backing that is gone stays as it was last copied. Where there was nobody to show it,
    // it may have been flushed.
    guard let binding = scanout.binding, binding.resource.bytes != nil,
      scanout.last != nil || binding.picture == nil
    else { return }
    do throws(Mistake) {
      let picture = try picture(of: binding.resource, binding.view, on: scanout)
      bind(scanout, binding.resource, binding.view, picture)
      if picture != nil { present(scanout, damage: binding.view.source, ownInitiative: true) }
    } catch { mistakes.report(error) }
  }

  /// Scanouts stand side by side, in the order of their numbers.
  var displayInfo: [Rectangle?] {
    var left: UInt32 = 0
    return all.map { scanout in
      guard let mode = scanout.output.modes.first else { return nil }
      let area = Rectangle(x: left, y: 0, width: UInt32(mode.hdisplay), height: UInt32(mode.vdisplay))
      left += area.width
      return area
    }
  }

  /// A scanout that the front end has, but no output of ours, or none with a mode, has an empty EDID.
  func edid(_ id: ScanoutID) throws(Mistake) -> [UInt8] {
    guard id.rawValue < UInt32(GPUDevice.maxScanouts) else {
      throw Mistake(
        .invalidScanout, .invalidScanout, "there is no scanout \(id); the limit is \(GPUDevice.maxScanouts)")
    }
    let index = Int(id.rawValue)
    guard index < all.count, !all[index].output.modes.isEmpty else { return [] }
    return EDID.make(all[index].output, serial: id.rawValue + 1)
  }
}
