package import Linux
internal import SystemPackage

/// A caller's connection. It takes one call after the other, and never waits for the caller.
///
/// A call is read only after the answer to the last one was sent. A caller that does not read can therefore make this
/// process keep only one answer and one call. While several replies are wanted (`more`), nothing else is read.
package final class VarlinkConnection {
  /// The longest message in bytes; a longer one ends the connection.
  package static let longestMessage = 64 << 10
  private static let bytesPerTurn = 4 << 10

  package let peer: PeerCredentials
  /// Set with `whenGone`.
  private var ends: [ObjectIdentifier: () -> Void] = [:]
  /// Runs once, when the connection is over.
  var whenClosed: (() -> Void)?
  /// Runs when the reply of a stream that could not be sent at once is on its way. Set with `beginStream`.
  private var whenSent: (() -> Void)?
  /// Takes over the socket. Set with `upgrade`.
  private var adopt: ((consuming UnixSocket) -> Void)?

  private let socket: UnixSocket
  private let loop: EventLoop
  private let handle: (VarlinkCall, VarlinkConnection) throws(VarlinkError) -> Void
  private var token: EventLoop.Token?
  private var watched: Readiness = .readable
  private var input: [UInt8] = []
  private var isProceeding = false
  /// Whether the peer has ended its stream.
  private var inputEnded = false
  /// The message that is being sent, the number of bytes sent, and the descriptors for its first byte.
  private var writer = JSONWriter()
  private var sent = 0
  private var passed = Passed()

  /// Descriptors that go with the first byte of a message.
  private struct Passed: ~Copyable {
    var first, second: FD?

    /// As long as this exists.
    var numbers: [CInt] {
      var numbers: [CInt] = []
      if let number = first?.withRaw({ $0 }) { numbers.append(number) }
      if let number = second?.withRaw({ $0 }) { numbers.append(number) }
      return numbers
    }
  }

  /// The descriptors of the call, if the server takes descriptors.
  private var received = ReceivedDescriptors()
  private let takesDescriptors: Bool

  private enum State {
    case idle
    /// A handler has the call, and has not answered yet.
    case called(isOneway: Bool)
    /// The handler will answer later.
    case pending(isOneway: Bool)
    case streaming
    /// The answer goes out, and then the socket goes to its new owner.
    case upgrading
    case upgraded
    case closed
  }
  private var state = State.idle

  init(
    _ socket: consuming UnixSocket, _ peer: PeerCredentials, takesDescriptors: Bool, loop: EventLoop,
    handle: @escaping (VarlinkCall, VarlinkConnection) throws(VarlinkError) -> Void
  ) throws(Errno) {
    self.socket = socket
    (self.peer, self.takesDescriptors, self.loop, self.handle) = (peer, takesDescriptors, loop, handle)
    token = try loop.add(self.socket.fd) { [unowned self] in ready($0) }
  }

  deinit { close() }

  package var isOpen: Bool { token != nil }

  /// Whether nothing waits to be sent.
  package var isReadyToSend: Bool { sent == writer.bytes.count }

  /// Ends the connection, even if bytes wait to be sent. An upgraded one only stops to count among the server's.
  package func close() {
    if case .closed = state { return }
    stopListening()
    state = .closed
    input = []
    writer = JSONWriter()
    sent = 0
    passed = Passed()
    received = ReceivedDescriptors()
    whenSent = nil
    adopt = nil
    let ends = self.ends
    self.ends = [:]
    for end in ends.values { end() }
    whenClosed.take()?()
  }

  /// Runs once, when the connection is over.
  /// - Parameter owner: the caller of this function. Each has one `body`, the last that it gave.
  package func whenGone(for owner: AnyObject, _ body: @escaping () -> Void) {
    ends[ObjectIdentifier(owner)] = body
  }

  private func stopListening() {
    if let token = token.take() { loop.remove(token, socket.fd) }
  }

  /// Takes a descriptor that came with the call which is being handled; nil if there is none of this index, or no more.
  package func takeDescriptor(_ index: Int) -> FD? { received.take(index) }

  /// The number of descriptors that came with it, at most eight.
  package var descriptorCount: Int { received.count }

  // MARK: Answering

  /// Answers the call that is being handled.
  package func reply(_ parameters: some JSONWritable) {
    guard takeTurn() else { return }
    begin(parameters, continues: false)
    send()
  }

  /// Answers with a descriptor; the caller gets a copy of it. Its index is 0.
  package func reply(_ parameters: some JSONWritable, passing fd: borrowing FD) {
    reply(parameters, passing: [fd.withRaw { $0 }]) { () throws(Errno) in
      Passed(first: try fd.duplicate(), second: nil)
    }
  }

  /// The same with two. Their indices are 0 and 1.
  package func reply(_ parameters: some JSONWritable, passing fd: borrowing FD, _ second: borrowing FD) {
    reply(parameters, passing: [fd.withRaw { $0 }, second.withRaw { $0 }]) { () throws(Errno) in
      Passed(first: try fd.duplicate(), second: try second.duplicate())
    }
  }

  /// - Parameter keep: copies of the descriptors, for when nothing can be sent now.
  private func reply(
    _ parameters: some JSONWritable, passing rawDescriptors: [CInt], _ keep: () throws(Errno) -> Passed
  ) {
    guard takeTurn() else { return }
    begin(parameters, continues: false)
    do throws(Errno) {
      sent = unsafe try socket.send(writer.bytes.span.bytes, rawDescriptors: rawDescriptors)
    } catch {
      guard error == .wouldBlock else { return close() }
      do throws(Errno) { passed = try keep() } catch { return close() }
    }
    send()
  }

  /// Postpones the answer to the present call until `answer`. Nothing else is read until then.
  package func answerLater() {
    guard case .called(let isOneway) = state else { return }
    state = .pending(isOneway: isOneway)
  }

  /// Answers a postponed call, if its caller is still there.
  package func answer(_ result: Result<some JSONWritable, VarlinkError>) {
    guard case .pending(let isOneway) = state else { return }
    state = .called(isOneway: isOneway)
    switch result {
    case .success(let parameters): reply(parameters)
    case .failure(let error): fail(error)
    }
    proceed()
  }

  /// Begins any number of replies to the present call. `whenSent` runs each time a reply that had to wait was sent, so that
  /// another may follow.
  package func beginStream(_ whenSent: @escaping () -> Void) {
    guard case .called(isOneway: false) = state else { return }
    state = .streaming
    self.whenSent = whenSent
  }

  /// One reply of several. It must not be called before `isReadyToSend`.
  package func stream(_ parameters: some JSONWritable) {
    guard case .streaming = state else { return }
    begin(parameters, continues: true)
    send()
  }

  /// The last reply of several.
  package func endStream(_ parameters: some JSONWritable) {
    guard case .streaming = state else { return }
    whenSent = nil
    state = .idle
    begin(parameters, continues: false)
    send()
    proceed()
  }

  /// Answers the call that is being handled, which asked for another protocol (`upgrade`), and gives the socket away.
  /// The connection counts among the server's until `close`, which `adopt`'s side calls at the end of it; what `whenGone`
  /// was given runs then, or when the server ends.
  /// - Parameter adopt: not called if the caller does not take the answer, or has sent more than this call.
  package func upgrade(
    _ parameters: some JSONWritable, _ adopt: @escaping (consuming UnixSocket) -> Void
  ) {
    guard takeTurn() else { return }
    state = .upgrading
    self.adopt = adopt
    begin(parameters, continues: false)
    send()
  }

  private func finishUpgrade() {
    guard let adopt = adopt.take() else { return }
    guard input.isEmpty, !inputEnded, isReadyToSend else { return close() }
    stopListening()
    state = .upgraded
    do throws(Errno) { adopt(UnixSocket(adopting: try socket.fd.duplicate())) } catch { close() }
  }

  /// - Returns: whether an answer is wanted.
  private func takeTurn() -> Bool {
    guard case .called(let isOneway) = state else {
      guard case .closed = state else { preconditionFailure("a call is answered once") }
      return false
    }
    state = .idle
    return !isOneway
  }

  private func begin(_ parameters: some JSONWritable, continues: Bool) {
    precondition(isReadyToSend, "one message is sent at a time")
    writer.removeAll()
    sent = 0
    writer.object { json in
      json.field("parameters", parameters)
      if continues { json.field("continues", true) }
    }
    writer.endMessage()
  }

  private func fail(_ error: VarlinkError) {
    guard takeTurn() else { return }
    writer.removeAll()
    sent = 0
    writer.object { json in
      json.field("error", error.name)
      json.field("parameters") { json in
        json.object { json in if error.field.utf8CodeUnitCount > 0 { json.field(error.field, error.value) } }
      }
    }
    writer.endMessage()
    send()
  }

  private func send() {
    guard isOpen else { return }
    do throws(Errno) {
      while sent < writer.bytes.count {
        let passed = self.passed.numbers
        sent += try unsafe socket.send(
          writer.bytes.span.bytes.extracting(droppingFirst: sent), rawDescriptors: passed)
        if !passed.isEmpty { self.passed = Passed() }
      }
    } catch {
      // The caller reads nothing more, so its unread calls are useless.
      if error != .wouldBlock { return close() }
    }
    watch()
  }

  // MARK: Receiving

  private func ready(_ readiness: Readiness) {
    if readiness.contains(.writable) || readiness.contains(.hangup), !isReadyToSend {
      send()
      if isOpen, isReadyToSend { whenSent?() }
    }
    if isOpen, watched.contains(.readable), readiness.contains(.readable) || readiness.contains(.hangup) {
      receive()
    }
    // Both directions are closed, and all earlier bytes were read.
    if isOpen, readiness.contains(.hangup), !watched.contains(.readable) { return close() }
    proceed()
  }

  private func receive() {
    var descriptors = ReceivedDescriptors()
    do throws(Errno) {
      let count = try socket.receive(into: &input, upTo: Self.bytesPerTurn, descriptors: &descriptors)
      // Unwanted descriptors of a caller are closed here.
      if takesDescriptors { received.append(contentsOf: descriptors) }
      if count == 0 { inputEnded = true }
    } catch {
      if error != .wouldBlock { close() }
    }
  }

  /// Handles the received calls, one after the other, as long as answers go out.
  private func proceed() {
    // A handler may end its stream at once, which leads here again.
    if isProceeding { return }
    isProceeding = true
    defer { isProceeding = false }
    var start = 0
    while isOpen, isIdle, isReadyToSend, let end = input[start...].firstIndex(of: 0) {
      let message = input[start..<end]
      start = end + 1
      guard message.count <= Self.longestMessage, let call = VarlinkCall(message) else { return close() }
      take(call)
    }
    guard isOpen else { return }
    input.removeFirst(start)
    if case .upgrading = state { return finishUpgrade() }
    if input.count > Self.longestMessage, !input.contains(0) { return close() }
    if inputEnded, isIdle, isReadyToSend { return close() }
    watch()
  }

  private func take(_ call: VarlinkCall) {
    state = .called(isOneway: call.isOneway)
    do throws(VarlinkError) { try handle(call, self) } catch { fail(error) }
    received = ReceivedDescriptors()
    if case .called(let isOneway) = state {
      precondition(isOneway, "every call is answered")
      state = .idle
    }
  }

  private var isIdle: Bool { if case .idle = state { true } else { false } }

  private func watch() {
    guard let token else { return }
    var wanted: Readiness = []
    if !isReadyToSend { wanted.insert(.writable) } else if isIdle, !inputEnded { wanted.insert(.readable) }
    if wanted == watched { return }
    watched = wanted
    do throws(Errno) { try loop.modify(token, socket.fd, wanted) } catch { close() }
  }
}
