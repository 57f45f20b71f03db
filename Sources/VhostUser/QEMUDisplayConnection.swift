package import Linux
package import SystemPackage

/// The back end's side of QEMU's display socket (`GPU_SET_SOCKET`).
///
/// Nothing here waits. QEMU reads each message to its end, and does nothing else meanwhile. A message that has begun is
/// therefore finished as soon as there is room, and no other one is taken before.
package final class QEMUDisplayConnection {
  /// At most this many replies may be outstanding.
  package static let maxOutstanding = 64
  /// At most this many replies are read in one turn of the loop.
  private static let repliesPerTurn = 16

  private let loop: EventLoop
  private let socket: UnixSocket
  private var token: EventLoop.Token?
  /// Called when there is room again after a message was not taken.
  private let onReady: () -> Void
  /// Called once at the end; the error is nil if QEMU closed the socket.
  private let onEnd: (QEMUDisplayError?) -> Void

  /// The message under way, from `sent` on. Its capacity is reused.
  private var outgoing: [UInt8] = []
  private var sent = 0
  /// Whether a message was not taken, so that `onReady` must be called.
  private var isAwaited = false
  /// Whether the loop watches for room.
  private var watchesRoom = false
  /// Why sending failed.
  private var failure: Errno?

  /// The calls that wait for replies, in the order of the replies.
  private var waiting: [(request: QEMUDisplayRequest, answered: (QEMUDisplayReply?) -> Void)] = []
  private var header: QEMUDisplayHeader?
  /// The bytes so far of a header, or of the payload after it.
  private var incoming: [UInt8] = []

  /// - Throws: the kernel's error for a descriptor that cannot be watched.
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

  /// Whether the connection is still there. The socket itself closes with its owner.
  package var isOpen: Bool { token != nil }

  // MARK: Sending

  /// Sends a message that has no reply, and no descriptor.
  /// - Returns: false if there is no room for it now. Nothing of it was sent, and `onReady` is called later.
  package func send(_ message: QEMUDisplayMessage) -> Bool {
    precondition(message.request.replySize == nil, "a reply is waited for")
    return transmit(message, [])
  }

  /// Sends a message with a descriptor in the same way; QEMU gets a copy of the descriptor.
  package func send(_ message: QEMUDisplayMessage, passing fd: borrowing FD) -> Bool {
    transmit(message, [fd.withRaw { $0 }])
  }

  /// Sends a message that has a reply, in the same way.
  /// - Parameter answered: called with the reply, or with nil when a reply to a later message comes first. It is not called
  ///   after the end of the connection.
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
    // No byte of it was sent.
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

  /// Watches for room while a message waits for it. A failure is also reported from the loop.
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
      // Replies have no descriptors; any that come are closed at once.
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

  /// QEMU closes the socket at each stop, perhaps before it has read the last messages.
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
