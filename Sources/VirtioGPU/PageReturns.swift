internal import Buffers
internal import Linux
internal import Scanout

/// Pages on their way back to the guest, which a sink still shows or a device still reads.
final class PageReturn {
  let buffer: Buffer
  let frames: [Frame]
  /// When the guest asked for them.
  let begin: Instant
  /// When the sink is cut off.
  private(set) var deadline: Instant
  /// Whether the return also waits for devices that read the pages.
  let waitsForDevices: Bool
  /// The wait for devices, after nobody shows the pages any more; nil if no device reads them.
  var reading: DeviceWait?
  /// The offer to which the pages belong.
  private let offer: HostOffer?
  /// The answers that wait for the return: to a DETACH, and to an UNREF that came soon after.
  private var responses: [PendingResponse] = []

  init(
    buffer: Buffer, frames: [Frame], of offer: HostOffer?, begin: Instant, deadline: Instant,
    waitsForDevices: Bool
  ) {
    (self.buffer, self.frames, self.begin, self.deadline) = (buffer, frames, begin, deadline)
    (self.offer, self.waitsForDevices) = (offer, waitsForDevices)
    offer?.hold()
  }

  var isShown: Bool { frames.contains { $0.uses > 0 } }
  /// Whether an importer has them.
  var isBorrowed: Bool { !buffer.borrowers.isEmpty }

  func keepWaiting(_ response: PendingResponse) {
    response.pagesInUse = true
    responses.append(response)
  }

  /// The picture that replaces the pages is complete, and has until `deadline` to be shown.
  func finishWork(_ deadline: Instant) {
    if responses.contains(where: \.isAtWork) { self.deadline = max(self.deadline, deadline) }
  }

  func end() {
    for response in responses { response.pagesInUse = false }
    responses.removeAll()
    offer?.letGo()
  }
}

/// The return of pages to the guest, which reuses them as soon as its UNREF or DETACH is answered. The answer therefore
/// waits until no screen shows them and no device reads them, but at most `Patience.pageReturn`.
final class PageReturns {
  private var waiting: [PageReturn] = []
  /// The returns for which a stop of the queue waits in addition to its answers, and until when.
  private var reading: [DeviceWait] = []
  private var readingDeadline = Instant.never
  private var counts: (late: UInt64, waitedForFence: UInt64) = (0, 0)

  var patience: TimeSpan
  /// Called when no sink may know this frame any more.
  var forget: (Frame) -> Void = { _ in }
  private let lender: Lender
  private let mistakes: MistakeLog
  private let loop: EventLoop
  private let wake: () -> Void

  /// - Parameter wake: has `sweep` called from the loop.
  init(
    _ lender: Lender, _ mistakes: MistakeLog, _ loop: EventLoop, patience: TimeSpan,
    wake: @escaping () -> Void
  ) {
    (self.lender, self.mistakes, self.loop) = (lender, mistakes, loop)
    (self.patience, self.wake) = (patience, wake)
  }

  /// The guest wants its pages back.
  /// - Parameters:
  ///   - offer: non-nil if the pages belong to the host, which gets them back instead.
  ///   - isReset: whether the guest has them already.
  /// - Returns: nil if the pages are free already, otherwise the return to wait for.
  func begin(_ buffer: Buffer, _ frames: [Frame], of offer: HostOffer?, isReset: Bool) -> PageReturn? {
    let now = Instant.now
    var deadline = now + patience
    for borrower in buffer.borrowers {
      if let limit = borrower.pagesAreWanted(isReset: isReset) { deadline = min(deadline, limit) }
    }
    let pageReturn = PageReturn(
      buffer: buffer, frames: frames, of: offer, begin: now, deadline: deadline,
      // Memory of the host has no owner in the guest who would write into it, so devices may go on reading.
      waitsForDevices: !isReset && offer == nil)
    guard isInUse(pageReturn) else {
      finish(pageReturn)
      return nil
    }
    for frame in frames { frame.whenIdle = wake }
    buffer.whenFree = wake
    waiting.append(pageReturn)
    return pageReturn
  }

  /// Ends the returns whose pages are free.
  /// - Returns: true if there was such a return.
  func sweep() -> Bool {
    let before = waiting.count
    waiting.removeAll { pageReturn in
      if isInUse(pageReturn) { return false }
      finish(pageReturn)
      return true
    }
    return waiting.count != before
  }

  /// Cuts sinks off from pages that they held too long.
  func cutOff(_ now: Instant) {
    waiting.removeAll { pageReturn in
      guard pageReturn.deadline <= now else { return false }
      if isInUse(pageReturn) {
        counts.late += 1
        // Importers may have had less time than a screen: one second for all buffers that went together.
        let time = "\((now - pageReturn.begin).milliseconds) ms after the guest asked for its pages"
        mistakes.report(
          .releasedLate,
          pageReturn.isShown || pageReturn.isBorrowed
            ? "a buffer was still in use \(time); the \(pageReturn.isShown ? "sink that showed" : "importer of") it is cut off"
            : "a device still reads a buffer \(time); they go back all the same; "
              + "the consumer's driver is slow, or hangs")
      }
      finish(pageReturn)
      return true
    }
  }

  /// The picture that replaces the pages is complete, and has the usual time to be shown from now on.
  func finishWork(_ now: Instant) { for pageReturn in waiting { pageReturn.finishWork(now + patience) } }

  /// When the first sink is cut off; nil if no return waits.
  var deadline: Instant? { waiting.lazy.map(\.deadline).min() }

  // MARK: Devices

  /// Waits for devices that read pages which the guest may reuse after a stop, because a stop can be a driver's reset.
  func awaitDevices(on resources: some Sequence<Resource>) {
    reading = resources.compactMap { resource in
      resource.offer == nil ? resource.buffer.flatMap(waitForDevices) : nil
    }
    readingDeadline = .now + patience
  }

  /// Whether none of the awaited devices reads any more.
  var devicesAreDone: Bool { reading.allSatisfy(\.isOver) }
  var devicesDeadline: Instant? { reading.isEmpty ? nil : readingDeadline }

  /// Ends the waits for devices whose time is over.
  func giveUpDevices(_ now: Instant = .never) { if readingDeadline <= now { reading.removeAll() } }

  /// Whether a sink shows the pages, or a device reads them. Devices are looked at only after the sinks let go, because a
  /// consumer gives its device work before it lets go.
  private func isInUse(_ pageReturn: PageReturn) -> Bool {
    if pageReturn.isShown || pageReturn.isBorrowed { return true }
    if pageReturn.waitsForDevices, pageReturn.reading == nil {
      pageReturn.reading = waitForDevices(pageReturn.buffer)
    }
    return pageReturn.reading?.isOver == false
  }

  /// - Returns: nil if no device reads the buffer.
  private func waitForDevices(_ buffer: Buffer) -> DeviceWait? {
    guard let dmabuf = buffer.dmabuf, let wait = DeviceWait(dmabuf, loop, whenOver: wake) else { return nil }
    counts.waitedForFence += 1
    return wait
  }

  private func finish(_ pageReturn: PageReturn) {
    for frame in pageReturn.frames { forget(frame) }
    for borrower in pageReturn.buffer.borrowers { borrower.pagesAreGone() }
    pageReturn.buffer.whenFree = nil
    lender.dismiss(pageReturn.buffer)
    pageReturn.end()
  }

  // MARK: Statistics

  /// Adds the counts of this part.
  func report(into statistics: inout Statistics) {
    statistics.releasedLate += counts.late
    statistics.waitedForFence += counts.waitedForFence
  }
}
