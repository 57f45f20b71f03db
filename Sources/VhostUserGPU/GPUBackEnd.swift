package import Linux
package import Logging
package import VhostUser
package import Virtio
package import VirtioGPU

/// The virtio-gpu device behind a vhost-user session. It translates between the two.
package final class GPUBackEnd: VhostUserDevice, GPUFrontEnd {
  private let device: GPUDevice
  private let loop: EventLoop
  private let logger: Logger
  private var display: QEMUDisplayDrain?
  /// The connection of the session.
  package weak var session: VhostUserSession?
  private var saidThatOutputsAreNotTold = false
  /// Shows the frames on each display socket. Without it QEMU's display shows nothing.
  package var onDisplaySocket: ((consuming UnixSocket) -> Void)?

  /// - Parameter loop: reads what QEMU's display sends.
  package init(_ device: GPUDevice, loop: EventLoop, logger: Logger) {
    (self.device, self.loop, self.logger) = (device, loop, logger)
    device.frontEnd = self
  }

  package var queueCount: Int { 2 }
  package var deviceFeatures: UInt64 { device.features }

  package var sharedMemory: [UInt8: UInt64] { device.sharedMemory }

  package func featuresChanged(_ acked: UInt64) { device.featuresChanged(acked) }

  package func config(offset: UInt32, size: UInt32) -> [UInt8] { device.config(offset: offset, size: size) }

  package func writeConfig(offset: UInt32, _ bytes: [UInt8]) { device.writeConfig(offset: offset, bytes) }

  package func started(_ vring: Vring, index: Int, fresh: Bool) {
    let queue = GPUQueue(queue: vring.queue, mayWork: { vring.mayWork }, notify: { vring.notify() })
    device.start(queue, index: index, fresh: fresh)
  }

  package func unusable(_ index: Int, _ error: VhostUserError) { device.reportUnusable("\(error)") }

  package func kicked(_ index: Int) { device.kicked(index) }

  package func stopping(_ index: Int, _ finished: @escaping () -> Void) { device.stop(index, finished) }

  package func dropped(_ index: Int) { device.drop(index) }

  package func reset() { device.reset() }

  package func sharedObject(_ uuid: ObjectUUID) -> FD? { device.sharedObject(uuid) }

  // MARK: The device's news

  package func tell(_ news: DeviceNews) throws(LostNews) {
    // QEMU tells the guest of its own screens.
    if news == .configChanged, onDisplaySocket != nil { return }
    let request: BackendRequest =
      switch news {
      case .configChanged: .configChanged
      case .objectAdded(let uuid): .addSharedObject(uuid)
      case .objectRemoved(let uuid): .removeSharedObject(uuid)
      }
    let isAsked: Bool
    do throws(VhostUserError) { isAsked = try session?.ask(request) ?? false } catch {
      throw LostNews("\(error)")
    }
    // A front end with a display of its own fills in the events of that display by itself.
    if news == .configChanged, !isAsked || display?.isOpen == true, !saidThatOutputsAreNotTold {
      saidThatOutputsAreNotTold = true
      logger.notice(
        """
        the screens have changed, but this front end cannot tell the guest (QEMU's vhost-user-gpu and \
        vhost-user-vga): the guest sees the change when its driver asks the next time, as at a reboot
        """)
    }
  }

  // MARK: Memory of the host

  package func map(
    _ fd: borrowing FD, at offset: UInt64, length: UInt64, writable: Bool,
    _ finished: @escaping (Bool) -> Void
  ) throws(LostNews) {
    let mapping = SharedMemoryMapping(
      region: HostMemory.region, offset: offset, length: length, isWritable: writable)
    do throws(VhostUserError) {
      guard let session else { throw .noSharedMemory }
      try session.map(fd, mapping, finished)
    } catch { throw LostNews("\(error)") }
  }

  package func unmap(
    at offset: UInt64, length: UInt64, _ finished: @escaping (Bool) -> Void
  ) throws(LostNews) {
    let mapping = SharedMemoryMapping(
      region: HostMemory.region, offset: offset, length: length, isWritable: false)
    do throws(VhostUserError) {
      guard let session else { throw .noSharedMemory }
      try session.unmap(mapping, finished)
    } catch { throw LostNews("\(error)") }
  }

  // MARK: QEMU's display

  /// QEMU sends a new socket at every start, stop and reset. If the frames go elsewhere, nothing is sent to it, and all that
  /// comes is thrown away.
  package func displaySocket(_ socket: consuming UnixSocket) {
    if let onDisplaySocket {
      onDisplaySocket(socket)
    } else {
      display = try? QEMUDisplayDrain(socket, loop: loop)
    }
  }
}
