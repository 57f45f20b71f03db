package import Linux
package import Virtio

/// A virtio device that a vhost-user session serves. All calls come from the session's loop, one at a time.
package protocol VhostUserDevice: AnyObject {
  /// The number of virtqueues, which does not change.
  var queueCount: Int { get }
  /// The virtio feature bits that the device offers, beyond those of the transport.
  var deviceFeatures: UInt64 { get }
  /// The device's shared memory regions (virtio 1.3, 2.10): their sizes in bytes, whole pages, by their ids. They
  /// do not change.
  var sharedMemory: [UInt8: UInt64] { get }
  /// The driver's choice, before any ring starts. It has no bits that were not offered.
  func featuresChanged(_ acked: UInt64)
  /// Exactly `size` bytes of the configuration space from `offset` on, zero beyond its end.
  func config(offset: UInt32, size: UInt32) -> [UInt8]
  func writeConfig(offset: UInt32, _ bytes: [UInt8])
  /// A ring runs from now on, with a new queue. `kicked` follows, because the ring may have chains already.
  /// - Parameter fresh: whether a new driver set it up at index 0. Otherwise it resumes where it stopped.
  func started(_ vring: Vring, index: Int, fresh: Bool)
  /// A ring cannot run because of the driver's setup: its place, its size, or no virtio 1. A front end passes the setup on
  /// unchecked, so this is the guest's mistake, not the front end's. Nothing is taken from the ring until the driver sets
  /// it up anew.
  func unusable(_ index: Int, _ error: VhostUserError)
  /// There may be new chains. Also called without any.
  func kicked(_ index: Int)
  /// The ring is to stop. The device takes nothing more from it, completes every taken chain, and then calls `finished`,
  /// perhaps at once. The front end waits for that, and no other message is read.
  func stopping(_ index: Int, _ finished: @escaping () -> Void)
  /// The ring has ended without a stop, because the front end sets it up anew. Taken chains must not be completed: a new
  /// driver may have their memory.
  func dropped(_ index: Int)
  /// The front end's new display socket (`GPU_SET_SOCKET`), in place of an earlier one.
  func displaySocket(_ socket: consuming UnixSocket)
  /// A descriptor of the dma-buf that this device shares under a name (`GET_SHARED_OBJECT`), for the front end; nil if
  /// there is none of that name.
  func sharedObject(_ uuid: ObjectUUID) -> FD?
  /// The whole device starts anew (`RESET_DEVICE`). The rings have stopped, and taken chains must not be completed.
  func reset()
}

extension VhostUserDevice {
  /// Most devices have none.
  package var sharedMemory: [UInt8: UInt64] { [:] }

  /// Most devices share nothing.
  package func sharedObject(_ uuid: ObjectUUID) -> FD? { nil }
}
