package import Buffers
package import Linux
package import Logging
package import Scanout
package import SystemPackage
package import Tracing
internal import Udmabuf
package import Virtio

/// The device side of virtio-gpu (virtio 1.3, 5.7): takes commands from its queues, lends the guest's pages
/// and has them shown.
///
/// It wires its parts and dispatches commands. `CommandQueue` takes commands and answers them, `ResourceTable` knows the
/// guest's resources, `Scanouts` what is shown and how pages go off the screens, `PageReturns` who still uses them then,
/// `HostRegion` memory of the host in the guest, `SharedObjects` what other devices may have, `ConfigSpace` and
/// `RenderContexts` what their names say, and `MistakeLog` what went wrong. What a command means is in `GPUDevice+Commands`, for
/// blobs in `GPUDevice+Blobs`, and what the guest asks about its screens in `GPUDevice+Displays`.
package final class GPUDevice {
  /// Virtqueue numbers (5.7.2).
  package static let controlQueue = 0
  package static let cursorQueue = 1
  /// The spec's bound on scanouts (5.7.4).
  package static let maxScanouts = 16

  /// What the guest may use of the spec: bits of `GPUFeature`.
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
  /// Nil if the guest may use no memory of the host.
  let hostRegion: HostRegion?
  var contexts: RenderContexts
  private(set) var configSpace: ConfigSpace
  let control, cursor: CommandQueue

  /// Hears what the device says without being asked.
  package weak var frontEnd: (any GPUFrontEnd)? { didSet { hostRegion?.frontEnd = frontEnd } }
  /// Where it writes down what the guest reports; nil for nowhere.
  package var trace: DeviceTrace?
  /// The sink left the guest's last question about its screens unanswered.
  var sinkIsSilent = false
  private var later: Deferred?
  private var timer: Timer?
  /// Another number after each start of the guest's driver.
  package private(set) var epoch: UInt64 = 1
  /// Runs after `epoch` has changed, and what was lent of the resources is on its way back.
  package var whenEpochChanged: (() -> Void)?
  /// Run once the control queue is empty.
  var awaitingQueue: [() -> Void] = []
  /// The control queue stops, and this is called when its last command is answered.
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
  ///   - outputs: what the guest is offered at first, one for each scanout, at most `maxScanouts`.
  ///   - scanoutCount: how many of these the guest is told of by a front end that leaves that to us; nil for all.
  ///   - backing: whether the guest's pages are lent or copied.
  ///   - cursor: where the guest's cursor may be shown.
  ///   - profile: which of the features that exclude each other are offered.
  ///   - hostMemory: the size of the region in which memory of the host is mapped, whole pages, and what of it the
  ///     guest may use there; nil for none.
  ///   - advice: what the log says for what a user can change.
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

  /// By which parts call their device, which does not exist yet when they are made.
  private final class Parts {
    weak var device: GPUDevice?
  }

  // MARK: The device's life

  /// The driver's choice among `features`.
  package func featuresChanged(_ chosen: UInt64) { self.chosen = chosen }

  func has(_ feature: UInt64) -> Bool { chosen & feature != 0 }

  /// A queue runs from now on. A control queue that starts afresh has a new driver behind it: what the old
  /// one left is dropped.
  package func start(_ queue: GPUQueue, index: Int, fresh: Bool) {
    switch index {
    case Self.controlQueue:
      if fresh { dropAll() }
      control.start(queue)
      takeBackMappings()
    case Self.cursorQueue: cursor.start(queue)
    default: preconditionFailure("virtio-gpu has two queues")
    }
  }

  /// The driver set a queue up in a way in which it cannot run.
  package func reportUnusable(_ why: String) { control.reportUnusable(why) }

  /// The driver says that there is something in the queue.
  package func kicked(_ index: Int) { process(index == Self.controlQueue ? control : cursor) }

  func process(_ queue: CommandQueue) {
    // A cursor can bring copies, and a stop must not wait for more and more of them.
    if whenStopped != nil {
      if queue === cursor { cursor.leave() }
      return
    }
    queue.process(for: self)
  }

  /// Takes nothing more from the queue, completes what was taken, and calls `finished` then: at once, or
  /// when what stays in a resource without its pages is copied, pages that are in use have come back and no device reads
  /// others, which takes `Patience.pageReturn` at most after the copy.
  package func stop(_ index: Int, _ finished: @escaping () -> Void) {
    guard index == Self.controlQueue, control.queue != nil else {
      if index == Self.cursorQueue { cursor.drop() }
      return finished()
    }
    // The guest has its pages back with this answer: there is no later time to copy what was in them.
    let isKeeping = scanouts.work.isKeeping
    if !isKeeping { scanouts.endCopies() }
    whenStopped = finished
    control.waitNoLonger { isKeeping && $0.isAtWork }
    returns.awaitDevices(on: resources.values)
    armTimer()
    settle()
  }

  /// The control queue runs, and is not about to stop.
  var runsControl: Bool { control.queue != nil && whenStopped == nil }

  /// The queue has ended without a word: nothing that was taken from it is answered any more.
  package func drop(_ index: Int) {
    guard index == Self.controlQueue else { return cursor.drop() }
    control.drop()
    returns.giveUpDevices()
    whenStopped = nil
    scanouts.endCopies()
    if !awaitingQueue.isEmpty { wake() }
  }

  /// The front end resets the device, and its rings with it: what the driver left is dropped, and nothing that
  /// waits is answered any more.
  package func reset() {
    drop(Self.controlQueue)
    drop(Self.cursorQueue)
    configSpace.reset()
    dropAll()
  }

  /// Drops what an earlier driver left behind.
  func dropAll() {
    epoch += 1
    trace?.start()
    scanouts.dropAll()
    for resource in resources.values { hostRegion?.endUse(of: resource) }
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

  /// A new descriptor of the dma-buf that is shared under a name; nil if there is none, or no room for one more.
  package func sharedObject(_ uuid: ObjectUUID) -> FD? { objects.descriptor(of: uuid) }

  /// The regions that the front end is to make, by their numbers.
  package var sharedMemory: [UInt8: UInt64] { hostRegion.map { [HostMemory.region: $0.region.size] } ?? [:] }

  // MARK: What it says

  /// Adds what it has counted. What the guest uses now is its account's to say.
  package func report(into statistics: inout Statistics) {
    scanouts.report(into: &statistics)
    returns.report(into: &statistics)
    mistakes.report(into: &statistics)
  }

  /// All that there is to be said of a guest that has this device alone.
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
    // Only where it was left off: nobody kicked the other one.
    if control.hasMore { process(control) }
    if cursor.hasMore { process(cursor) }
    tellWhoAwaitsQueue()
  }

  private func expire() {
    let now = Instant.now
    control.expire(now, noteSilence)
    // What is to take the place of the pages may still be under way.
    if !isBusy { returns.cutOff(now) }
    returns.giveUpDevices(now)
    scanouts.finishShadows()
    settle()
    armTimer()
  }

  /// The time of an answer is over: whoever it waited for is not waited for again until it says something.
  private func noteSilence(_ response: PendingResponse) {
    for flip in response.flips { scanouts[Int(flip.scanout.rawValue)].isSilent = true }
    if response.errand?.answerer == .sink { sinkIsSilent = true }
  }

  /// Answers what need not wait any more, and tells who waits for the queue to be empty.
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

  /// Lets the release of idle pages, and what waits for it, be done from the loop, when nobody is in the
  /// middle of something.
  func wake() { later?.schedule() }

  func armTimer() {
    var first = control.deadline
    for other in [isBusy ? nil : returns.deadline, scanouts.shadowDeadline, returns.devicesDeadline] {
      if let other { first = min(first ?? other, other) }
    }
    guard let first else { return }
    timer?.arm(after: first - .now)
  }

  /// Completes the fences that waited for it.
  func reached(_ sequence: UInt64, on scanout: ScanoutID) {
    if control.reached(sequence, on: scanout) { settle() }
  }

  /// Answers the command that took so long. Whoever shows the picture has as long for it as after any other command.
  func finishedWork() {
    let now = Instant.now
    returns.finishWork(now)
    control.finishWork(now)
    // The time of others may have come meanwhile.
    returns.cutOff(now)
    settle()
    armTimer()
  }

  func outputsHaveChanged() {
    configSpace.raise(ConfigSpace.displayEvent)
    tell(.configChanged)
  }
}
