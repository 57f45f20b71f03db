internal import Buffers
internal import Linux
internal import Pictures
internal import Scanout

extension Scanouts {
  /// Takes the resource's pages off every screen, before they go back to the guest.
  /// - Parameters:
  ///   - keepingPicture: whether the resource lives on, so that a copy of its picture stays on the screens.
  ///   - isReset: whether the guest has its pages already, and nobody waits for an answer.
  /// - Returns: nil if they are free already, otherwise the return to wait for.
  func giveBack(_ resource: Resource, keepingPicture: Bool, isReset: Bool = false) -> PageReturn? {
    objects.unshare(resource)
    if keepingPicture { keepContent(of: resource) }
    for scanout in all {
      if let binding = scanout.binding, binding.resource === resource,
        !keepingPicture || binding.picture?.isLent == true
      {
        turnOff(scanout)
      } else if let last = scanout.last, resource.frames.contains(where: { $0 === last }) {
        // Another picture was chosen, but not flushed yet. It is shown now, so that no gap is seen.
        if let binding = scanout.binding, binding.picture != nil {
          present(scanout, damage: binding.view.source, ownInitiative: true)
        } else {
          darken(scanout)
        }
      }
    }
    let (buffer, frames) = (resource.buffer, resource.frames)
    drop(resource.forgetPictures { !keepingPicture || $0.isLent })
    if !keepingPicture { dropStore(of: resource) }
    resource.detach()
    // If an earlier DETACH waits for these pages, they are free only after its answer.
    guard let buffer else { return resource.pageReturn }
    let pageReturn = returns.begin(buffer, frames, of: resource.offer, isReset: isReset)
    if let pageReturn {
      resource.pageReturn = pageReturn
      owner.armTimer()
    }
    return pageReturn
  }

  /// Drops everything that an earlier driver left. Nobody waits for an answer any more.
  func dropAll() {
    work.abandonStore()
    endCopies()
    for scanout in all {
      hideCursor(scanout)
      turnOff(scanout)
    }
    for resource in resources.values { _ = giveBack(resource, keepingPicture: false, isReset: true) }
    movesByName = false
  }

  /// Makes the sink forget this frame of lent pages.
  func forget(_ frame: Frame) {
    frame.whenIdle = nil
    sink?.forget(frame)
    buffersByFrame[frame.id] = nil
  }
}
