package import Linux
package import SystemPackage

/// QEMU's display socket (`GPU_SET_SOCKET`), seen from the back end.
///
/// Nothing here waits. QEMU reads each message to its end, and does nothing else meanwhile: so one that has begun is
/// finished before any other, as soon as there is room, and until then no other is taken.
package final class QEMUDisplayConnection {
  /// So many replies may be outstanding.
  package static let maxOutstanding = 64
  /// So many replies are read in one turn of the loop.
  private static let repliesPerTurn = 16

  private let loop: EventLoop
  private let socket: UnixSocket
  private var token: EventLoop.Token?
  /// Called when there is room again, after a message was not taken.
  private let onReady: () -> Void
  /// Called once, when it is over: nil if QEMU has closed it.
  private let onEnd: (QEMUDisplayError?) -> Void

  /// A message that has begun, from `sent` on. It has its capacity back when it is done.
  private var outgoing: [UInt8] = []
  private var sent = 0
  /// One was not taken, and `onReady` is to be called.
  private var isAwaited = false
  /// The loop watches for room.
  private var watchesRoom = false
  /// Sending failed.
  private var failure: Errno?

  /// Who waits for replies, in the order in which these come.
  private var waiting: [(request: QEMUDisplayRequest, answered: (QEMUDisplayReply?) -> Void)] = []
  private var header: QEMUDisplayHeader?
  /// What is there of a header, or of the payload after it.
  private var incoming: [UInt8] = []

  /// - Throws: what the kernel says of a descriptor that cannot be watched.
  package init(
    _ socket: consuming UnixSocket, loop: EventLoop, onReady: @escaping () -> Void,
    onEnd: @escaping (QEMUDisplayError?) -> Void
  ) throws(Errno) {
    try socket.fd.setNonblocking()
    (self.loop, self.onReady, self.onEnd) = (loop, onReady, onEnd)
    self.socket = socket
    token = try loop.add(self.socket.fd) { [weak self] readiness in self?.ready(readiness) }
  }

  deinit { close() }

  /// It is not over. The socket itself closes with its owner.
  package var isOpen: Bool { token != nil }

  // MARK: Sending

  /// Sends a message that has no reply, and no descriptor.
  /// - Returns: false if there is no room for it now: nothing of it was sent, and `onReady` is called later.
  package func send(_ message: QEMUDisplayMessage) -> Bool {
    precondition(message.request.replySize == nil, "a reply is waited for")
    return transmit(message, [])
  }

  /// Sends a message with a descriptor, of which QEMU gets its own, in the same way.
  package func send(_ message: QEMUDisplayMessage, passing fd: borrowing FD) -> Bool {
    transmit(message, [fd.withRaw { $0 }])
  }

  /// Sends a message that has a reply, in the same way.
  /// - Parameter answered: called with the reply; with nil when one comes to something that was asked later; not at
  ///   all when the connection is over.
  package func ask(_ message: QEMUDisplayMessage, _ answered: @escaping (QEMUDisplayReply?) -> Void) -> Bool {
    precondition(message.request.replySize != nil, "there is a reply to wait for")
    if waiting.count >= Self.maxOutstanding {
      isAwaited = true
      return false
    }
    guard transmit(message, []) else { return false }
    waiting.append((message.request, answered))
    return true
  }

  private func transmit(_ message: QEMUDisplayMessage, _ descriptors: [CInt]) -> Bool {
    precondition(message.hasDescriptor != descriptors.isEmpty, "a descriptor goes with a buffer")
    guard isOpen, failure == nil else { return false }
    guard outgoing.isEmpty else {
      isAwaited = true
      return false
    }
    message.encode(into: &outgoing)
    sent = 0
    // Descriptors go with the first byte.
    flush(descriptors)
    // Nothing of it has begun.
    isAwaited = sent == 0
    if isAwaited { outgoing.removeAll(keepingCapacity: true) }
    watchRoom()
    return !isAwaited
  }

  /// Sends as much as there is room for.
  private func flush(_ descriptors: [CInt]) {
    var descriptors = descriptors
    while sent < outgoing.count {
      do throws(Errno) {
        sent += try send(outgoing, from: sent, descriptors)
        descriptors = []
      } catch {
        if error != .wouldBlock { failure = error }
        return
      }
    }
    outgoing.removeAll(keepingCapacity: true)
  }

  private func send(_ bytes: [UInt8], from start: Int, _ descriptors: [CInt]) throws(Errno) -> Int {
    try unsafe socket.send(bytes.span.bytes.extracting(droppingFirst: start), rawDescriptors: descriptors)
  }

  /// Watches for room while something waits for it. A failure is told from the loop, too.
  private func watchRoom() {
    guard let token else { return }
    let wanted = !outgoing.isEmpty || failure != nil || isAwaited && waiting.count < Self.maxOutstanding
    if wanted == watchesRoom { return }
    watchesRoom = wanted
    do throws(Errno) {
      try loop.modify(token, socket.fd, wanted ? [.readable, .writable] : .readable)
    } catch { failure = error }
  }

  // MARK: Receiving

  private func ready(_ readiness: Readiness) {
    if let failure { return end(failure) }
    if readiness.contains(.writable) {
      flush([])
      if isOpen, outgoing.isEmpty, isAwaited, waiting.count < Self.maxOutstanding {
        isAwaited = false
        onReady()
      }
    }
    do throws(QEMUDisplayError) { try receive() } catch { end(error) }
    watchRoom()
  }

  private func receive() throws(QEMUDisplayError) {
    for _ in 0..<Self.repliesPerTurn {
      if header == nil {
        guard try fill(to: QEMUDisplayHeader.size) else { return }
        header = try QEMUDisplayHeader(incoming)
        incoming.removeAll(keepingCapacity: true)
      }
      guard let complete = header, try fill(to: complete.payloadSize) else { return }
      let reply = try QEMUDisplayReply(complete.request, incoming)
      header = nil
      incoming.removeAll(keepingCapacity: true)
      try take(reply, to: complete.request)
    }
  }

  /// Reads until there are `size` bytes.
  /// - Returns: false when they are not there yet, or will not come.
  private func fill(to size: Int) throws(QEMUDisplayError) -> Bool {
    while incoming.count < size {
      // Replies bring no descriptors: those that come close at once.
      var descriptors = ReceivedDescriptors()
      let count: Int
      do throws(Errno) {
        count =
          try socket.receive(into: &incoming, upTo: size - incoming.count, descriptors: &descriptors)
      } catch {
        if error != .wouldBlock { end(error) }
        return false
      }
      if count > 0 { continue }
      if isOpen, header != nil || !incoming.isEmpty { throw .closed }
      end(nil as QEMUDisplayError?)
      return false
    }
    return isOpen
  }

  private func take(_ reply: QEMUDisplayReply, to request: QEMUDisplayRequest) throws(QEMUDisplayError) {
    guard let index = waiting.firstIndex(where: { $0.request == request }) else { throw .unasked(request) }
    if let first = waiting[..<index].first(where: { !$0.request.mayGoUnanswered }) {
      throw .outOfTurn(request, before: first.request)
    }
    let answered = waiting[...index].map(\.answered)
    waiting.removeFirst(index + 1)
    for answered in answered.dropLast() { answered(nil) }
    answered.last?(reply)
  }

  // MARK: The end

  /// QEMU closes it at each stop, and what was sent last may be unread then.
  private func end(_ errno: Errno) {
    end(errno == .brokenPipe || errno == .connectionReset ? nil : QEMUDisplayError.socket(errno))
  }

  private func end(_ error: QEMUDisplayError?) {
    guard isOpen else { return }
    close()
    onEnd(error)
  }

  private func close() {
    if let token = token.take() { loop.remove(token, socket.fd) }
    waiting = []
  }
}
