internal import Guest
internal import Linux
internal import Scanout
internal import Virtio

/// The outcome of a command: when its answer is due.
enum Outcome {
  case now(Response)
  /// The answer is due when the presentations are on the screen.
  case atFlip([Flip])
  /// The answer is due when nobody uses the pages any more, and the front end has unmapped them.
  case whenFree(PageReturn?, Errand?)
  /// The answer is due when the front end has mapped the memory, or the sink has answered.
  case whenDone(Errand)
}

/// A presentation for which an answer waits.
struct Flip {
  let scanout: ScanoutID
  let sequence: UInt64
}

/// Executes the commands of a queue.
protocol CommandHandler: AnyObject {
  /// - Parameters:
  ///   - reader: is behind the command's own fields, at its page list if it has one.
  ///   - decoder: reads that list.
  /// - Throws: only errors of the chain's memory; the outcome has other mistakes.
  func execute(
    _ command: Command, _ header: ControlHeader, of queue: CommandQueue, _ reader: inout ChainReader,
    _ decoder: inout CommandDecoder
  ) throws(VirtQueueError) -> Outcome
  /// A turn of the loop begins, and with it the queue's time.
  func beginTurn()
  var isTurnOver: Bool { get }
  /// Whether work goes on in later turns. The control queue waits for it.
  var isBusy: Bool { get }
  /// The queue stopped for this turn with chains in it.
  func wake()
  /// The deadline of the waiting answers has changed.
  func armTimer()
}

/// One of the device's two queues. Takes its commands, and answers each at once or when its wait is over.
final class CommandQueue {
  enum Kind {
    case control
    /// The cursor queue: no answer waits, because its commands have no room for one and need none.
    case cursor
  }

  /// At most this many commands are taken before other sources of the loop have their turn.
  private static let commandsPerTurn = 256

  let kind: Kind
  private let mistakes: MistakeLog
  private(set) var queue: GPUQueue?
  /// Whether chains were left in it, to give other sources of the loop a turn.
  private(set) var hasMore = false
  /// Answers that wait, in the order of their commands.
  private var pending: [PendingResponse] = []
  var patience: GPUDevice.Patience

  // Reused for their capacity.
  private var chain = DescriptorChain()
  private var decoder = CommandDecoder()
  private var bytes: [UInt8] = []

  init(_ kind: Kind, _ mistakes: MistakeLog, patience: GPUDevice.Patience) {
    (self.kind, self.mistakes, self.patience) = (kind, mistakes, patience)
  }

  func start(_ queue: GPUQueue) { self.queue = queue }

  /// Takes no more commands, and drops the waiting answers.
  func drop() {
    for response in pending { response.waitNoLonger() }
    pending.removeAll()
    queue = nil
  }

  /// The driver's setup of the queue cannot work.
  func reportUnusable(_ why: String) {
    mistakes.report(.brokenRing, "a virtqueue is unusable until the driver sets it up anew: \(why)")
  }

  // MARK: Taking commands

  /// Takes no command now. The queue is looked at again when the obstacle is gone.
  func leave() { hasMore = true }

  func process(for handler: any CommandHandler) {
    hasMore = false
    guard let queue, queue.mayWork() else { return }
    if kind == .control, handler.isBusy { return leave() }
    queue.queue.suspendKicks()
    var budget = Self.commandsPerTurn
    handler.beginTurn()
    repeat {
      while takeOne(queue, for: handler) {
        budget -= 1
        if budget == 0 || handler.isTurnOver || kind == .control && handler.isBusy {
          leave()
          handler.wake()
          queue.notify()
          return
        }
      }
    } while !queue.queue.isBroken && queue.queue.resumeKicks()
    queue.notify()
  }

  /// - Returns: false when the queue has nothing more to give.
  private func takeOne(_ queue: GPUQueue, for handler: any CommandHandler) -> Bool {
    do throws(VirtQueueError) {
      guard try queue.queue.next(into: &chain) else { return false }
    } catch {
      if error.breaksRing {
        reportUnusable("\(error)")
        return false
      }
      mistakes.report(.malformedChain, "a command cannot be read: \(error)")
      queue.queue.complete(head: chain.head, written: 0)
      return true
    }
    var header = ControlHeader(type: 0, flags: 0, fenceID: 0, contextID: 0, ringIndex: 0)
    let outcome: Outcome
    do throws(VirtQueueError) {
      var reader = ChainReader(chain, queue.queue.memory)
      header = try decoder.header(&reader)
      let command = try decoder.command(header, &reader)
      outcome = try handler.execute(command, header, of: self, &reader, &decoder)
    } catch {
      mistakes.report(
        .malformedCommand, "a command ends too early, or the guest does not have its memory: \(error)")
      outcome = .now(.error(.invalidParameter))
    }
    answer(outcome, header, queue, handler)
    return true
  }

  // MARK: Answering

  private func answer(
    _ outcome: Outcome, _ header: ControlHeader, _ queue: GPUQueue, _ handler: any CommandHandler
  ) {
    let now = Response.ok
    switch outcome {
    case .now(let response):
      // Fences complete in order, because the driver takes a fence as done when a later one is done.
      if kind == .control, handler.isBusy || header.isFenced && pending.contains(where: \.header.isFenced) {
        pend(header, response, .now + patience.fence, handler)
      } else {
        write(
          response, header, head: chain.head, chain.writable, queue, isOptional: kind == .cursor)
      }
    case .atFlip(let flips):
      if header.wantsPace, !flips.isEmpty {
        pend(header, now, .now + patience.fence, handler, flips)
      } else {
        answer(.now(now), header, queue, handler)
      }
    case .whenFree(nil, nil):
      answer(.now(now), header, queue, handler)
    case .whenFree(let pageReturn, let errand):
      let deadline = errand == nil ? pageReturn?.deadline : nil
      let waiting = pend(
        header, now, deadline ?? .now + patience.errand, handler, errand: errand)
      pageReturn?.keepWaiting(waiting)
      errand?.response = waiting
    case .whenDone(let errand):
      errand.response = pend(header, errand.longest, .now + errand.patience, handler, errand: errand)
    }
  }

  @discardableResult
  private func pend(
    _ header: ControlHeader, _ response: Response, _ deadline: Instant, _ handler: any CommandHandler,
    _ flips: [Flip] = [], errand: Errand? = nil
  ) -> PendingResponse {
    let waiting = PendingResponse(
      head: chain.head, writable: room(for: response), header: header, response: response, deadline: deadline,
      flips: flips, errand: errand)
    waiting.isAtWork = handler.isBusy
    pending.append(waiting)
    handler.armTimer()
    return waiting
  }

  /// Keeps only as much of the chain's room as the answer takes: the guest must not decide how much memory waiting takes.
  private func room(for response: Response) -> [GuestRange] {
    var needed = UInt64(response.size)
    return Array(
      chain.writable.prefix { range in
        if needed == 0 { return false }
        needed -= min(needed, range.length)
        return true
      })
  }

  private func write(
    _ response: Response, _ header: ControlHeader, head: UInt16, _ writable: [GuestRange], _ queue: GPUQueue,
    isOptional: Bool = false
  ) {
    // NuttX leaves no room for the answer to a flush.
    if (isOptional || header.type == CommandType.resourceFlush) && writable.isEmpty {
      return queue.queue.complete(head: head, written: 0)
    }
    var writer = ChainWriter(writable, queue.queue.memory)
    var bytes: [UInt8] = []
    swap(&bytes, &self.bytes)
    defer { swap(&bytes, &self.bytes) }
    bytes.removeAll(keepingCapacity: true)
    if writer.remaining >= UInt64(response.size) {
      response.encode(header, into: &bytes)
    } else {
      mistakes.report(
        .noRoom,
        "command \(hex(header.type)) leaves room for \(writer.remaining) bytes, but its answer has \(response.size)"
      )
      if writer.remaining >= UInt64(ControlHeader.size) {
        Response.error(.unspecified).encode(header, into: &bytes)
      }
    }
    do throws(VirtQueueError) {
      unsafe try writer.write(bytes.span.bytes)
    } catch {
      mistakes.report(.noRoom, "an answer cannot be written: \(error)")
    }
    queue.queue.complete(head: head, written: writer.written)
  }

  // MARK: Answers that wait

  var isEmpty: Bool { pending.isEmpty }

  /// Whether an answer waits for work in later turns.
  var awaitsWork: Bool { pending.contains(where: \.isAtWork) }

  /// Sends the answers whose wait is over.
  func settle() {
    guard let queue, !pending.isEmpty else { return }
    var fenceBefore = false
    let before = pending.count
    pending.removeAll { response in
      let fenced = response.header.isFenced
      guard response.isReady, !(fenced && fenceBefore) else {
        fenceBefore = fenceBefore || fenced
        return false
      }
      write(response.response, response.header, head: response.head, response.writable, queue)
      return true
    }
    if pending.count != before { queue.notify() }
  }

  /// A scanout has reached this presentation. The next `settle` answers the fences that waited for it.
  /// - Returns: false if no answer waits.
  func reached(_ sequence: UInt64, on scanout: ScanoutID) -> Bool {
    for response in pending { response.reached(sequence, on: scanout) }
    return !pending.isEmpty
  }

  /// The work that commands waited for is done. Their other waits get the usual time from now on.
  func finishWork(_ now: Instant) { for response in pending { response.finishWork(now + patience.fence) } }

  /// The front end has answered a request. It answers in order, so later requests get their time from now on.
  func waitLonger() {
    let now = Instant.now
    for response in pending { response.waitLonger(now) }
  }

  /// Ends all waits but those for `kept`.
  func waitNoLonger(but isKept: (PendingResponse) -> Bool) {
    for response in pending where !isKept(response) { response.waitNoLonger() }
  }

  /// Ends the waits whose time is over.
  /// - Parameter silent: is called with each of them.
  func expire(_ now: Instant, _ silent: (PendingResponse) -> Void) {
    for response in pending where response.deadline <= now && !response.isAtWork {
      silent(response)
      response.waitNoLonger()
    }
  }

  /// The earliest deadline of the waiting answers, or nil. Answers that are ready and wait for their turn, and those whose
  /// work goes on, need no timer.
  var deadline: Instant? { pending.lazy.filter { !$0.isReady && !$0.isAtWork }.map(\.deadline).min() }
}
