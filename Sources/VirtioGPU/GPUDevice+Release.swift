internal import Buffers
internal import Linux
internal import Pictures
internal import Scanout

/// Pages on their way back to the guest: somebody still shows them, or a device reads them.
final class Release {
  let buffer: Buffer
  let frames: [Frame]
  /// In nanoseconds of the monotonic clock; then the sink is cut off.
  private(set) var deadline: Int64
  /// Devices that read the pages are waited for, too.
  let waitsForDevices: Bool
  /// Once nobody shows the pages any more; nil if no device reads them.
  var reading: FenceWait?
  /// The answers that wait for it: to a DETACH, and to an UNREF that came soon after.
  private var responses: [PendingResponse] = []

  init(buffer: Buffer, frames: [Frame], deadline: Int64, waitsForDevices: Bool) {
    (self.buffer, self.frames, self.deadline) = (buffer, frames, deadline)
    self.waitsForDevices = waitsForDevices
  }

  var isShown: Bool { frames.contains { $0.uses > 0 } }

  func hold(_ response: PendingResponse) {
    response.pagesInUse = true
    responses.append(response)
  }

  /// What takes the place of the pages is complete, and has until `deadline` to be shown.
  func finishWork(_ deadline: Int64) {
    if responses.contains(where: \.isAtWork) { self.deadline = max(self.deadline, deadline) }
  }

  func end() {
    for response in responses { response.pagesInUse = false }
    responses.removeAll()
  }
}

// The guest reuses a buffer's pages as soon as its UNREF or DETACH is answered. So the answer waits until no
// screen shows them and no device reads them, and no longer than `Patience.release`.
extension GPUDevice {
  /// Takes the resource's pages off every screen.
  /// - Parameters:
  ///   - keepingPicture: the resource lives on, and with it what is seen of it, as a copy.
  ///   - isReset: the guest has its pages already, and nobody waits for an answer.
  /// - Returns: nil if they are free already, else what is to be waited for.
  func release(_ resource: Resource, keepingPicture: Bool, isReset: Bool = false) -> Release? {
    unshare(resource)
    if keepingPicture { keepContent(resource) }
    for index in scanouts.indices {
      if let binding = scanouts[index].binding, binding.resource === resource,
        !keepingPicture || binding.picture?.isLent == true
      {
        turnOff(index)
      } else if let last = scanouts[index].last, resource.frames.contains(where: { $0 === last }) {
        // Another picture was chosen and not flushed yet: it takes the place now, so that no gap is seen.
        if let binding = scanouts[index].binding, binding.picture != nil {
          present(index, damage: binding.view.source, ownInitiative: true)
        } else {
          darken(index)
        }
      }
    }
    let (buffer, frames) = (resource.buffer, resource.frames)
    drop(resource.forgetPictures { !keepingPicture || $0.isLent })
    if !keepingPicture { dropStore(of: resource) }
    resource.detach()
    // Pages that an earlier DETACH waits for are not free before that is answered.
    guard let buffer else { return resource.release }
    // Memory of the host goes back to nobody.
    let release = Release(
      buffer: buffer, frames: frames, deadline: monotonicNanoseconds() + patience.release,
      waitsForDevices: !isReset && resource.offer == nil)
    guard isInUse(release) else {
      finish(release)
      return nil
    }
    for frame in frames { frame.whenIdle = { [weak self] in self?.wake() } }
    releases.append(release)
    resource.release = release
    armTimer()
    return release
  }

  /// Somebody shows the pages, or a device reads them. That is looked at when nobody shows them any more: what a
  /// consumer told its device to do, it told before it let go.
  private func isInUse(_ release: Release) -> Bool {
    if release.isShown { return true }
    if release.waitsForDevices, release.reading == nil { release.reading = waitForDevices(release.buffer) }
    return release.reading?.isOver == false
  }

  /// - Returns: nil if no device reads the buffer.
  private func waitForDevices(_ buffer: Buffer) -> FenceWait? {
    guard let dmabuf = buffer.dmabuf,
      let wait = FenceWait(dmabuf, loop, whenOver: { [weak self] in self?.wake() })
    else { return nil }
    buffers.statistics.waitedForFence += 1
    return wait
  }

  /// Devices that read what the guest may have back after a stop, since that is a driver's reset as well.
  func waitForAllDevices() -> [FenceWait] {
    resources.values.compactMap { resource in
      resource.offer == nil ? resource.buffer.flatMap(waitForDevices) : nil
    }
  }

  /// Ends the releases that nobody stands against any more.
  func finishReleases() {
    let before = releases.count
    releases.removeAll { release in
      if isInUse(release) { return false }
      finish(release)
      return true
    }
    if releases.count != before { settle() }
  }

  /// Cuts sinks off from pages that they held too long.
  func cutOffReleases(_ now: Int64) {
    releases.removeAll { release in
      guard release.deadline <= now else { return false }
      if isInUse(release) {
        buffers.statistics.releasedLate += 1
        let time = "\(patience.release / 1_000_000) ms after the guest asked for its pages"
        mistakes.report(
          "releasedLate",
          release.isShown
            ? "a frame was still in use \(time); what showed it is cut off"
            : "a device still reads a buffer \(time), which go back all the same; "
              + "the consumer's driver is slow, or hangs")
      }
      finish(release)
      return true
    }
  }

  /// Drops what an earlier driver left behind. Nobody waits for an answer any more.
  func dropAll() {
    storing = nil
    endCopies()
    for index in scanouts.indices {
      hideCursor(index)
      turnOff(index)
    }
    for resource in resources.values {
      _ = release(resource, keepingPicture: false, isReset: true)
      buffers.dismissResource()
      endUse(of: resource)
    }
    resources.removeAll()
    contexts.removeAll()
    movesByName = false
  }

  private func finish(_ release: Release) {
    for frame in release.frames { forget(frame) }
    buffers.release(release.buffer)
    release.end()
  }

  /// No sink is to know this frame of lent pages any more.
  func forget(_ frame: Frame) {
    frame.whenIdle = nil
    sink?.forget(frame)
    buffersByFrame[frame.id] = nil
  }
}
