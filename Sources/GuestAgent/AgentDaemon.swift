package import Linux
package import SystemPackage
internal import Varlink

/// The agent: lends the buffers of this guest's programs, through the port and the cards.
package final class AgentDaemon {
  /// The settings of an agent.
  package struct Settings {
    /// Nil means the port `io.udmabridge.lend.0`.
    package var port: FilePath?
    /// Nil means all cards of the driver `virtio_gpu`.
    package var node: FilePath?
    /// The most connections of programs at once.
    package var connectionLimit = 512
    package var version = ""

    package init() {}
  }

  private let loop: EventLoop
  private let log: (String) -> Void
  private let core: AgentCore
  private let devices: AgentDevices
  private let server: VarlinkServer
  private var clock: ClockWatch?

  /// - Parameter socket: the listening socket for programs. Its file's mode decides who may connect.
  package init(
    _ settings: Settings, _ socket: consuming UnixSocket, loop: EventLoop, log: @escaping (String) -> Void
  ) throws(Errno) {
    (self.loop, self.log) = (loop, log)
    let core = try AgentCore(loop: loop, log: log)
    devices = try AgentDevices(port: settings.port, node: settings.node, loop: loop, log: log)
    server = try VarlinkServer(
      socket,
      info: VarlinkInfo(
        vendor: "udmabridge", product: "udmabridge-guest", version: settings.version, url: ""),
      interfaces: [core.interface], limit: settings.connectionLimit, takesDescriptors: true, loop: loop
    ) { _ in true }
    self.core = core
    server.whenRefused = log
    devices.whenPort = { [unowned self] fd in
      do throws(Errno) { try self.core.open(fd) } catch {
        log("the port cannot be watched: \(error)")
      }
    }
    devices.whenCard = { core.add($0) }
    devices.whenCardGone = { core.remove($0) }
    core.whenPortGone = { [unowned self] in devices.losePort() }
    // A guest that wakes from hibernation has another helper, and its kernel does not report that.
    clock = try ClockWatch(loop) { [unowned self] in self.core.session.askWhetherItIsThere() }
    devices.look()
  }
}
