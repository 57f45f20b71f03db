import Buffers
import Lending
import Linux
import Logging
import Port
import Programs
import SystemPackage
import VirtioGPU

/// The parts for a guest's lending: the registry, its timers, and the port of the guest's agent.
final class GuestLending {
  /// The descriptors that it may need: the port's listener and connection, its timers, and a connection that is refused.
  static let descriptors = 8

  let registry: Registry
  private let timer: LendingTimer
  private let path: FilePath
  private let limits: PortLimits
  private var socket: UnixSocket?
  private var port: LendingPort?
  /// Memory of the host for the guest; nil if no device has room for it.
  private(set) var offers: OfferTable?
  private var offerTimer: LendingTimer?

  /// Listens. Everything that the port needs is opened here.
  /// - Parameter path: the path of the port's socket.
  init(_ path: FilePath, _ options: PortOptions, loop: EventLoop) throws {
    self.path = path
    limits = options.limits
    registry = Registry(
      limits: options.lending, audiences: try options.audiences(),
      awaitDevices: { pages, whenOver in pages.dmabuf.flatMap { DeviceWait($0, loop, whenOver: whenOver) } })
    timer = try LendingTimer(registry, loop: loop)
    // libvirt looks for the port's file at about this time. Without the file it does not start the domain.
    socket = try listenOn(path, mode: 0o600, neverMissing: true)
  }

  /// Serves the port from now on.
  /// - Parameters:
  ///   - devices: in the order of their numbers on the port.
  ///   - memory: the starting offers of the device that shares.
  func serve(_ devices: [GPUDevice], _ memory: HostMemory, loop: EventLoop, logger: Logger) throws {
    guard let socket = socket.take() else { preconditionFailure("there is one port") }
    if let number = devices.firstIndex(where: { !$0.sharedMemory.isEmpty }) {
      let table = OfferTable(SharingDevice(devices[number], memory.size), number: number)
      for offer in memory.offers { table.take(offer) }
      offerTimer = try LendingTimer(table, loop: loop)
      offers = table
    }
    let port = try LendingPort(
      socket, registry: registry, devices: devices.map(PortedDevice.init), offers: offers, limits: limits,
      loop: loop, logger: logger)
    for (number, device) in devices.enumerated() {
      device.whenEpochChanged = { [weak port] in port?.deviceWasReset(number) }
    }
    self.port = port
    logger.info("listening for the guest's agent on \(path)")
  }

  var statistics: GuestLendingStatistics {
    GuestLendingStatistics(buffers: registry.statistics, port: port?.statistics ?? PortStatistics())
  }

  /// - Parameter removing: whether the sandbox still allows to remove files; otherwise the next start removes the socket.
  func end(removing: Bool) {
    port?.close()
    if removing { removeFile(path) }
  }
}

/// The statistics of lent buffers.
struct GuestLendingStatistics: Encodable {
  let buffers: LendingStatistics
  let port: PortStatistics
}

/// One JSON object: the devices' statistics, and `lending`, if the guest has a port.
struct WholeStatistics: Encodable {
  let device: Statistics
  let lending: GuestLendingStatistics?

  private enum Keys: String, CodingKey { case lending }

  func encode(to encoder: any Encoder) throws {
    try device.encode(to: encoder)
    var container = encoder.container(keyedBy: Keys.self)
    try container.encodeIfPresent(lending, forKey: .lending)
  }
}

/// A device as the port sees it.
private final class PortedDevice: PortDevice {
  private let device: GPUDevice

  init(_ device: GPUDevice) { self.device = device }

  var epoch: UInt64 { device.epoch }

  func afterQueue(_ body: @escaping () -> Void) { device.afterQueue(body) }

  func lendablePages(of resource: UInt32) throws(PortResourceError) -> Buffer {
    do throws(ResourceObstacle) { return try device.lendablePages(of: resource) } catch {
      switch error {
      case .noSuchResource: throw .noSuchResource
      case .memoryOfHost: throw .memoryOfHost
      case .copied(let cause):
        let advice = optionAgainst(.copied(cause.name)).map { "; \($0)" } ?? ""
        throw .notLent("resource \(resource) could only be copied, \(cause.name): \(cause.message)\(advice)")
      }
    }
  }

  func firstBytes(_ count: Int, of resource: UInt32) -> [UInt8]? { device.firstBytes(count, of: resource) }
}

/// A device as the offers see it.
private final class SharingDevice: OfferDevice {
  private let device: GPUDevice
  let regionSize: UInt64

  init(_ device: GPUDevice, _ regionSize: UInt64) { (self.device, self.regionSize) = (device, regionSize) }

  func add(_ offer: HostOffer) { device.add(offer) }
  func withdraw(_ offer: HostOffer) { device.withdraw(offer) }
  func cutOff(_ offer: HostOffer) { device.cutOff(offer) }
}
