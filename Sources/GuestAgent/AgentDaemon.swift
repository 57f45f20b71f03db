package import Linux
package import SystemPackage
internal import Varlink

/// The agent: lends the buffers of this guest's programs, by the port and the cards that there are.
package final class AgentDaemon {
  /// How an agent is set up.
  package struct Settings {
    /// Nil: the port that the host calls `io.udmabridge.lend.0`.
    package var port: FilePath?
    /// Nil: all of the driver `virtio_gpu`.
    package var node: FilePath?
    /// Of lenders at once.
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

  /// - Parameter socket: listens for lenders. Who may connect is its file's matter.
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
    // A guest that hibernates comes back beside another helper, and its kernel says nothing of that.
    clock = try ClockWatch(loop) { [unowned self] in self.core.session.askWhetherItIsThere() }
    devices.look()
  }
}
