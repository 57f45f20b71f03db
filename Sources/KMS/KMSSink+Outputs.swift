internal import Logging
package import Scanout

// The offer of each scanout to the guest: modes and a cursor.
extension KMSSink {
  /// The modes and the cursor that the trial of an output has accepted.
  static func offer(_ lane: KMSLane, _ verdict: ModeTrial.Verdict) -> SinkOutput {
    let connector = lane.output.pipe.connector
    return SinkOutput(
      name: connector.name, modes: connector.isConnected ? verdict.shown : [],
      widthMillimetres: connector.widthMillimetres, heightMillimetres: connector.heightMillimetres,
      hasCursor: verdict.hasCursor && lane.output.cursor?.isUsable ?? false)
  }

  func describe(_ output: SinkOutput, _ verdict: ModeTrial.Verdict) {
    let card = "\(card.name) (\(card.driver)\(card.isAtomic ? "" : ", without atomic commits"))"
    let preferred = output.modes.first?.description ?? "none"
    let cursor = output.hasCursor ? "a cursor" : "no cursor"
    log.info("\(card): \(output.name), \(output.modes.count) modes, \(preferred) preferred, \(cursor)")
    for refusal in verdict.refusals { log.debug("\(output.name): \(refusal)") }
  }

  /// Makes the scanout offer this size first, with a mode of the screen or one made for the size. A screen that is
  /// plugged in later offers this size first too, if it can.
  ///
  /// - Throws: `mode` if the present screen cannot show the size.
  package func prefer(width: UInt32, height: UInt32, on scanout: ScanoutID) throws(SinkError) {
    guard let lane = lane(scanout) else { throw noOutput(scanout) }
    let size = PixelSize(width: width, height: height)
    lane.preferred = size
    if !outputs[Int(scanout.rawValue)].modes.isEmpty {
      outputs[Int(scanout.rawValue)].modes = try modes(
        outputs[Int(scanout.rawValue)].modes, first: size, lane)
    }
  }

  /// The modes, with one of this size first. If there is none, one is made.
  /// - Throws: `mode` if the screen cannot show the size.
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
}
