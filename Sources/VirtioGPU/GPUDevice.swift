package import Buffers
internal import Guest
package import Linux
package import Logging
internal import Pictures
package import Scanout
package import SystemPackage
internal import Udmabuf
package import Virtio

/// A running virtqueue, and how to tell the driver that something was completed in it.
package struct GPUQueue {
  package let queue: VirtQueue
  /// It is enabled and its memory is there; nothing is taken from it otherwise.
  package let mayWork: () -> Bool
  package let notify: () -> Void

  package init(
    queue: VirtQueue, mayWork: @escaping () -> Bool = { true }, notify: @escaping () -> Void
  ) { (self.queue, self.mayWork, self.notify) = (queue, mayWork, notify) }
}

/// The device side of virtio-gpu (virtio 1.3, 5.7): takes commands from its queues, lends the guest's pages
/// and has them shown.
///
/// This file drives the queues; what a command means is in `GPUDevice+Commands`, what is on which screen in
/// `GPUDevice+Scanouts`, what is lent and what is copied in `GPUDevice+Pictures`, how pages go back in
/// `GPUDevice+Release`, what the guest may show and hears of it in `GPUDevice+Outputs`, what blobs are in
/// `GPUDevice+Blobs`, how memory of the host comes into the guest in `GPUDevice+HostMemory`, how other
/// devices find a buffer in `GPUDevice+UUID`, and what becomes of work that is too much for one turn of the loop in
/// `GPUDevice+Work`.
package final class GPUDevice {
  /// Virtqueue numbers (5.7.2).
  package static let controlQueue = 0
  package static let cursorQueue = 1
  /// The spec's bound on scanouts (5.7.4).
  package static let maxScanouts = 16
  /// How long at most something waits, in nanoseconds.
  package struct Patience {
    /// A flush's fence for its flip.
    package var fence: Int64 = 100_000_000
    /// Pages for a sink that shows them.
    var release: Int64 = 1_000_000_000
    /// A command for the front end.
    var errand: Int64 = 5_000_000_000
    /// The guest's question what there is to show frames on for whoever shows them.
    var inquiry: Int64 = 1_000_000_000
    /// Other sources of the loop for a queue with many commands, or with much to copy. In one turn of the loop each queue
    /// can have this time twice, and what was begun earlier once.
    package var turn: Int64 = 4_000_000
  }
  /// So many commands are taken before other sources of the loop have their turn.
  private static let commandsPerTurn = 256

  package let buffers: BufferTable
  package var patience = Patience()
  let sink: (any ScanoutSink)?
  /// What the guest is offered, by the scanout's number. Their count never changes.
  var outputs: [SinkOutput]
  /// How many scanouts the guest is told of, where the front end does not say that itself.
  let scanoutCount: Int
  /// This driver names a resource when it moves a cursor: 0 means that it is hidden.
  var movesByName = false
  /// Events that the driver has not cleared yet: events_read of the configuration space.
  var eventsRead: UInt32 = 0
  /// Hears what the device says without being asked.
  package weak var frontEnd: (any GPUFrontEnd)?
  /// The dma-bufs that other devices may ask for, by name.
  var sharedObjects: [ObjectUUID: DMABuf] = [:]
  let logger: Logger
  let mistakes: MistakeLog
  var resources: [ResourceID: Resource] = [:]
  var scanouts: [ScanoutState]
  var lastFrameID: UInt64 = 0
  /// Buffers by the id of their frame, as long as a sink may know it.
  var buffersByFrame: [UInt64: Buffer] = [:]
  var releases: [Release] = []
  /// Copies that are not to be shown any more, until nobody shows them.
  var goneShadows: [Shadow] = []
  var announcedCauses: Set<ShadowCause.Name> = []
  /// When the kernel's limits were last read for a buffer that they stand against.
  var lastLimitCheck: Int64 = 0
  static let limitCheckInterval: Int64 = 1_000_000_000
  let backing: BackingChoice
  let cursorChoice: CursorChoice
  /// What the guest may use of the spec: bits of `Feature`.
  package let features: UInt64
  /// Of these, what its driver chose.
  private var chosen: UInt64 = 0

  /// What of the host's memory the guest may use, by the ids by which it asks for it.
  let offers: [UInt64: HostOffer]
  /// The shared memory region; nil if there is none.
  var hostRegion: SharedRegion?
  /// How many mappings are in it, or on their way into it or out of it.
  var mappings = 0
  /// A copy into a store that goes on in later turns of the loop, and memory that goes back in these.
  var storing: StoreCopy?
  var spent: [SpentMemory] = []
  /// How many bytes of such memory went back in this turn.
  var discarded = 0
  /// When what takes time leaves the loop to others, in nanoseconds.
  var turnEnd: Int64 = 0

  /// The sink left the guest's last question about its screens unanswered.
  var sinkIsSilent = false

  /// The 3D contexts that the guest has. Nothing is in them.
  var contexts: Set<UInt32> = []

  let loop: EventLoop
  private var later: Deferred?
  private var timer: Timer?
  var control: GPUQueue?
  private var cursor: GPUQueue?
  /// The queue was left with chains in it, for the sake of other sources of the loop.
  var (controlHasMore, cursorHasMore) = (false, false)
  var pending: [PendingResponse] = []
  var whenDrained: (() -> Void)?
  /// What a stop waits for beside its answers, and until when, in nanoseconds.
  var (reading, readingDeadline): ([FenceWait], Int64) = ([], 0)
  var chain = DescriptorChain()
  private var decoder = CommandDecoder()
  var answer: [UInt8] = []

  /// - Parameters:
  ///   - sink: shows the frames; nil for none.
  ///   - outputs: what the guest is offered at first, one for each scanout, at most `maxScanouts`.
  ///   - scanoutCount: how many of these the guest is told of by a front end that leaves that to us; nil for all.
  ///   - backing: whether the guest's pages are lent or copied.
  ///   - cursor: where the guest's cursor may be shown.
  ///   - profile: which of the features that exclude each other are offered.
  ///   - hostMemory: the size of the region in which memory of the host is mapped, whole pages, and what of it the
  ///     guest may use there; nil for none.
  package init(
    buffers: BufferTable, sink: (any ScanoutSink)?, outputs: [SinkOutput], scanoutCount: Int? = nil,
    backing: BackingChoice = .auto, cursor cursorChoice: CursorChoice = .auto, profile: Profile = .display,
    hostMemory: HostMemory? = nil, loop: EventLoop, logger: Logger
  ) throws(Errno) {
    precondition(outputs.count <= Self.maxScanouts, "there are at most 16 scanouts")
    (self.buffers, self.sink, self.outputs) = (buffers, sink, outputs)
    self.scanoutCount = max(1, scanoutCount ?? outputs.count)
    (self.loop, self.logger) = (loop, logger)
    (self.backing, self.cursorChoice, features) = (backing, cursorChoice, profile.features)
    hostRegion = hostMemory.map { SharedRegion(size: $0.size) }
    offers = Dictionary(uniqueKeysWithValues: (hostMemory?.offers ?? []).map { ($0.id, $0) })
    mistakes = MistakeLog(buffers, logger)
    scanouts = outputs.indices.map { ScanoutState(id: ScanoutID(UInt32($0))) }
    later = Deferred(loop) { [unowned self] in
      finishReleases()
      finishShadows()
      proceed()
      settle()
      // Only where it was left off: nobody kicked the other one.
      if controlHasMore { process(control, isControl: true) }
      if cursorHasMore { process(cursor, isControl: false) }
    }
    timer = try Timer(loop) { [unowned self] in expire() }
    sink?.observer = self
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
      control = queue
    case Self.cursorQueue: cursor = queue
    default: preconditionFailure("virtio-gpu has two queues")
    }
  }

  /// The driver set a queue up in a way in which it cannot run.
  package func reportUnusable(_ why: String) {
    mistakes.report("brokenRing", "a virtqueue is unusable until the driver sets it up anew: \(why)")
  }

  /// The driver says that there is something in the queue.
  package func kicked(_ index: Int) {
    process(index == Self.controlQueue ? control : cursor, isControl: index == Self.controlQueue)
  }

  /// Takes nothing more from the queue, completes what was taken, and calls `finished` then: at once, or
  /// when what stays in a resource without its pages is copied, pages that are in use have come back and no device reads
  /// others, which takes `Patience.release` at most after the copy.
  package func stop(_ index: Int, _ finished: @escaping () -> Void) {
    guard index == Self.controlQueue, control != nil else {
      if index == Self.cursorQueue { cursor = nil }
      return finished()
    }
    // The guest has its pages back with this answer: there is no later time to copy what was in them.
    let isKeeping = storing?.isLast == true
    if !isKeeping { endCopies() }
    whenDrained = finished
    for response in pending where !(isKeeping && response.isAtWork) { response.waitNoLonger() }
    (reading, readingDeadline) = (waitForAllDevices(), monotonicNanoseconds() + patience.release)
    armTimer()
    settle()
  }

  /// The queue has ended without a word: nothing that was taken from it is answered any more.
  package func drop(_ index: Int) {
    if index == Self.cursorQueue {
      cursor = nil
      return
    }
    for response in pending { response.waitNoLonger() }
    pending.removeAll()
    reading.removeAll()
    (control, whenDrained) = (nil, nil)
    endCopies()
  }

  /// The front end resets the device, and its rings with it: what the driver left is dropped, and nothing that
  /// waits is answered any more.
  package func reset() {
    drop(Self.controlQueue)
    drop(Self.cursorQueue)
    eventsRead = 0
    dropAll()
  }

  // MARK: Taking commands

  private func process(_ queue: GPUQueue?, isControl: Bool) {
    if isControl { controlHasMore = false } else { cursorHasMore = false }
    guard let queue, queue.mayWork() else { return }
    // A cursor can bring copies, and a stop must not wait for more and more of them.
    if whenDrained != nil {
      cursorHasMore = cursorHasMore || !isControl
      return
    }
    // What is under way looks at the queue when it is done.
    if isControl, isBusy {
      controlHasMore = true
      return
    }
    queue.queue.suspendKicks()
    var budget = Self.commandsPerTurn
    beginTurn()
    repeat {
      while takeOne(queue, isControl: isControl) {
        budget -= 1
        if budget == 0 || monotonicNanoseconds() >= turnEnd || isControl && isBusy {
          if isControl { controlHasMore = true } else { cursorHasMore = true }
          later?.schedule()
          queue.notify()
          return
        }
      }
    } while !queue.queue.isBroken && queue.queue.resumeKicks()
    queue.notify()
  }

  /// - Returns: false when the queue has nothing more to give.
  private func takeOne(_ queue: GPUQueue, isControl: Bool) -> Bool {
    do throws(VirtQueueError) {
      guard try queue.queue.next(into: &chain) else { return false }
    } catch {
      if error.breaksRing {
        reportUnusable("\(error)")
        return false
      }
      mistakes.report("malformedChain", "a command cannot be read: \(error)")
      queue.queue.complete(head: chain.head, written: 0)
      return true
    }
    var header = ControlHeader(type: 0, flags: 0, fenceID: 0, contextID: 0, ringIndex: 0)
    let outcome: Outcome
    do throws(VirtQueueError) {
      var reader = ChainReader(chain, queue.queue.memory)
      header = try decoder.header(&reader)
      let command = try decoder.command(header, &reader)
      outcome =
        isControl
        ? try execute(command, header.contextID, &reader, queue.queue.memory, &decoder)
        : executeCursor(command)
    } catch {
      mistakes.report("malformedCommand", "a command ends too early, or its memory is not there: \(error)")
      outcome = .now(.error(.invalidParameter))
    }
    answer(outcome, header, queue, isControl: isControl)
    return true
  }

  // MARK: Time

  /// Lets the release of idle pages, and what waits for it, be done from the loop, when nobody is in the
  /// middle of something.
  func wake() { later?.schedule() }

  func armTimer() {
    // An answer that is ready waits for its turn behind another, and one that is at work until that is done; no timer
    // brings either.
    let waiting = pending.filter { !$0.isReady && !$0.isAtWork }.map(\.deadline)
    let releases = isBusy ? [] : releases.map(\.deadline)
    let stop = reading.isEmpty ? [] : [readingDeadline]
    guard let first = (waiting + releases + goneShadows.compactMap(\.deadline) + stop).min()
    else { return }
    let left = max(0, first - monotonicNanoseconds())
    timer?.arm(milliseconds: UInt32(left / 1_000_000 + 1))
  }

  /// The front end has answered something: what it was asked for after that has waited for it too.
  func heardFromFrontEnd() {
    let now = monotonicNanoseconds()
    for response in pending { response.waitLonger(now) }
    wake()
  }

  private func expire() {
    let now = monotonicNanoseconds()
    for response in pending where response.deadline <= now && !response.isAtWork {
      noteSilence(response)
      response.waitNoLonger()
    }
    // What is to take the place of the pages may still be under way.
    if !isBusy { cutOffReleases(now) }
    if readingDeadline <= now { reading.removeAll() }
    finishShadows()
    settle()
    armTimer()
  }
}
