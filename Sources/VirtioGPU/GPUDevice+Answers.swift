internal import Guest
internal import Linux
internal import Scanout
internal import Virtio

// What becomes of a command, and when the guest is told: at once, or when what it waits for is over.
extension GPUDevice {
  /// What became of a command.
  enum Outcome {
    case now(Response)
    /// When the presentations are on the screen.
    case atFlip([(scanout: ScanoutID, sequence: UInt64)])
    /// When nobody uses the pages any more, and the front end has unmapped them.
    case whenFree(Release?, Errand?)
    /// When the front end has mapped something, or the sink has answered.
    case whenDone(Errand)
  }

  func answer(_ outcome: Outcome, _ header: ControlHeader, _ queue: GPUQueue, isControl: Bool) {
    let now = Response.ok
    switch outcome {
    case .now(let response):
      // Fences complete in their order: the driver takes one as done when a later one is.
      if isControl, isBusy || header.isFenced && pending.contains(where: \.header.isFenced) {
        pend(header, response, monotonicNanoseconds() + patience.fence)
      } else {
        write(response, header, head: chain.head, chain.writable, queue, optional: !isControl)
      }
    case .atFlip(let flips):
      let flips = header.wantsPace ? flips.filter { !scanouts[Int($0.scanout.rawValue)].isSilent } : []
      if !flips.isEmpty {
        pend(header, now, monotonicNanoseconds() + patience.fence, flips)
      } else {
        answer(.now(now), header, queue, isControl: isControl)
      }
    case .whenFree(nil, nil):
      answer(.now(now), header, queue, isControl: isControl)
    case .whenFree(let release, let errand):
      let deadline = errand == nil ? release?.deadline : nil
      let waiting = pend(
        header, now, deadline ?? monotonicNanoseconds() + patience.errand, errand: errand)
      release?.hold(waiting)
      errand?.response = waiting
    case .whenDone(let errand):
      errand.response = pend(header, errand.longest, monotonicNanoseconds() + errand.patience, errand: errand)
    }
  }

  @discardableResult
  private func pend(
    _ header: ControlHeader, _ response: Response, _ deadline: Int64,
    _ flips: [(scanout: ScanoutID, sequence: UInt64)] = [], errand: Errand? = nil
  ) -> PendingResponse {
    let waiting = PendingResponse(
      head: chain.head, writable: room(for: response), header: header, response: response, deadline: deadline,
      flips: flips, errand: errand)
    waiting.isAtWork = isBusy
    pending.append(waiting)
    armTimer()
    return waiting
  }

  /// As much of the chain's room as the answer takes: what waits must not grow with what the guest offers.
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
    optional: Bool = false
  ) {
    // Cursor commands have no room for an answer, and need none. NuttX leaves none for a flush either.
    if (optional || header.type == CommandType.resourceFlush) && writable.isEmpty {
      return queue.queue.complete(head: head, written: 0)
    }
    var writer = ChainWriter(writable, queue.queue.memory)
    var bytes: [UInt8] = []
    swap(&bytes, &answer)  // Its capacity serves again and again.
    defer { swap(&bytes, &answer) }
    bytes.removeAll(keepingCapacity: true)
    if writer.remaining >= UInt64(response.size) {
      response.encode(header, into: &bytes)
    } else {
      mistakes.report(
        "noRoom",
        "command \(hex(header.type)) leaves \(writer.remaining) bytes for an answer of \(response.size)")
      if writer.remaining >= UInt64(ControlHeader.size) {
        Response.error(.unspecified).encode(header, into: &bytes)
      }
    }
    do throws(VirtQueueError) {
      unsafe try writer.write(bytes.span.bytes)
    } catch {
      mistakes.report("noRoom", "an answer cannot be written: \(error)")
    }
    queue.queue.complete(head: head, written: writer.written)
  }

  /// A scanout has got as far as `sequence`: completes the fences that waited for it.
  func reached(_ sequence: UInt64, on scanout: ScanoutID) {
    if pending.isEmpty { return }
    for response in pending { response.reached(sequence, on: scanout) }
    settle()
  }

  /// Answers what need not wait any more, and tells who waits for the queue to be empty.
  func settle() {
    guard let control else { return }
    var fenceBefore = false
    let before = pending.count
    pending.removeAll { response in
      let fenced = response.header.isFenced
      guard response.isReady, !(fenced && fenceBefore) else {
        fenceBefore = fenceBefore || fenced
        return false
      }
      write(response.response, response.header, head: response.head, response.writable, control)
      return true
    }
    if pending.count != before { control.notify() }
    if pending.isEmpty, reading.allSatisfy(\.isOver), let finished = whenDrained.take() {
      self.control = nil
      reading.removeAll()
      finished()
      if cursorHasMore { wake() }
    }
  }
}
