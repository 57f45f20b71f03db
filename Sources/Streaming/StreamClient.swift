internal import Linux
internal import SystemPackage

/// A client's counts, and why it is gone.
package struct StreamClientCounts: Equatable, Sendable, Encodable {
  /// The client's number, from 1 on, in the order of arrival.
  package let client: Int
  /// The client's process; 0 if that is in another pid namespace.
  package let pid: Int32
  /// Pictures that the client got, and those between them, or after the last one, that it did not get.
  package internal(set) var sent = 0, skipped = 0
  /// Pictures that the client kept for too long: the guest got the buffer back first.
  package internal(set) var overdue = 0
  /// Why the client is gone.
  package internal(set) var end = ""
}

/// A pipeline that reads from the socket. A picture that cannot be sent at once is left out; the newest one follows when there
/// is room.
final class StreamClient {
  /// The most pictures that a client may have at once.
  static let framesAtOnce = 32
  private static let bytesPerTurn = 64 * UnixFDAnswer.size

  private(set) var counts: StreamClientCounts
  /// The last of the scanout's pictures that the client got; before its first, the last one that was not for it. Nil if none
  /// was ever shown.
  private var lastSequence: Int?
  private let socket: UnixSocket
  private let loop: EventLoop
  private var token: EventLoop.Token?
  private var isWatchingForRoom = false
  private var input: [UInt8] = []
  /// The end of a message of which a part was sent.
  private var rest: ArraySlice<UInt8> = []
  private var caps: VideoCaps?
  /// The picture that could not be sent, for a reason whose end no event tells.
  private var unsendable: Int?
  private var frames: [UInt64: StreamedFrame] = [:]
  /// Called when the client takes pictures again.
  private let whenReady: () -> Void
  private let whenGone: (StreamClient) -> Void

  /// - Parameter last: the last picture that is not for this client; nil if none was ever shown.
  init(
    _ socket: consuming UnixSocket, number: Int, after last: Int?, loop: EventLoop,
    whenReady: @escaping () -> Void, whenGone: @escaping (StreamClient) -> Void
  ) throws(Errno) {
    lastSequence = last
    counts = StreamClientCounts(client: number, pid: try socket.peer().pid)
    self.socket = socket
    (self.loop, self.whenReady, self.whenGone) = (loop, whenReady, whenGone)
    token = try loop.add(self.socket.fd) { [unowned self] in ready($0) }
  }

  deinit { if let token { loop.remove(token, socket.fd) } }

  var isOpen: Bool { token != nil }

  /// The client can be sent a picture.
  var isReady: Bool { isOpen && rest.isEmpty && !isWatchingForRoom && frames.count < Self.framesAtOnce }

  /// The client has not got this picture, and can be sent it.
  func wants(_ sequence: Int) -> Bool {
    isReady && sequence != unsendable && lastSequence.map { $0 < sequence } ?? false
  }

  /// Called when a picture is shown. The very first one is for the clients that came before it.
  func noteShown(_ sequence: Int) { lastSequence = lastSequence ?? sequence - 1 }

  // MARK: Sending

  func send(_ frame: StreamedFrame) {
    guard wants(frame.sequence) else { return }
    if caps != frame.caps {
      guard send(.caps(frame.caps.text)) else { return }
      caps = frame.caps
      // The rest of the caps comes first.
      guard isReady else { return }
    }
    let missing = lastSequence.map { frame.sequence - $0 - 1 } ?? 0
    let isSent = frame.part.memory.withDescriptor { fd in
      send(frame.message(isAfterGap: missing > 0), passing: fd.withRaw { [$0] })
    }
    guard isSent else {
      if isReady { unsendable = frame.sequence }
      return
    }
    frame.acquire()
    frames[frame.id] = frame
    lastSequence = frame.sequence
    counts.sent += 1
    counts.skipped += missing
  }

  /// - Returns: false if no byte was sent.
  private func send(_ message: UnixFDMessage, passing rawDescriptors: [CInt] = []) -> Bool {
    let bytes = message.bytes
    do throws(Errno) {
      let count = unsafe try socket.send(bytes.span.bytes, rawDescriptors: rawDescriptors)
      rest = bytes[count...]
      if !rest.isEmpty { watch(forRoom: true) }
      return true
    } catch {
      switch error {
      case .wouldBlock: watch(forRoom: true)
      // Too many descriptors are on their way to processes that do not read. The client gets the next picture if there is room then.
      case .tooManyReferences: break
      default: close(Self.reason(error))
      }
      return false
    }
  }

  /// Sends the end, and closes the connection. The client can still read what was sent.
  /// - Returns: false while there is no room.
  func sendEnd() -> Bool {
    guard isOpen else { return true }
    guard rest.isEmpty, send(.end) else { return !isOpen }
    guard rest.isEmpty else { return false }
    close("it was told of the end")
    return true
  }

  private func watch(forRoom: Bool) {
    guard let token, forRoom != isWatchingForRoom else { return }
    isWatchingForRoom = forRoom
    do throws(Errno) {
      try loop.modify(token, socket.fd, forRoom ? [.readable, .writable] : .readable)
    } catch { close(Self.reason(error)) }
  }

  // MARK: Receiving

  private func ready(_ readiness: Readiness) {
    if readiness.contains(.writable), isWatchingForRoom { flush() }
    if isOpen, readiness.contains(.readable) || readiness.contains(.hangup) { receive() }
    if isOpen, rest.isEmpty { whenReady() }
  }

  private func flush() {
    do throws(Errno) {
      while !rest.isEmpty { rest = rest.dropFirst(unsafe try socket.send(rest.span.bytes)) }
      watch(forRoom: false)
    } catch { if error != .wouldBlock { close(Self.reason(error)) } }
  }

  private func receive() {
    // Descriptors from a client are of no use, and close here.
    var descriptors = ReceivedDescriptors()
    do throws(Errno) {
      let count = try socket.receive(into: &input, upTo: Self.bytesPerTurn, descriptors: &descriptors)
      if count == 0 { return close("it closed the connection") }
    } catch {
      if error != .wouldBlock { close(Self.reason(error)) }
      return
    }
    var left = input[...]
    do throws(UnixFDError) {
      while let answer = try UnixFDAnswer.next(in: &left) {
        switch answer {
        case .release(let id):
          guard let frame = frames.removeValue(forKey: id) else { throw .notHeld(id) }
          frame.release()
        }
        unsendable = nil
      }
    } catch { return close("\(error)") }
    input = Array(left)
  }

  private static func reason(_ error: Errno) -> String {
    [.brokenPipe, .connectionReset].contains(error)
      ? "it closed the connection" : "the connection broke: \(error)"
  }

  // MARK: Letting go

  /// Called when the guest has got the frame's buffer back. Counts that if the client still has the frame.
  func noteOverdue(_ frame: StreamedFrame) { if frames[frame.id] != nil { counts.overdue += 1 } }

  /// The client gets no more pictures: those after its last one count as skipped.
  /// - Parameter sequence: the newest picture.
  func noteLast(_ sequence: Int) {
    guard let last = lastSequence, last < sequence else { return }
    counts.skipped += sequence - last
    lastSequence = sequence
  }

  func close(_ reason: String) {
    guard let token = token.take() else { return }
    loop.remove(token, socket.fd)
    counts.end = reason
    (rest, input) = ([], [])
    let frames = self.frames
    self.frames = [:]
    for frame in frames.values { frame.release() }
    whenGone(self)
  }
}
