/// The front end's requests that a session understands. The C originals are `VHOST_USER_*`.
package enum Request: UInt32, Sendable, CaseIterable {
  case getFeatures = 1
  case setFeatures = 2
  case setOwner = 3
  case resetOwner = 4
  case setMemoryTable = 5
  case setLogBase = 6
  case setLogDescriptor = 7
  case setVringSize = 8
  case setVringAddress = 9
  case setVringBase = 10
  case getVringBase = 11
  case setVringKick = 12
  case setVringCall = 13
  case setVringError = 14
  case getProtocolFeatures = 15
  case setProtocolFeatures = 16
  case getQueueCount = 17
  case setVringEnable = 18
  case setBackendRequestSocket = 21
  case getConfig = 24
  case setConfig = 25
  case setDisplaySocket = 33
  case resetDevice = 34
  case getMaxMemorySlots = 36
  case addMemoryRegion = 37
  case removeMemoryRegion = 38
  case getSharedObject = 41
  case getSharedMemoryConfig = 44

  /// Whether it has an answer of its own. `REPLY_ACK` adds an acknowledgement to the other requests.
  var hasReply: Bool {
    switch self {
    case .getFeatures, .getVringBase, .getProtocolFeatures, .getQueueCount, .getConfig, .getMaxMemorySlots,
      .getSharedObject, .getSharedMemoryConfig:
      true
    default: false
    }
  }

  /// The protocol feature that the request needs, and the feature's name.
  var needs: (feature: ProtocolFeatures, name: String)? {
    switch self {
    case .getQueueCount: (.multiqueue, "MQ")
    case .setBackendRequestSocket: (.backendRequests, "BACKEND_REQ")
    case .getConfig, .setConfig: (.config, "CONFIG")
    case .resetDevice: (.resetDevice, "RESET_DEVICE")
    case .getMaxMemorySlots, .addMemoryRegion, .removeMemoryRegion:
      (.configureMemorySlots, "CONFIGURE_MEM_SLOTS")
    case .getSharedObject: (.sharedObject, "SHARED_OBJECT")
    case .getSharedMemoryConfig: (.sharedMemory, "SHMEM_MAP")
    default: nil
    }
  }
}

extension Request: CustomStringConvertible {
  /// The name in the specification.
  package var description: String {
    switch self {
    case .getFeatures: "GET_FEATURES"
    case .setFeatures: "SET_FEATURES"
    case .setOwner: "SET_OWNER"
    case .resetOwner: "RESET_OWNER"
    case .setMemoryTable: "SET_MEM_TABLE"
    case .setLogBase: "SET_LOG_BASE"
    case .setLogDescriptor: "SET_LOG_FD"
    case .setVringSize: "SET_VRING_NUM"
    case .setVringAddress: "SET_VRING_ADDR"
    case .setVringBase: "SET_VRING_BASE"
    case .getVringBase: "GET_VRING_BASE"
    case .setVringKick: "SET_VRING_KICK"
    case .setVringCall: "SET_VRING_CALL"
    case .setVringError: "SET_VRING_ERR"
    case .getProtocolFeatures: "GET_PROTOCOL_FEATURES"
    case .setProtocolFeatures: "SET_PROTOCOL_FEATURES"
    case .getQueueCount: "GET_QUEUE_NUM"
    case .setVringEnable: "SET_VRING_ENABLE"
    case .setBackendRequestSocket: "SET_BACKEND_REQ_FD"
    case .getConfig: "GET_CONFIG"
    case .setConfig: "SET_CONFIG"
    case .setDisplaySocket: "GPU_SET_SOCKET"
    case .resetDevice: "RESET_DEVICE"
    case .getMaxMemorySlots: "GET_MAX_MEM_SLOTS"
    case .addMemoryRegion: "ADD_MEM_REG"
    case .removeMemoryRegion: "REM_MEM_REG"
    case .getSharedObject: "GET_SHARED_OBJECT"
    case .getSharedMemoryConfig: "GET_SHMEM_CONFIG"
    }
  }
}
