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

  /// What every session offers, beside the device's own bits.
  static let offered = indirectDescriptors | eventIndex | protocolFeatures | version1
  /// QEMU sets these without asking what was offered. They ask nothing of a back end: a reset of one queue arrives
  /// as its stop and start, layouts are free since version 1, and "notify on empty" is what the driver gets anyway,
  /// or what the event index replaces. "Log all" comes when QEMU measures how fast the guest writes its memory: what
  /// is not logged is missing there.
  static let tolerated = ringReset | anyLayout | notifyOnEmpty | logAll

  /// What a bit is called (virtio 1.3, 6; `vhost_types.h`), and the QEMU property that clears it.
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

  /// What every session offers; `sharedMemory` in addition for a device that has such regions.
  static let offered: ProtocolFeatures = [
    .multiqueue, .replyAck, .backendRequests, .config, .resetDevice, .configureMemorySlots, .sharedObject,
  ]
}
