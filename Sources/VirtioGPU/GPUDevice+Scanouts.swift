internal import Buffers
internal import Linux
internal import Pictures
package import Scanout

/// What one scanout shows, as the guest wants it.
struct ScanoutState {
  let id: ScanoutID
  /// What SET_SCANOUT chose. It comes on the screen with its first flush.
  var binding: Binding?
  /// The frame of the last presentation, until it is turned off.
  var last: Frame?
  /// Of the last presentation.
  var sequence: UInt64 = 0
  /// The last presentation waits for its copy.
  var copy: PictureCopy?
  /// It left a fence waiting until its time was over. Nobody waits for it again until it shows a frame in time.
  var isSilent = false
  /// The presentation by which that is found out, and when it was handed to the sink, in nanoseconds.
  var probe: (sequence: UInt64, since: Int64)?
  /// Presentations that no flush asked for, and that are not counted as frames.
  var ownInitiative: [UInt64] = []
  /// The cursor, as long as it is to be seen.
  var cursor: BlendedCursor?
  /// One that a move has hidden. The next one that names a resource shows it again.
  var hiddenCursor: BlendedCursor?

  struct Binding {
    let resource: Resource
    let view: View
    /// Nil where there is nobody to show it.
    let picture: Picture?
  }
}

extension GPUDevice: ScanoutObserver {
  func bind(_ index: Int, _ resource: Resource, _ view: View, _ picture: Picture?) {
    if scanouts[index].binding?.picture?.frame !== picture?.frame {
      abandonCopy(index)
      // What was flushed while another picture was here, or none, has not been copied.
      if case .shadow(let shadow) = picture { shadow.isStale = true }
    }
    scanouts[index].binding = ScanoutState.Binding(resource: resource, view: view, picture: picture)
    finishShadows()
  }

  func turnOff(_ index: Int) {
    abandonCopy(index)
    scanouts[index].binding = nil
    finishShadows()
    darken(index)
  }

  /// Takes off the screen what is there; what SET_SCANOUT chose comes with its next flush.
  func darken(_ index: Int) {
    guard scanouts[index].last != nil else { return }
    scanouts[index].last = nil
    sink?.turnOff(scanouts[index].id)
  }

  /// Shows what a flush has changed, on each scanout that is bound to the resource.
  /// - Returns: the presentations, for a fence to wait for.
  func flush(
    _ resource: Resource, _ area: Rectangle
  ) throws(Mistake) -> [(scanout: ScanoutID, sequence: UInt64)] {
    // Of a blob each scanout may show another image.
    let images = scanouts.compactMap { $0.binding?.resource === resource ? $0.binding?.view.layout : nil }
    guard images.isEmpty || images.contains(where: { area.fits(width: $0.width, height: $0.height) }) else {
      throw Mistake(
        .invalidParameter, "rectangle",
        "RESOURCE_FLUSH: \(area) is not inside the image of \(images[0].width)x\(images[0].height) in resource "
          + "\(resource.id)")
    }
    var flips: [(scanout: ScanoutID, sequence: UInt64)] = []
    for index in scanouts.indices {
      guard let binding = scanouts[index].binding, binding.resource === resource else { continue }
      let layout = binding.view.layout
      let damage = area.clipped(width: layout.width, height: layout.height).intersection(binding.view.source)
      if damage.isEmpty { continue }
      switch binding.picture {
      case nil: rebind(index)
      case .shadow(let shadow): if isOutdated(shadow, resource, index) { rebind(index) }
      // A cursor may have come before the first flush.
      case .lent: if scanouts[index].last == nil, blends(index), backing != .lent { rebind(index) }
      }
      if scanouts[index].binding?.picture == nil { continue }
      buffers.statistics.flushes += 1
      flips.append((scanouts[index].id, present(index, damage: damage)))
    }
    return flips
  }

  /// Shows the bound resource. The caller knows that there is one, and somebody to show it.
  @discardableResult
  func present(_ index: Int, damage: Rectangle, ownInitiative: Bool = false) -> UInt64 {
    guard let binding = scanouts[index].binding, let picture = binding.picture else {
      preconditionFailure("only what has a picture is presented")
    }
    // The cursor is drawn where it is when the copy is complete.
    if ownInitiative, let copy = scanouts[index].copy { return copy.sequence }
    abandonCopy(index)
    scanouts[index].sequence += 1
    let sequence = scanouts[index].sequence
    if ownInitiative { scanouts[index].ownInitiative.append(sequence) }
    scanouts[index].last = picture.frame
    switch picture {
    case .lent(let frame):
      hand(
        Presentation(frame: frame, source: binding.view.source, damage: damage, sequence: sequence), index)
    case .shadow(let shadow):
      if let source = binding.resource.bytes {
        proceed(PictureCopy(sequence: sequence, source: source, update: shadow.begin(damage)), index)
      } else {
        // The guest has taken it back: nothing changes.
        hand(sequence, shadow, Rectangle(x: 0, y: 0, width: 0, height: 0), index)
      }
    }
    return sequence
  }

  /// Hands a copy to the sink, of which `changed` is new.
  func hand(_ sequence: UInt64, _ shadow: Shadow, _ changed: Rectangle, _ index: Int) {
    // The sink is told of something at least: a fence waits for it.
    let damage = changed.isEmpty ? Rectangle(x: 0, y: 0, width: 1, height: 1) : changed
    let bounds = shadow.frame.layout.bounds
    hand(Presentation(frame: shadow.frame, source: bounds, damage: damage, sequence: sequence), index)
  }

  private func hand(_ presentation: Presentation, _ index: Int) {
    if scanouts[index].isSilent, scanouts[index].probe == nil {
      scanouts[index].probe = (presentation.sequence, monotonicNanoseconds())
    }
    sink?.present(presentation, on: scanouts[index].id)
  }

  // MARK: What the sink reports

  package func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID) {
    if isFlush(sequence, scanout) { buffers.statistics.framesShown += 1 }
    if let buffer = buffersByFrame[frame.id] { buffers.countShown(buffer) }
    ended(sequence, scanout)
  }

  package func replaced(_ sequence: UInt64, on scanout: ScanoutID) {
    // A fence waits on, for what it was replaced by.
    if isFlush(sequence, scanout) { buffers.statistics.framesCoalesced += 1 }
  }

  package func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError) {
    if isFlush(sequence, scanout) { buffers.statistics.framesFailed += 1 }
    mistakes.report(error.refusal.rawValue, "scanout \(scanout) could not show a frame: \(error)")
    ended(sequence, scanout)
  }

  /// The time of an answer is over: whoever it waited for is not waited for again until it says something.
  func noteSilence(_ response: PendingResponse) {
    for flip in response.flips { scanouts[Int(flip.scanout.rawValue)].isSilent = true }
    if let errand = response.errand, !errand.isOfFrontEnd { sinkIsSilent = true }
  }

  private func ended(_ sequence: UInt64, _ scanout: ScanoutID) {
    let index = Int(scanout.rawValue)
    if let probe = scanouts[index].probe, probe.sequence <= sequence {
      scanouts[index].probe = nil
      if monotonicNanoseconds() - probe.since < patience.fence { scanouts[index].isSilent = false }
    }
    // Of a scanout that was turned off it was the last: what waited behind it gave way to nothing.
    let isLast = scanouts[index].last == nil
    reached(isLast ? .max : sequence, on: scanout)
  }

  private func isFlush(_ sequence: UInt64, _ scanout: ScanoutID) -> Bool {
    let index = Int(scanout.rawValue)
    guard let own = scanouts[index].ownInitiative.firstIndex(of: sequence) else { return true }
    scanouts[index].ownInitiative.remove(at: own)
    return false
  }
}
