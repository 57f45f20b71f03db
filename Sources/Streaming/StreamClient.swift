internal import Linux
internal import SystemPackage

/// What became of a client.
package struct StreamClientCounts: Equatable, Sendable, Encodable {
  /// From 1 on, in the order in which they came.
  package let client: Int
  /// Its process; 0 if that is of another pid namespace.
  package let pid: Int32
  /// Pictures that it got, and those between them, or after the last one, that it did not.
  package internal(set) var sent = 0, skipped = 0
  /// Pictures that it had for too long, so that the guest got the buffer back before.
  package internal(set) var overdue = 0
  /// Why it is gone.
  package internal(set) var end = ""
}

/// A pipeline that reads from the socket. What cannot be sent at once is left out; the newest picture follows when there is
/// room.
final class StreamClient {
  /// So many pictures it may have at once.
  static let framesAtOnce = 32
  private static let bytesPerTurn = 64 * UnixFDAnswer.size

  private(set) var counts: StreamClientCounts
  /// Of the scanout's pictures, the last one that it got; before that, the last one that was not for it. Nil if none was
  /// ever shown.
  private var lastSequence: Int?
  private let socket: UnixSocket
  private let loop: EventLoop
  private var token: EventLoop.Token?
  private var isWatchingForRoom = false
  private var input: [UInt8] = []
  /// The end of a message that was begun.
  private var rest: ArraySlice<UInt8> = []
  private var caps: VideoCaps?
  /// This one could not be sent, for a reason that nothing tells the end of.
  private var unsendable: Int?
  private var frames: [UInt64: StreamedFrame] = [:]
  /// It takes pictures again.
  private let whenReady: () -> Void
  private let whenGone: (StreamClient) -> Void

  /// - Parameter last: the last picture that is not for it; nil if none was ever shown.
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

  /// It can be sent a picture.
  var isReady: Bool { isOpen && rest.isEmpty && !isWatchingForRoom && frames.count < Self.framesAtOnce }

  /// It has not got this picture, and can be sent it.
  func wants(_ sequence: Int) -> Bool {
    isReady && sequence != unsendable && lastSequence.map { $0 < sequence } ?? false
  }

  /// A picture is shown. The first one that ever is belongs to those who were there before it.
  func noteShown(_ sequence: Int) { lastSequence = lastSequence ?? sequence - 1 }

  // MARK: Sending

  func send(_ frame: StreamedFrame) {
    guard wants(frame.sequence) else { return }
    if caps != frame.caps {
      guard send(.caps(frame.caps.text)) else { return }
      caps = frame.caps
      // What is left of it comes first.
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

  /// - Returns: false if nothing of it was sent.
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
      // Too many descriptors are on their way to those who do not read: it goes with the next picture, if there is room by then.
      case .tooManyReferences: break
      default: close(Self.reason(error))
      }
      return false
    }
  }

  /// Nothing comes after it. What it has not read by then it can still read.
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
    // Descriptors that come along are of no use, and close here.
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

  /// The guest has got the buffer back that it has still.
  func noteOverdue(_ frame: StreamedFrame) { if frames[frame.id] != nil { counts.overdue += 1 } }

  /// It gets no more: those after the last one that it got are among those that it did not.
  /// - Parameter sequence: the newest.
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
