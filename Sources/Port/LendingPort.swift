package import Lending
package import Linux
package import Logging
package import SystemPackage

/// The socket to which QEMU connects a port of the guest, for the agent that lends (docs/port.md).
package final class LendingPort {
  /// More metadata of a buffer, in bytes, and more audiences would not fit in `PortConnection.longestOutput`: written as JSON,
  /// metadata takes up to nine times as much.
  package static let longestMetadata = 4096
  package static let mostAudiences = 64
  /// Bytes of an audience's name.
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
  ///   - socket: listens.
  ///   - devices: a device's place in it is its number on the port.
  ///   - offers: memory of the host that the guest may have; nil if no device has room for that.
  ///   - clock: what the limit on lines goes by.
  ///   - admits: who may connect: by default root and this process's own user.
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
      refuse("a connection to the port could not be taken, the next try is in a second: \(error)")
    }
  }

  deinit { close() }

  /// Accepts nobody any more, and ends the session.
  package func close() {
    acceptor = nil
    connection?.close()
  }

  /// Its rings start anew, or it was reset: it has another epoch.
  /// - Parameter device: its number.
  package func deviceWasReset(_ device: Int) {
    precondition(devices.indices.contains(device), "the port knows its devices")
    guard let connection else { return }
    connection.deviceWasReset(device)
    silence?.arm(after: limits.silence)
  }

  /// A guest that comes back from its disk holds the port for unconnected (Linux' `virtcons_freeze`), and QEMU says only
  /// of a new connection that there is one. An agent that hears of the fresh start proves its device again.
  private func endSilence() {
    guard let connection, connection.isSilent else { return }
    logger.info(
      "the guest has said nothing on its port since its device started anew: QEMU is to connect again")
    connection.close()
  }

  /// Who this process's own user is, is asked now: in the sandbox nobody may ask.
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
      return refuse("process \(peer.pid) cannot use the port: there is a connection, and one is all")
    }
    let new = try PortConnection(connected, registry, devices, offers, limits, meter, loop: loop)
    new.whenClosed = { [weak self] in
      self?.connection = nil
      self?.logger.info("the connection of the guest's port has ended")
    }
    connection = new
    logger.info("process \(peer.pid) has connected the guest's port")
  }

  private func refuse(_ why: String) {
    meter.countRefused()
    if let line = refusals.admit(why) { logger.notice("\(line)") }
  }
}
