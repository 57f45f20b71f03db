/// The feature bits that one word negotiates for the device, its transport and the session.
enum Features {
  static let notifyOnEmpty: UInt64 = 1 << 24
  static let logAll: UInt64 = 1 << 26
  static let anyLayout: UInt64 = 1 << 27
  static let indirectDescriptors: UInt64 = 1 << 28
  static let eventIndex: UInt64 = 1 << 29
  /// `VHOST_USER_F_PROTOCOL_FEATURES`
  static let protocolFeatures: UInt64 = 1 << 30
  static let version1: UInt64 = 1 << 32
  static let ringReset: UInt64 = 1 << 40

  /// The bits that every session offers, besides the device's own.
  static let offered = indirectDescriptors | eventIndex | protocolFeatures | version1
  /// QEMU sets these bits even if they were not offered. A back end need do nothing for them: a reset of one queue arrives
  /// as its stop and start, layouts are free since version 1, and the driver gets "notify on empty" anyway, or the event
  /// index replaces it. "Log all" comes when QEMU measures how fast the guest writes its memory; our writes are then
  /// missing in the measurement.
  static let tolerated = ringReset | anyLayout | notifyOnEmpty | logAll

  /// A bit's name (virtio 1.3, 6; `vhost_types.h`), and the QEMU property that clears the bit.
  static func name(of bit: Int) -> (name: String, remedy: String?) {
    switch bit {
    case 33: ("VIRTIO_F_ACCESS_PLATFORM", "set iommu_platform=off on the device")
    case 34: ("VIRTIO_F_RING_PACKED", "set packed=off on the device")
    case 35: ("VIRTIO_F_IN_ORDER", "set in_order=off on the device")
    case 36: ("VIRTIO_F_ORDER_PLATFORM", nil)
    case 37: ("VIRTIO_F_SR_IOV", nil)
    case 38: ("VIRTIO_F_NOTIFICATION_DATA", nil)
    case 39: ("VIRTIO_F_NOTIF_CONFIG_DATA", nil)
    case 41: ("VIRTIO_F_ADMIN_VQ", nil)
    default: ("virtio feature \(bit)", nil)
    }
  }
}

/// `VHOST_USER_PROTOCOL_F_*`
struct ProtocolFeatures: OptionSet, Equatable, Sendable {
  let rawValue: UInt64
  static let multiqueue = ProtocolFeatures(rawValue: 1 << 0)
  static let replyAck = ProtocolFeatures(rawValue: 1 << 3)
  static let backendRequests = ProtocolFeatures(rawValue: 1 << 5)
  static let config = ProtocolFeatures(rawValue: 1 << 9)
  static let resetDevice = ProtocolFeatures(rawValue: 1 << 13)
  static let configureMemorySlots = ProtocolFeatures(rawValue: 1 << 15)
  static let sharedObject = ProtocolFeatures(rawValue: 1 << 18)
  /// `VHOST_USER_PROTOCOL_F_SHMEM_MAP`, of QEMU 11.1 and later.
  static let sharedMemory = ProtocolFeatures(rawValue: 1 << 22)

  /// The features that every session offers. A device with shared memory regions adds `sharedMemory`.
  static let offered: ProtocolFeatures = [
    .multiqueue, .replyAck, .backendRequests, .config, .resetDevice, .configureMemorySlots, .sharedObject,
  ]
}
