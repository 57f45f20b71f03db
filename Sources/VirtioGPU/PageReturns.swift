internal import Buffers
internal import Linux
internal import Scanout

/// Pages on their way back to the guest: somebody still shows them, or a device reads them.
final class PageReturn {
  let buffer: Buffer
  let frames: [Frame]
  /// When the guest asked for them.
  let begin: Instant
  /// Then the sink is cut off.
  private(set) var deadline: Instant
  /// Devices that read the pages are waited for, too.
  let waitsForDevices: Bool
  /// Once nobody shows the pages any more; nil if no device reads them.
  var reading: DeviceWait?
  /// The offer that the pages are of.
  private let offer: HostOffer?
  /// The answers that wait for it: to a DETACH, and to an UNREF that came soon after.
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
  /// An importer has them.
  var isBorrowed: Bool { !buffer.borrowers.isEmpty }

  func keepWaiting(_ response: PendingResponse) {
    response.pagesInUse = true
    responses.append(response)
  }

  /// What takes the place of the pages is complete, and has until `deadline` to be shown.
  func finishWork(_ deadline: Instant) {
    if responses.contains(where: \.isAtWork) { self.deadline = max(self.deadline, deadline) }
  }

  func end() {
    for response in responses { response.pagesInUse = false }
    responses.removeAll()
    offer?.letGo()
  }
}

/// How pages go back to the guest, which reuses them as soon as its UNREF or DETACH is answered. So the answer waits until
/// no screen shows them and no device reads them, and no longer than `Patience.pageReturn`.
final class PageReturns {
  private var waiting: [PageReturn] = []
  /// What a stop of the queue waits for beside its answers, and until when.
  private var reading: [DeviceWait] = []
  private var readingDeadline = Instant.never
  private var counts: (late: UInt64, waitedForFence: UInt64) = (0, 0)

  var patience: TimeSpan
  /// No sink is to know this frame any more.
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
  ///   - offer: they are the host's, and it gets them back instead.
  ///   - isReset: it has them already.
  /// - Returns: nil if they are free already, else what is to be waited for.
  func begin(_ buffer: Buffer, _ frames: [Frame], of offer: HostOffer?, isReset: Bool) -> PageReturn? {
    let now = Instant.now
    var deadline = now + patience
    for borrower in buffer.borrowers {
      if let limit = borrower.pagesAreWanted(isReset: isReset) { deadline = min(deadline, limit) }
    }
    let pageReturn = PageReturn(
      buffer: buffer, frames: frames, of: offer, begin: now, deadline: deadline,
      // Memory of the host goes back to nobody who would write into it.
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

  /// Ends what nobody stands against any more.
  /// - Returns: true if there was one.
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
        // Importers may have had less time than a screen: one second for all that went together.
        let time = "\((now - pageReturn.begin).milliseconds) ms after the guest asked for its pages"
        mistakes.report(
          .releasedLate,
          pageReturn.isShown || pageReturn.isBorrowed
            ? "a buffer was still in use \(time); what \(pageReturn.isShown ? "showed" : "imported") it is cut off"
            : "a device still reads a buffer \(time), which go back all the same; "
              + "the consumer's driver is slow, or hangs")
      }
      finish(pageReturn)
      return true
    }
  }

  /// What takes the place of pages is complete, and has as long to be shown as after any other command.
  func finishWork(_ now: Instant) { for pageReturn in waiting { pageReturn.finishWork(now + patience) } }

  /// When the first sink is cut off; nil if nobody is waited for.
  var deadline: Instant? { waiting.lazy.map(\.deadline).min() }

  // MARK: Devices

  /// Waits for devices that read what the guest may have back after a stop, since that is a driver's reset as well.
  func awaitDevices(on resources: some Sequence<Resource>) {
    reading = resources.compactMap { resource in
      resource.offer == nil ? resource.buffer.flatMap(waitForDevices) : nil
    }
    readingDeadline = .now + patience
  }

  /// No device that was waited for reads anything any more.
  var devicesAreDone: Bool { reading.allSatisfy(\.isOver) }
  var devicesDeadline: Instant? { reading.isEmpty ? nil : readingDeadline }

  /// Devices are waited for no longer, once their time is over.
  func giveUpDevices(_ now: Instant = .never) { if readingDeadline <= now { reading.removeAll() } }

  /// Somebody shows the pages, or a device reads them. That is looked at when nobody shows them any more: what a
  /// consumer told its device to do, it told before it let go.
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

  // MARK: What it says

  /// Adds what it has counted.
  func report(into statistics: inout Statistics) {
    statistics.releasedLate += counts.late
    statistics.waitedForFence += counts.waitedForFence
  }
}
