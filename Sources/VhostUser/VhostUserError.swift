package import Guest
package import SystemPackage
package import Virtio

/// Why a session ended before its front end closed it. Each error names the message, its fault, and, if there is one, the
/// remedy on QEMU's command line.
package enum VhostUserError: Error, Equatable {
  // The socket.
  case socket(Errno)
  case closed(while: String)
  case repliesNotRead(Request)
  // The form of a message.
  case version(flags: UInt32)
  case replyInsteadOfRequest(code: UInt32)
  case unknownRequest(UInt32)
  case payloadTooLong(Request, size: UInt32, limit: UInt32)
  case payloadSize(Request, size: Int, expected: Int)
  case descriptorsLost(Request)
  case descriptorCount(Request, count: Int, expected: Int)
  // The content of a message.
  case value(Request, field: String, value: UInt64, wanted: String)
  case notNegotiated(Request, feature: String)
  case feature(bit: Int)
  case legacyDriver
  case ringRunning(Request, queue: Int)
  case polling(queue: Int)
  case descriptor(Request, Errno)
  case notSocket(Request)
  // The effects of a message.
  case memory(Request, GuestMemoryError)
  case ringOutsideMemory(queue: Int, RingPart, userAddress: UInt64)
  case queue(Int, VirtQueueError)
  case kickDescriptor(queue: Int)
  case noSharedMemory
}

extension VhostUserError {
  /// Whether the message changed nothing, so that the session can go on if the front end is told of the failure.
  var isRefusal: Bool {
    switch self {
    case .value, .feature, .ringRunning, .polling, .notSocket, .memory: true
    // A ring without its kick descriptor cannot go on.
    case .descriptor(let request, _): request != .setVringKick
    default: false
    }
  }
}

extension VhostUserError: CustomStringConvertible {
  package var description: String {
    switch self {
    case .socket(let errno): "the vhost-user socket failed: \(errno)"
    case .closed(let place): "the front end closed the connection \(place)"
    case .repliesNotRead(let request):
      "the reply to \(request) does not fit into the socket, because the front end does not read"
    case .version(let flags):
      "a message has flags 0x\(String(flags, radix: 16)): the version in them must be 1"
    case .replyInsteadOfRequest(let code): "message \(code) has the reply flag, but nothing was asked"
    case .unknownRequest(let code): "request \(code) is not supported"
    case .payloadTooLong(let request, let size, let limit):
      "\(request) has a payload of \(size) bytes, the limit is \(limit)"
    case .payloadSize(let request, let size, let expected):
      "\(request) has a payload of \(size) bytes instead of \(expected)"
    case .descriptorsLost(let request):
      "\(request) came with more than 8 descriptors, or with more than this process may open (RLIMIT_NOFILE): raise its "
        + "hard limit before it is started (ulimit -Hn, or LimitNOFILE= of a service)"
    case .descriptorCount(let request, let count, let expected):
      "\(request) came with \(count) descriptors instead of \(expected)"
    case .value(let request, let field, let value, let wanted):
      "\(request): \(field) is \(value), not \(wanted)"
    case .notNegotiated(let request, let feature): "\(request) came without the protocol feature \(feature)"
    case .feature(let bit): Self.sentence(Features.name(of: bit))
    case .legacyDriver:
      "SET_FEATURES: the driver did not accept VIRTIO_F_VERSION_1; legacy drivers are not supported: "
        + "set disable-legacy=on on the device"
    case .ringRunning(let request, let queue): "\(request) came while queue \(queue) runs"
    case .polling(let queue):
      "SET_VRING_KICK: queue \(queue) has no kick descriptor; polling a queue is not supported"
    case .descriptor(let request, let errno): "the descriptor of \(request) cannot be used: \(errno)"
    case .notSocket(let request): "the descriptor of \(request) is not a socket"
    case .memory(let request, let error):
      "\(request): \(error) (QEMU needs -object memory-backend-memfd,share=on for the guest's RAM)"
    case .ringOutsideMemory(let queue, let part, let address):
      "the \(part.rawValue) of queue \(queue) at user address 0x\(String(address, radix: 16)) is not in one "
        + "memory region"
    case .queue(let queue, let error): "queue \(queue): \(error)"
    case .noSharedMemory:
      "the front end cannot map host memory into the guest; QEMU can from 11.1 on, with vhost-user-test-device-pci"
    case .kickDescriptor(let queue): "the kick descriptor of queue \(queue) is broken"
    }
  }

  private static func sentence(_ feature: (name: String, remedy: String?)) -> String {
    "SET_FEATURES: \(feature.name) was not offered and is not supported"
      + (feature.remedy.map { ": \($0)" } ?? "")
  }
}
