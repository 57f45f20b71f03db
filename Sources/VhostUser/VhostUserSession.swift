internal import Guest
package import Linux
package import Logging
package import SystemPackage
internal import Virtio

/// The back end's side of one vhost-user connection, as QEMU's front ends from 7.2 on speak it.
///
/// It owns the socket and the rings. Everything happens in calls from the loop, one message or kick at a time, and nothing
/// waits. If a peer breaks the protocol, the session ends with an error that names the fault. `VhostUserSession+Rings`
/// starts, moves and stops the rings.
package final class VhostUserSession {
  /// The most regions that the guest's address space and KVM's slots allow.
  static let maxMemorySlots = UInt64(GuestMemory.maxRegions)

  /// The connection, which closes at the session's end even if this object lives on, because the front end may be waiting
  /// for an answer.
  var stream: MessageStream?
  let loop: EventLoop
  let device: any VhostUserDevice
  let logger: Logger
  private let onFirstMessage: () -> Void
  private let onEnd: (VhostUserError?) -> Void
  var token: EventLoop.Token?
  let vrings: [Vring]

  var features: UInt64 = 0
  private var protocolFeatures: ProtocolFeatures = []
  var table = MemoryTable()
  private let known: KnownMemory
  /// The queue whose stop the front end waits for. No message is read meanwhile.
  var stopping: Int?
  /// Queues that started or went on with the current message. Their chains are looked for after its answer.
  var resumed: [Int] = []

  /// Whether reading is paused.
  private var isPaused = false
  /// Whether a message has come. Before that, the peer may not be a front end.
  package private(set) var hasStarted = false
  /// The socket for requests to the front end, if it gave one.
  package private(set) var backendChannel: BackendChannel?

  /// Serves the connection until its end, as long as this object lives. It keeps the device.
  /// - Parameters:
  ///   - socket: a connected one; it is made nonblocking.
  ///   - known: shared by the sessions of all devices of one guest.
  ///   - onFirstMessage: called once, before the first message is answered.
  ///   - onEnd: called once, after the rings have stopped; with nil if the front end closed the connection between two
  ///     messages.
  package init(
    _ socket: consuming UnixSocket, loop: EventLoop, device: any VhostUserDevice,
    known: KnownMemory = KnownMemory(),
    logger: Logger,
    onFirstMessage: @escaping () -> Void = {}, onEnd: @escaping (VhostUserError?) -> Void
  ) throws(Errno) {
    let stream = try MessageStream(socket)
    self.stream = stream
    self.loop = loop
    self.known = known
    self.device = device
    self.logger = logger
    (self.onFirstMessage, self.onEnd) = (onFirstMessage, onEnd)
    vrings = (0..<device.queueCount).map { Vring(index: $0) }
    token = try loop.add(stream.socket.fd) { [weak self] readiness in self?.ready(readiness) }
  }

  deinit { close() }

  private func close() {
    guard let stream, let token else { return }
    loop.remove(token, stream.socket.fd)
    self.token = nil
    self.stream = nil
    known.forget(self)
    for vring in vrings { vring.stop() }
  }

  // MARK: The connection

  /// Pauses reading, or goes on.
  package func pauseReading(_ isPaused: Bool) throws(Errno) {
    guard let token, let stream else { return }
    try loop.modify(token, stream.socket.fd, isPaused ? [] : .readable)
    self.isPaused = isPaused
  }

  private func ready(_ readiness: Readiness) {
    if isPaused {
      // Only a hangup is reported now.
      return end(stopping.map { .closed(while: "while queue \($0) was stopping") })
    }
    guard let stream else { return }
    do throws(VhostUserError) {
      switch try stream.next() {
      case .partial: break
      case .end: end(nil)
      case .message(let envelope): try handle(envelope)
      }
    } catch {
      end(error)
    }
  }

  func end(_ error: VhostUserError?) {
    guard stream != nil else { return }
    close()
    onEnd(error)
  }

  private func handle(_ envelope: consuming Envelope) throws(VhostUserError) {
    let (request, needsReply) = (envelope.request, envelope.needsReply)
    if !hasStarted {
      hasStarted = true
      onFirstMessage()
    }
    logger.trace("vhost-user message", metadata: ["request": "\(request)"])
    if let (feature, name) = request.needs, !protocolFeatures.contains(feature) {
      throw .notNegotiated(request, feature: name)
    }
    let isAcknowledged = needsReply && !request.hasReply && protocolFeatures.contains(.replyAck)
    do throws(VhostUserError) {
      if let reply = try answer(envelope) {
        try stream?.send(reply, to: request)
      } else if isAcknowledged {
        try stream?.send(.word(0), to: request)
      }
    } catch {
      guard isAcknowledged, error.isRefusal else { throw error }
      logger.error("the front end gets an error for its message: \(error)")
      try stream?.send(.word(1), to: request)
    }
    lookAtResumedRings()
  }

  // MARK: Messages

  /// Executes a message.
  /// - Returns: its answer. Most requests have none, and one for a queue that has to stop comes later.
  private func answer(_ envelope: consuming Envelope) throws(VhostUserError) -> Reply? {
    let request = envelope.request
    switch envelope.message {
    case .getFeatures: return .word(Features.offered | device.deviceFeatures)
    case .setFeatures(let word): try setFeatures(word)
    case .getProtocolFeatures: return .word(offeredProtocolFeatures.rawValue)
    case .setProtocolFeatures(let word): try setProtocolFeatures(ProtocolFeatures(rawValue: word))
    // The first starts a session; the second is deprecated and must be ignored.
    case .setOwner, .resetOwner: break
    case .getQueueCount: return .word(UInt64(vrings.count))
    case .getMaxMemorySlots: return .word(Self.maxMemorySlots)
    // QEMU sends its log of writes to the guest's memory even if logging was not offered. Nothing is written into it, and
    // no migration needs it, because QEMU refuses migration.
    case .setLogBase, .setLogDescriptor: break
    case .setMemoryTable(let regions):
      try table.replace(with: regions, &envelope.descriptors, known: known)
      try memoryChanged(final: true)
    case .addMemoryRegion(let region):
      try table.add(region, &envelope.descriptors, known: known)
      try memoryChanged(final: false)
    case .removeMemoryRegion(let region):
      try table.remove(region)
      try memoryChanged(final: false)
    case .setVringSize(let queue, let size):
      // The queue itself checks for a power of two when it starts, because the size is the driver's choice.
      guard size > 0, size <= UInt32(VirtQueue.maxSize) else {
        throw .value(
          request, field: "the size", value: UInt64(size), wanted: "from 1 to \(VirtQueue.maxSize)")
      }
      try configure(request, queue) { $0.size = size }
    case .setVringBase(let queue, let base):
      guard let index = UInt16(exactly: base) else {
        throw .value(request, field: "the index", value: UInt64(base), wanted: "at most 65535")
      }
      try configure(request, queue) { $0.base = index }
    case .setVringAddress(let queue, let addresses):
      let vring = try vring(request, queue)
      vring.addresses = addresses
      move(vring, isFinal: true)
      try update(vring)
    case .setVringKick(let queue, let hasDescriptor):
      let vring = try vring(request, queue)
      guard hasDescriptor else { throw .polling(queue: vring.index) }
      vring.kick = KickSource(try eventFD(request, &envelope.descriptors), loop)
      try update(vring)
    case .setVringCall(let queue, let hasDescriptor):
      try vring(request, queue).call =
        hasDescriptor ? EventLine(eventFD(request, &envelope.descriptors)) : nil
    case .setVringError(let queue, let hasDescriptor):
      try vring(request, queue).error =
        hasDescriptor ? EventLine(eventFD(request, &envelope.descriptors)) : nil
    case .setVringEnable(let queue, let isEnabled):
      let vring = try vring(request, queue)
      vring.isEnabled = isEnabled
      try update(vring)
    case .getVringBase(let queue): return try stop(vring(request, queue))
    case .getConfig(let offset, let size):
      let bytes = device.config(offset: offset, size: size)
      precondition(bytes.count == Int(size), "the device answers with as many bytes as it was asked for")
      return .config(offset: offset, bytes)
    case .setConfig(let offset, let bytes): device.writeConfig(offset: offset, bytes)
    case .setBackendRequestSocket:
      let socket = try socket(request, &envelope.descriptors)
      do { backendChannel = try BackendChannel(socket, loop: loop) } catch {
        throw .descriptor(request, error)
      }
    case .getSharedObject(let uuid): return try shareObject(uuid)
    case .getSharedMemoryConfig: return .sharedMemory(device.sharedMemory)
    case .setDisplaySocket: device.displaySocket(try socket(request, &envelope.descriptors))
    case .resetDevice:
      for vring in vrings {
        vring.stop()
        vring.isEnabled = false
      }
      device.reset()
    }
    return nil
  }

  private func setFeatures(_ word: UInt64) throws(VhostUserError) {
    let known = Features.offered | device.deviceFeatures | Features.tolerated
    let unknown = word & ~known
    if unknown != 0 { throw .feature(bit: unknown.trailingZeroBitCount) }
    // The log comes and goes while rings run.
    let word = word & ~Features.logAll
    if word != features { try drop(vrings, for: .setFeatures) }
    logger.debug("features", metadata: ["acked": "0x\(String(word, radix: 16))"])
    features = word
    // Its rings do not start.
    if word & Features.version1 == 0 { device.unusable(0, .legacyDriver) }
    device.featuresChanged(word & (Features.offered | device.deviceFeatures) & ~Features.protocolFeatures)
    for vring in vrings { try update(vring) }
  }

  private func setProtocolFeatures(_ chosen: ProtocolFeatures) throws(VhostUserError) {
    let offered = offeredProtocolFeatures
    guard chosen.isSubset(of: offered) else {
      throw .value(
        .setProtocolFeatures, field: "the mask", value: chosen.rawValue,
        wanted: "within \(offered.rawValue), which was offered")
    }
    protocolFeatures = chosen
  }

  private var offeredProtocolFeatures: ProtocolFeatures {
    device.sharedMemory.isEmpty ? .offered : .offered.union(.sharedMemory)
  }

  var hasEventIndex: Bool { features & Features.eventIndex != 0 }

  // MARK: Descriptors

  /// The one descriptor of a message whose count was checked.
  private func eventFD(
    _ request: Request, _ descriptors: inout ReceivedDescriptors
  ) throws(VhostUserError) -> EventFD {
    guard let fd = descriptors.take(0) else { preconditionFailure("the count was checked") }
    do { return try EventFD(adopting: fd) } catch { throw .descriptor(request, error) }
  }

  private func socket(
    _ request: Request, _ descriptors: inout ReceivedDescriptors
  ) throws(VhostUserError) -> UnixSocket {
    guard let fd = descriptors.take(0) else { preconditionFailure("the count was checked") }
    let isSocket: Bool
    do { isSocket = try fd.status().isSocket } catch { throw .descriptor(request, error) }
    if !isSocket { throw .notSocket(request) }
    return UnixSocket(adopting: fd)
  }

  // MARK: The other direction

  /// Sends a request to the front end, without waiting for it.
  /// - Returns: false if nothing was sent: the front end gave no socket for that, or did not negotiate the feature.
  /// - Throws: `socket` if the request does not fit, or the front end is gone. The session goes on.
  package func ask(_ request: BackendRequest) throws(VhostUserError) -> Bool {
    guard let backendChannel, protocolFeatures.contains(request.needs) else { return false }
    try backendChannel.send(request)
    return true
  }

  /// Has the front end map `fd` into a shared memory region of the device, without waiting for it. The descriptor
  /// is the front end's to read or write from now on.
  /// - Parameter finished: called once, later, with whether it was done.
  /// - Throws: when nothing was asked: the front end has no such channel, or does not negotiate what is needed for
  ///   it, or is gone.
  package func map(
    _ fd: borrowing FD, _ mapping: SharedMemoryMapping, _ finished: @escaping (Bool) -> Void
  ) throws(VhostUserError) {
    try mappingChannel().send(.map(mapping), passing: fd, finished)
  }

  /// Has the front end take a mapping away, in the same way.
  package func unmap(
    _ mapping: SharedMemoryMapping, _ finished: @escaping (Bool) -> Void
  ) throws(VhostUserError) {
    try mappingChannel().send(.unmap(mapping), finished)
  }

  private func mappingChannel() throws(VhostUserError) -> BackendChannel {
    guard let backendChannel, protocolFeatures.isSuperset(of: [.sharedMemory, .replyAck]) else {
      throw .noSharedMemory
    }
    return backendChannel
  }

  /// Answers `GET_SHARED_OBJECT` with the object's descriptor; an answer without one says that there is none.
  /// - Returns: the answer, if it was not sent with a descriptor.
  private func shareObject(_ uuid: ObjectUUID?) throws(VhostUserError) -> Reply? {
    guard let uuid, let fd = device.sharedObject(uuid) else {
      let name = uuid.map { "\($0)" } ?? "an object that it does not name"
      logger.debug("the front end asked for \(name), which is not shared")
      return .empty
    }
    try stream?.send(.empty, to: .getSharedObject, passing: fd)
    return nil
  }

  // MARK: Memory

  private func memoryChanged(final: Bool) throws(VhostUserError) {
    known.set(table.memory.regions, of: self)
    for vring in vrings { move(vring, isFinal: final) }
    for vring in vrings { try update(vring) }
  }
}
