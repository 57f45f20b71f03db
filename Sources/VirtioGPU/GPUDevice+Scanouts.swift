internal import Buffers
public import Scanout

/// What one scanout shows, as the guest wants it.
struct ScanoutState {
  let id: ScanoutID
  /// What SET_SCANOUT chose. It comes on the screen with its first flush.
  var binding: Binding?
  /// The frame of the last presentation, until it is turned off.
  var last: Frame?
  /// Of the last presentation.
  var sequence: UInt64 = 0
  /// Presentations that no flush asked for, and that are not counted as frames.
  var ownInitiative: [UInt64] = []
  /// The cursor, as long as it is to be seen.
  var cursor: BlendedCursor?

  struct Binding {
    let resource: Resource
    let view: View
    /// Nil where there is nobody to show it.
    let picture: Picture?
  }
}

extension GPUDevice: ScanoutObserver {
  func bind(_ index: Int, _ resource: Resource, _ view: View, _ picture: Picture?) {
    if case .shadow(let shadow) = picture, scanouts[index].binding?.picture?.frame !== shadow.frame {
      // What was flushed while another picture was here, or none, has not been copied.
      shadow.isStale = true
    }
    scanouts[index].binding = ScanoutState.Binding(resource: resource, view: view, picture: picture)
    finishShadows()
  }

  func turnOff(_ index: Int) {
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
      case .lent: break
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
    scanouts[index].sequence += 1
    let sequence = scanouts[index].sequence
    if ownInitiative { scanouts[index].ownInitiative.append(sequence) }
    scanouts[index].last = picture.frame
    var (source, damage) = (binding.view.source, damage)
    if case .shadow(let shadow) = picture {
      let (changed, copied) = shadow.update(
        damage, from: binding.resource.bytes, cursor: blends(index) ? scanouts[index].cursor : nil)
      buffers.statistics.bytesCopied += copied
      source = shadow.frame.layout.bounds
      // The sink is told of something at least: a fence waits for it.
      damage = changed.isEmpty ? Rectangle(x: 0, y: 0, width: 1, height: 1) : changed
    }
    sink?.present(
      Presentation(frame: picture.frame, source: source, damage: damage, sequence: sequence),
      on: scanouts[index].id)
    return sequence
  }

  // MARK: What the sink reports

  public func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID) {
    if isFlush(sequence, scanout) { buffers.statistics.framesShown += 1 }
    if let buffer = buffersByFrame[frame.id] { buffers.countShown(buffer) }
    ended(sequence, scanout)
  }

  public func replaced(_ sequence: UInt64, on scanout: ScanoutID) {
    // A fence waits on, for what it was replaced by.
    if isFlush(sequence, scanout) { buffers.statistics.framesCoalesced += 1 }
  }

  public func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError) {
    if isFlush(sequence, scanout) { buffers.statistics.framesFailed += 1 }
    mistakes.report(error.refusal.rawValue, "scanout \(scanout) could not show a frame: \(error)")
    ended(sequence, scanout)
  }

  private func ended(_ sequence: UInt64, _ scanout: ScanoutID) {
    // Of a scanout that was turned off it was the last: what waited behind it gave way to nothing.
    let isLast = scanouts[Int(scanout.rawValue)].last == nil
    reached(isLast ? .max : sequence, on: scanout)
  }

  private func isFlush(_ sequence: UInt64, _ scanout: ScanoutID) -> Bool {
    let index = Int(scanout.rawValue)
    guard let own = scanouts[index].ownInitiative.firstIndex(of: sequence) else { return true }
    scanouts[index].ownInitiative.remove(at: own)
    return false
  }
}
