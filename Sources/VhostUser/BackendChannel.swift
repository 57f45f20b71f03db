internal import Linux
internal import SystemPackage
public import Virtio

/// What a back end may ask of the front end. The C originals are `VHOST_USER_BACKEND_*`.
public enum BackendRequest: Equatable, Sendable {
  /// The configuration space changed.
  case configChanged
  /// This device has an object of that name: who looks it up is sent here, with `GET_SHARED_OBJECT`.
  case addSharedObject(ObjectUUID)
  /// It has it no more.
  case removeSharedObject(ObjectUUID)

  fileprivate var code: UInt32 {
    switch self {
    case .configChanged: 2
    case .addSharedObject: 6
    case .removeSharedObject: 7
    }
  }

  fileprivate var payload: [UInt8] {
    switch self {
    case .configChanged: []
    case .addSharedObject(let uuid), .removeSharedObject(let uuid): uuid.bytes
    }
  }

  /// The protocol feature without which a front end does not know it.
  var needs: ProtocolFeatures {
    switch self {
    case .configChanged: .config
    case .addSharedObject, .removeSharedObject: .sharedObject
    }
  }
}

/// The socket for requests in the other direction (`SET_BACKEND_REQ_FD`). No answers are asked for, so that
/// none is waited for: QEMU acknowledges, but says the reason of a failure nowhere.
public final class BackendChannel {
  private let socket: UnixSocket
  /// A part of a message is in the socket, so that nothing that follows can be understood.
  private var isCut = false

  init(_ socket: consuming UnixSocket) throws(Errno) {
    try socket.fd.setNonblocking()
    self.socket = socket
  }

  /// Sends without waiting.
  /// - Throws: `socket` when it does not fit, or the front end is gone.
  public func send(_ request: BackendRequest) throws(VhostUserError) {
    if isCut { throw .socket(.brokenPipe) }
    let payload = request.payload
    let bytes =
      MessageHeader.encode(code: request.code, isReply: false, payloadSize: payload.count) + payload
    let sent: Int
    do { sent = unsafe try socket.send(bytes.span.bytes) } catch { throw .socket(error) }
    if sent < bytes.count {
      isCut = true
      throw .socket(.wouldBlock)
    }
  }
}
