package import Lending
package import Linux
package import Logging
package import SystemPackage

/// The socket to which QEMU connects a port of the guest, for the guest's agent (docs/port.md).
package final class LendingPort {
  /// The limits on a buffer's metadata, in bytes, and on audiences. More would not fit in `PortConnection.longestOutput`:
  /// metadata as JSON can be nine times as long.
  package static let longestMetadata = 4096
  package static let mostAudiences = 64
  /// The most bytes of an audience's name.
  package static let longestAudienceName = 64

  private let registry: Registry
  private let devices: [any PortDevice]
  private let offers: OfferTable?
  private let limits: PortLimits
  private let meter: PortMeter
  private let loop: EventLoop
  private let admits: (PeerCredentials) -> Bool
  private let logger: Logger
  private var acceptor: Acceptor?
  private var connection: PortConnection?
  private var refusals = RareLine()
  private var silence: Timer?

  /// - Parameters:
  ///   - socket: the listening socket.
  ///   - devices: in the order of their numbers on the port.
  ///   - offers: memory of the host that the guest may have; nil if no device has room for that.
  ///   - clock: for the limit on lines.
  ///   - admits: decides who may connect; by default only root and this process's own user.
  package init(
    _ socket: consuming UnixSocket, registry: Registry, devices: [any PortDevice], offers: OfferTable? = nil,
    limits: PortLimits = PortLimits(), clock: @escaping () -> Instant = { .now }, loop: EventLoop,
    logger: Logger,
    admits: @escaping (PeerCredentials) -> Bool = rootAndOwnUser()
  ) throws(Errno) {
    precondition(
      max(registry.limits.metadata, offers?.limits.metadata ?? 0) <= Self.longestMetadata,
      "an event has room for all metadata")
    let names = registry.audienceNames
    precondition(
      names.count <= Self.mostAudiences && names.allSatisfy { $0.utf8.count <= Self.longestAudienceName },
      "an answer has room for all audiences")
    (self.registry, self.devices, self.offers, self.limits) = (registry, devices, offers, limits)
    (self.loop, self.logger, self.admits) = (loop, logger, admits)
    meter = try PortMeter(limits, clock: clock, loop: loop)
    meter.whenOver = { [unowned self] in connection?.proceed() }
    silence = try Timer(loop) { [unowned self] in endSilence() }
    acceptor = try Acceptor(socket, loop: loop) { [unowned self] connected throws(Errno) in
      try take(connected)
    } whenFailed: { [unowned self] error in
      refuse("a connection to the port could not be accepted; the next try is in a second: \(error)")
    }
  }

  deinit { close() }

  /// Stops listening, and ends the session.
  package func close() {
    acceptor = nil
    connection?.close()
  }

  /// A device has a new epoch, because its rings start anew, or it was reset.
  /// - Parameter device: its number.
  package func deviceWasReset(_ device: Int) {
    precondition(devices.indices.contains(device), "the port knows its devices")
    guard let connection else { return }
    connection.deviceWasReset(device)
    silence?.arm(after: limits.silence)
  }

  /// After hibernation the guest thinks that the port is not connected (Linux's `virtcons_freeze`), and QEMU reports only a
  /// new connection. If the agent still hears of the fresh start, it proves its device again.
  private func endSilence() {
    guard let connection, connection.isSilent else { return }
    logger.info(
      "the guest has sent nothing on its port since its device started anew: the connection is closed, so that QEMU connects again"
    )
    connection.close()
  }

  /// Reads this process's own user now, because the sandbox forbids it later.
  package static func rootAndOwnUser() -> (PeerCredentials) -> Bool {
    let users = [0, effectiveUser()]
    return { users.contains($0.user) }
  }

  package var statistics: PortStatistics { meter.statistics }

  /// In bytes, of what the guest sent and of what waits to be sent to it.
  package var kept: (input: Int, output: Int) { connection?.kept ?? (0, 0) }

  private func take(_ connected: consuming UnixSocket) throws(Errno) {
    let peer = try connected.peer()
    guard admits(peer) else {
      return refuse("process \(peer.pid) of user \(peer.user) is not allowed to use the port")
    }
    if connection != nil {
      return refuse(
        "process \(peer.pid) cannot use the port: it has a connection already, and one is the limit")
    }
    let new = try PortConnection(connected, registry, devices, offers, limits, meter, loop: loop)
    new.whenClosed = { [weak self] in
      self?.connection = nil
      self?.logger.info("the connection of the guest's port has ended")
    }
    connection = new
    logger.info("process \(peer.pid) has connected to the guest's port")
  }

  private func refuse(_ why: String) {
    meter.countRefused()
    if let line = refusals.admit(why) { logger.notice("\(line)") }
  }
}
