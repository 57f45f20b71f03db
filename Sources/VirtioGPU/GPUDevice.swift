package import Buffers
package import Linux
package import Logging
package import Scanout
package import SystemPackage
package import Tracing
internal import Udmabuf
package import Virtio

/// The device side of virtio-gpu (virtio 1.3, 5.7): it takes commands from its queues, lends the guest's pages, and lets a
/// sink show them.
///
/// It wires its parts and dispatches commands. `CommandQueue` takes and answers commands. `ResourceTable` has the guest's
/// resources, `Scanouts` the pictures on the screens and the way of pages off them, `PageReturns` the users of pages on
/// their way back. `HostRegion` has the memory of the host in the guest, `SharedObjects` the dma-bufs for other devices,
/// and `MistakeLog` the guest's mistakes. The commands are in `GPUDevice+Commands` and `GPUDevice+Blobs`, the guest's
/// questions about its screens in `GPUDevice+Displays`.
package final class GPUDevice {
  /// Virtqueue numbers (5.7.2).
  package static let controlQueue = 0
  package static let cursorQueue = 1
  /// The spec's bound on scanouts (5.7.4).
  package static let maxScanouts = 16

  /// The features for the guest: bits of `GPUFeature`.
  package let features: UInt64
  /// The subset of `features` that its driver acknowledged.
  private var chosen: UInt64 = 0

  let lender: Lender
  let mistakes: MistakeLog
  let logger: Logger
  let resources: ResourceTable
  let objects: SharedObjects
  let returns: PageReturns
  /// Set once, by the initialiser.
  private(set) var scanouts: Scanouts!
  /// Nil if the guest may not use memory of the host.
  let hostRegion: HostRegion?
  var contexts: RenderContexts
  private(set) var configSpace: ConfigSpace
  let control, cursor: CommandQueue

  /// Receives the device's unasked news.
  package weak var frontEnd: (any GPUFrontEnd)? { didSet { hostRegion?.frontEnd = frontEnd } }
  /// Where it writes down what the guest reports; nil for nowhere.
  package var trace: DeviceTrace?
  /// Whether the sink left the guest's last question about its screens unanswered.
  var sinkIsSilent = false
  private var later: Deferred?
  private var timer: Timer?
  /// Changes at each start of the guest's driver.
  package private(set) var epoch: UInt64 = 1
  /// Runs after `epoch` has changed, and the lent resources are on their way back.
  package var whenEpochChanged: (() -> Void)?
  /// Run once the control queue is empty.
  var awaitingQueue: [() -> Void] = []
  /// Non-nil while the control queue stops: called when its last command is answered.
  private var whenStopped: (() -> Void)?

  package var patience = Patience() {
    didSet {
      (control.patience, cursor.patience, scanouts.patience) = (patience, patience, patience)
      returns.patience = patience.pageReturn
      hostRegion?.patience = patience.errand
    }
  }

  /// - Parameters:
  ///   - lender: lends the guest's memory, within its quotas.
  ///   - sink: shows the frames; nil for none.
  ///   - outputs: the first outputs, one for each scanout, at most `maxScanouts`.
  ///   - scanoutCount: the number of scanouts for the guest, if the front end leaves that to us; nil for all.
  ///   - backing: whether the guest's pages are lent or copied.
  ///   - cursor: where the guest's cursor may be shown.
  ///   - profile: chooses between the features that exclude each other.
  ///   - hostMemory: the size of the region for memory of the host, whole pages, and the offers for it; nil for none.
  ///   - advice: the log's advice on options that the user can change.
  package init(
    lender: Lender, sink: (any ScanoutSink)?, outputs: [SinkOutput], scanoutCount: Int? = nil,
    backing: BackingChoice = .auto, cursor cursorChoice: CursorChoice = .auto, profile: Profile = .display,
    hostMemory: HostMemory? = nil, loop: EventLoop, logger: Logger, advice: @escaping Advice = { _ in nil }
  ) throws(Errno) {
    precondition(outputs.count <= Self.maxScanouts, "there are at most 16 scanouts")
    (self.lender, self.logger, features) = (lender, logger, profile.features)
    let patience = Patience()
    mistakes = MistakeLog(logger, advice: advice)
    resources = ResourceTable(lender.account)
    contexts = RenderContexts(limit: lender.account.quotas.resources)
    configSpace = ConfigSpace(scanoutCount: max(1, scanoutCount ?? outputs.count))
    control = CommandQueue(.control, mistakes, patience: patience)
    cursor = CommandQueue(.cursor, mistakes, patience: patience)
    let parts = Parts()
    objects = SharedObjects(mistakes) { parts.device?.tell($0) }
    returns = PageReturns(lender, mistakes, loop, patience: patience.pageReturn) { parts.device?.wake() }
    hostRegion = hostMemory.map { [mistakes] memory in
      HostRegion(memory, patience: patience.errand, mistakes, logger) { parts.device?.heardFromFrontEnd() }
    }
    parts.device = self
    scanouts = Scanouts(
      outputs, sink, backing: backing, cursor: cursorChoice, lender: lender, resources: resources,
      objects: objects, returns: returns, mistakes: mistakes, logger: logger, advice: advice,
      patience: patience, owner: self)
    returns.forget = { [unowned scanouts] in scanouts?.forget($0) }
    later = Deferred(loop) { [unowned self] in work() }
    timer = try Timer(loop) { [unowned self] in expire() }
  }

  /// Lets the parts call their device, which does not exist yet when they are made.
  private final class Parts {
    weak var device: GPUDevice?
  }

  // MARK: The device's life

  /// The driver's choice among `features`.
  package func featuresChanged(_ chosen: UInt64) { self.chosen = chosen }

  func has(_ feature: UInt64) -> Bool { chosen & feature != 0 }

  /// A queue runs from now on. A control queue that starts afresh has a new driver; all that the old driver left is
  /// dropped.
  package func start(_ queue: GPUQueue, index: Int, fresh: Bool) {
    switch index {
    case Self.controlQueue:
      if fresh { dropAll() }
      control.start(queue)
      hostRegion?.isRunning = true
      takeBackMappings()
    case Self.cursorQueue: cursor.start(queue)
    default: preconditionFailure("virtio-gpu has two queues")
    }
  }

  /// The driver's setup of a queue cannot work.
  package func reportUnusable(_ why: String) { control.reportUnusable(why) }

  /// The driver says that the queue has new chains.
  package func kicked(_ index: Int) { process(index == Self.controlQueue ? control : cursor) }

  func process(_ queue: CommandQueue) {
    // Cursor commands can cause copies, and a stop must not wait for more and more of them.
    if whenStopped != nil {
      if queue === cursor { cursor.leave() }
      return
    }
    queue.process(for: self)
  }

  /// Takes no more commands from the queue, completes those that were taken, and calls `finished`: at once, or later. A stop
  /// waits until resources that lose their pages are copied, pages in use have come back, and no device reads others. After
  /// the copies that takes at most `Patience.pageReturn`.
  package func stop(_ index: Int, _ finished: @escaping () -> Void) {
    guard index == Self.controlQueue, control.queue != nil else {
      if index == Self.cursorQueue { cursor.drop() }
      return finished()
    }
    // With this answer the guest has its pages back, so their content must be copied now.
    let isKeeping = scanouts.work.isKeeping
    if !isKeeping { scanouts.endCopies() }
    whenStopped = finished
    hostRegion?.isRunning = false
    control.waitNoLonger { isKeeping && $0.isAtWork }
    returns.awaitDevices(on: resources.values)
    armTimer()
    settle()
  }

  /// The queue has ended without a stop. Commands that were taken from it are not answered any more.
  package func drop(_ index: Int) {
    guard index == Self.controlQueue else { return cursor.drop() }
    control.drop()
    hostRegion?.isRunning = false
    returns.giveUpDevices()
    whenStopped = nil
    scanouts.endCopies()
    if !awaitingQueue.isEmpty { wake() }
  }

  /// The front end resets the device and its rings. All that the driver left is dropped, and waiting answers are not sent.
  package func reset() {
    drop(Self.controlQueue)
    drop(Self.cursorQueue)
    configSpace.reset()
    dropAll()
  }

  /// Drops everything that an earlier driver left.
  func dropAll() {
    epoch += 1
    trace?.start()
    scanouts.dropAll()
    hostRegion?.reset(resources.values)
    resources.removeAll()
    contexts.removeAll()
    whenEpochChanged?()
  }

  // MARK: The configuration space

  /// `size` bytes of it from `offset` on; zero beyond its end.
  package func config(offset: UInt32, size: UInt32) -> [UInt8] {
    configSpace.read(offset: offset, size: size)
  }

  package func writeConfig(offset: UInt32, _ bytes: [UInt8]) { configSpace.write(offset: offset, bytes) }

  // MARK: Other devices and other memory

  /// A new descriptor of the dma-buf that is shared under a name; nil if there is none, or no free descriptor.
  package func sharedObject(_ uuid: ObjectUUID) -> FD? { objects.descriptor(of: uuid) }

  /// The regions that the front end has to make, by their numbers.
  package var sharedMemory: [UInt8: UInt64] { hostRegion.map { [HostMemory.region: $0.region.size] } ?? [:] }

  // MARK: Statistics

  /// Adds the device's counts. The account has the guest's present use.
  package func report(into statistics: inout Statistics) {
    scanouts.report(into: &statistics)
    returns.report(into: &statistics)
    mistakes.report(into: &statistics)
  }

  /// The whole statistics of a guest with this device alone.
  package var statistics: Statistics {
    var statistics = Statistics()
    lender.report(into: &statistics)
    report(into: &statistics)
    return statistics
  }

  // MARK: Time

  private func work() {
    if returns.sweep() { settle() }
    scanouts.finishShadows()
    scanouts.proceed(isAwaited: control.awaitsWork)
    settle()
    // Only a queue that was left with chains: nobody kicked the other one.
    if control.hasMore { process(control) }
    if cursor.hasMore { process(cursor) }
    tellWhoAwaitsQueue()
  }

  private func expire() {
    let now = Instant.now
    control.expire(now, noteSilence)
    // The picture that replaces the pages may still be copied.
    if !isBusy { returns.cutOff(now) }
    returns.giveUpDevices(now)
    scanouts.finishShadows()
    settle()
    armTimer()
  }

  /// An answer's time is over. No answer waits again for the same party until that party says something.
  private func noteSilence(_ response: PendingResponse) {
    for flip in response.flips { scanouts[Int(flip.scanout.rawValue)].isSilent = true }
    if response.errand?.answerer == .sink { sinkIsSilent = true }
  }

  /// Sends the answers whose wait is over, and tells those who wait for an empty queue.
  private func settle() {
    guard control.queue != nil else { return }
    control.settle()
    if whenStopped != nil, control.isEmpty, returns.devicesAreDone, let finished = whenStopped.take() {
      control.drop()
      returns.giveUpDevices()
      finished()
      if cursor.hasMore || !awaitingQueue.isEmpty { wake() }
    }
  }

  private func heardFromFrontEnd() {
    control.waitLonger()
    wake()
  }
}

extension GPUDevice: ScanoutsOwner, CommandHandler {
  var isBusy: Bool { scanouts.isBusy }
  var isTurnOver: Bool { scanouts.isTurnOver }

  func beginTurn() { scanouts.beginTurn() }

  /// Schedules the release of idle pages and the answers that wait for it. They run from the loop, and interrupt no other
  /// work.
  func wake() { later?.schedule() }

  func armTimer() {
    var first = control.deadline
    for other in [isBusy ? nil : returns.deadline, scanouts.shadowDeadline, returns.devicesDeadline] {
      if let other { first = min(first ?? other, other) }
    }
    guard let first else { return }
    timer?.arm(after: first - .now)
  }

  /// Completes the fences that waited for the presentation.
  func reached(_ sequence: UInt64, on scanout: ScanoutID) {
    if control.reached(sequence, on: scanout) { settle() }
  }

  /// Answers the command whose copy took long. The sink gets the usual time from now on.
  func finishedWork() {
    let now = Instant.now
    returns.finishWork(now)
    control.finishWork(now)
    // The deadlines of other answers may have passed meanwhile.
    returns.cutOff(now)
    settle()
    armTimer()
  }

  func outputsHaveChanged() {
    configSpace.raise(ConfigSpace.displayEvent)
    tell(.configChanged)
  }
}
