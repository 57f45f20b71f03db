internal import Buffers
internal import Linux
internal import Scanout

/// Pages on their way back to the guest: somebody still shows them.
final class Release {
  let buffer: Buffer
  let frame: Frame
  /// In nanoseconds of the monotonic clock; then the sink is cut off.
  let deadline: Int64
  /// The answers that wait for it: to a DETACH, and to an UNREF that came soon after.
  private var responses: [PendingResponse] = []

  init(buffer: Buffer, frame: Frame, deadline: Int64) {
    (self.buffer, self.frame, self.deadline) = (buffer, frame, deadline)
  }

  func hold(_ response: PendingResponse) {
    response.pagesInUse = true
    responses.append(response)
  }

  func end() {
    for response in responses { response.pagesInUse = false }
    responses.removeAll()
  }
}

// The guest reuses a buffer's pages as soon as its UNREF or DETACH is answered. So the answer waits until no
// screen shows them, and no longer than `releaseTimeout`.
extension GPUDevice {
  /// Takes the resource's pages off every screen.
  /// - Returns: nil if they are free already, else what is to be waited for.
  func release(_ resource: Resource) -> Release? {
    guard let frame = resource.backing?.frame else {
      // Pages that an earlier DETACH waits for are not free before that is answered.
      return resource.release
    }
    for index in scanouts.indices {
      if let binding = scanouts[index].binding, binding.resource === resource {
        turnOff(index)
      } else if scanouts[index].last === frame {
        // Another resource was chosen and not flushed yet: it takes the place now, so that no gap is seen.
        if let binding = scanouts[index].binding {
          present(index, damage: binding.source, ownInitiative: true)
        } else {
          turnOff(index)
        }
      }
    }
    guard let (buffer, frame) = resource.detach() else { return nil }
    if frame.uses == 0 {
      forget(buffer, frame)
      return nil
    }
    let release = Release(
      buffer: buffer, frame: frame, deadline: monotonicNanoseconds() + Self.releaseTimeout)
    frame.whenIdle = { [weak self] in self?.wake() }
    releases.append(release)
    resource.release = release
    armTimer()
    return release
  }

  /// Ends the releases that nobody stands against any more.
  func finishReleases() {
    let before = releases.count
    releases.removeAll { release in
      guard release.frame.uses == 0 else { return false }
      forget(release.buffer, release.frame)
      release.end()
      return true
    }
    if releases.count != before { settle() }
  }

  /// Cuts sinks off from pages that they held too long.
  func cutOffReleases(_ now: Int64) {
    releases.removeAll { release in
      guard release.deadline <= now else { return false }
      if release.frame.uses > 0 {
        buffers.statistics.releasedLate += 1
        mistakes.report(
          "releasedLate",
          "a frame was still in use \(Self.releaseTimeout / 1_000_000) ms after the guest "
            + "asked for its pages; what showed it is cut off")
      }
      forget(release.buffer, release.frame)
      release.end()
      return true
    }
  }

  /// Drops what an earlier driver left behind. Nobody waits for an answer any more.
  func dropAll() {
    for index in scanouts.indices { turnOff(index) }
    for resource in resources.values {
      _ = release(resource)
      buffers.dismissResource()
    }
    resources.removeAll()
  }

  private func forget(_ buffer: Buffer, _ frame: Frame) {
    frame.whenIdle = nil
    sink?.forget(frame)
    buffersByFrame[frame.id] = nil
    buffers.release(buffer)
  }
}
