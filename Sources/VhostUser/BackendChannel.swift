internal import Linux
internal import SystemPackage

/// What a back end may ask of the front end. The C originals are `VHOST_USER_BACKEND_*`.
public enum BackendRequest: UInt32, Sendable {
  /// The configuration space changed.
  case configChanged = 2
}

/// The socket for requests in the other direction (`SET_BACKEND_REQ_FD`). No answers are asked for.
public final class BackendChannel {
  private let socket: UnixSocket

  init(_ socket: consuming UnixSocket) throws(Errno) {
    try socket.fd.setNonblocking()
    self.socket = socket
  }

  /// - Throws: `socket` when it does not fit, or the front end is gone.
  public func send(_ request: BackendRequest) throws(VhostUserError) {
    let bytes = MessageHeader.encode(code: request.rawValue, isReply: false, payloadSize: 0)
    let sent: Int
    do { sent = unsafe try socket.send(bytes.span.bytes) } catch { throw .socket(error) }
    if sent < bytes.count { throw .socket(.wouldBlock) }
  }
}
