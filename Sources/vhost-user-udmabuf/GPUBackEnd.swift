import Guest
import Linux
import Logging
import VhostUser
import VirtioGPU

/// The vhost-user side of the virtio-gpu device.
final class GPUBackEnd: VhostUserDevice {
  private let device: GPUDevice
  private let loop: EventLoop
  private let logger: Logger
  private var display: UnixSocket?
  private var displayToken: EventLoop.Token?
  private var discarded: [UInt8] = []

  init(_ device: GPUDevice, loop: EventLoop, logger: Logger) {
    (self.device, self.loop, self.logger) = (device, loop, logger)
  }

  var queueCount: Int { 2 }
  var deviceFeatures: UInt64 { GPUDevice.features }

  func featuresChanged(_ acked: UInt64) {}

  func config(offset: UInt32, size: UInt32) -> [UInt8] { device.config(offset: offset, size: size) }

  /// events_clear is all that a driver may write, and no event is ever pending.
  func writeConfig(offset: UInt32, _ bytes: [UInt8]) {}

  /// What is lent stays valid; later lists are resolved against the table that the queue holds.
  func memoryChanged(_ memory: GuestMemory) {}

  func started(_ vring: Vring, index: Int, fresh: Bool) {
    device.start(GPUQueue(queue: vring.queue) { vring.notify() }, index: index, fresh: fresh)
  }

  func kicked(_ index: Int) { device.kicked(index) }

  func stopping(_ index: Int, _ finished: @escaping () -> Void) { device.stop(index, finished) }

  func reset() { device.reset() }

  // MARK: QEMU's display

  /// QEMU sends a new socket at every start, stop and reset. The frames go to a card of our own, so that
  /// nothing is sent there, and what comes is thrown away.
  func displaySocket(_ socket: consuming UnixSocket) {
    closeDisplay()
    displayToken = try? loop.add(socket.fd) { [unowned self] _ in drainDisplay() }
    display = consume socket
  }

  private func drainDisplay() {
    var descriptors = ReceivedDescriptors()
    discarded.removeAll(keepingCapacity: true)
    guard let count = try? display?.receive(into: &discarded, upTo: 4096, descriptors: &descriptors),
      count > 0
    else { return closeDisplay() }
  }

  private func closeDisplay() {
    guard let display = display.take() else { return }
    if let token = displayToken.take() { loop.remove(token, display.fd) }
  }
}
