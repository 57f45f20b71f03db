import ArgumentParser
import Glibc
import GuestAgent
import Linux
import Programs
import SystemPackage

/// The socket on which the agent serves programs of the guest.
let usualSocket = "/run/udmabridge-guest/lender"

struct Serve: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Serve programs that lend, for as long as this guest runs.",
    discussion: """
      Port and card may come later, and go and come again. Nothing is needed but to read and write their files: the port's \
      belongs to this program's own user alone, since whoever opens it may lend every buffer of this guest.
      """)

  @Option(
    help: ArgumentHelp(
      "Where programs that lend connect (varlink, io.udmabridge.Lender).", valueName: "socket"))
  var socket = usualSocket

  @Option(
    help: ArgumentHelp(
      "The number of the group that this socket belongs to; its members may lend. Without one, only this program's user and root may.",
      valueName: "gid"))
  var group: UInt32?

  @Option(
    help: ArgumentHelp(
      "The port's device file. By default the port that the host calls io.udmabridge.lend.0.",
      valueName: "path"))
  var port: String?

  @Option(
    help: ArgumentHelp(
      "The card's render node. By default all of the driver virtio_gpu.", valueName: "path"))
  var renderNode: String?

  @Option(
    help: ArgumentHelp(
      "Connections of lenders at once; three eighths of them for any one user but root and this program's.",
      valueName: "count"))
  var maxConnections = 512

  private static let idleTime = TimeSpan.seconds(1)

  func validate() throws {
    if !(1...4096).contains(maxConnections) { throw ValidationError("--max-connections is from 1 to 4096") }
  }

  func run() throws {
    try ignoreWriteSignals()
    _ = try? raiseDescriptorLimit()
    let loop = try EventLoop()
    let signals = try SignalFD([SIGTERM, SIGINT])
    let path = FilePath(socket)
    let directory = path.removingLastComponent()
    if !directory.isEmpty { try makeDirectory(directory, mode: 0o755) }
    let listening = try listenOn(path, mode: group == nil ? 0o600 : 0o660, group: group)
    defer { removeFile(path) }
    var settings = AgentDaemon.Settings()
    (settings.port, settings.node) = (port.map { FilePath($0) }, renderNode.map { FilePath($0) })
    (settings.connectionLimit, settings.version) = (maxConnections, programVersion)
    let daemon = try AgentDaemon(settings, listening, loop: loop) { printError("udmabridge-guest: \($0)") }
    var isEnding = false
    let token = try loop.add(signals.fd) { _ in isEnding = true }
    // After a time in which nothing happened, this takes the place of no memory that it need not have.
    var isIdle = false
    let idle = try Timer(loop) {
      isIdle = true
      forgetUsedCode()
    }
    while !isEnding {
      if !isIdle, !idle.armed { idle.arm(after: Self.idleTime) }
      isIdle = false
      try loop.turn()
    }
    loop.remove(token, signals.fd)
    withExtendedLifetime(daemon) {}
  }
}
