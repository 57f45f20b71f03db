internal import Linux
internal import SystemPackage

/// A whole message.
struct Envelope: ~Copyable {
  let request: Request
  let needsReply: Bool
  let message: Message
  var descriptors: ReceivedDescriptors
}

/// The result of one look at the socket.
enum Arrival: ~Copyable {
  case message(Envelope)
  /// A part of a message, or nothing. The rest comes with a later look.
  case partial
  /// The end of the stream, between two messages.
  case end
}

/// Cuts the socket's stream into messages, and sends the answers, without ever waiting.
final class MessageStream {
  let socket: UnixSocket
  private var header: MessageHeader?
  /// The bytes so far, of the header, then of the payload. It never has bytes of the next message, so all received
  /// descriptors belong to this one.
  private var bytes: [UInt8] = []
  private var descriptors = ReceivedDescriptors()

  init(_ socket: consuming UnixSocket) throws(Errno) {
    try socket.fd.setNonblocking()
    self.socket = socket
  }

  func next() throws(VhostUserError) -> Arrival {
    if header == nil {
      guard try fill(to: MessageHeader.size) else { return .partial }
      if bytes.isEmpty { return .end }
      header = try MessageHeader(bytes)
      bytes.removeAll(keepingCapacity: true)
    }
    guard let complete = header, try fill(to: complete.payloadSize) else { return .partial }
    header = nil
    var arrived = ReceivedDescriptors()
    swap(&arrived, &descriptors)
    if arrived.overflowed { throw .descriptorsLost(complete.request) }
    let message = try Message(complete.request, bytes, descriptorCount: arrived.count)
    bytes.removeAll(keepingCapacity: true)
    return .message(
      Envelope(
        request: complete.request, needsReply: complete.needsReply, message: message, descriptors: arrived))
  }

  /// Reads until `bytes` has `size`.
  /// - Returns: false if they have not come yet; true with `bytes` empty at the end of the stream.
  private func fill(to size: Int) throws(VhostUserError) -> Bool {
    while bytes.count < size {
      let count: Int
      do {
        count = try socket.receive(into: &bytes, upTo: size - bytes.count, descriptors: &descriptors)
      } catch .wouldBlock {
        return false
      } catch {
        throw .socket(error)
      }
      if count > 0 { continue }
      if header == nil && bytes.isEmpty { return true }
      throw .closed(while: "in the middle of \(header.map { $0.request.description } ?? "a header")")
    }
    return true
  }

  /// Sends a whole answer. If it does not fit, the session ends, because this side never waits.
  func send(_ reply: Reply, to request: Request) throws(VhostUserError) {
    try send(reply, to: request, rawDescriptors: [])
  }

  /// Sends an answer with a descriptor; the front end gets a copy of it.
  func send(_ reply: Reply, to request: Request, passing passed: borrowing FD) throws(VhostUserError) {
    let number = passed.withRaw { $0 }
    try send(reply, to: request, rawDescriptors: [number])
  }

  private func send(_ reply: Reply, to request: Request, rawDescriptors: [CInt]) throws(VhostUserError) {
    let bytes = reply.encode(to: request)
    let sent: Int
    do {
      sent = unsafe try socket.send(bytes.span.bytes, rawDescriptors: rawDescriptors)
    } catch .wouldBlock {
      throw .repliesNotRead(request)
    } catch {
      throw .socket(error)
    }
    if sent < bytes.count { throw .repliesNotRead(request) }
  }
}
