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
    abstract: "Serve the guest's programs that lend or receive, for as long as this guest runs.",
    discussion: """
      Port and card may come later, and may go and come again. The agent needs only the right to read and write their files. Give \
      the port's file to the agent's own user alone, because whoever opens it may lend every buffer of this guest.
      """)

  @Option(
    help: ArgumentHelp(
      "The Unix socket for programs (varlink, io.udmabridge.Lender).", valueName: "socket"))
  var socket = usualSocket

  @Option(
    help: ArgumentHelp(
      "The number of the socket's group, whose members may lend. Without it, only this program's user and root may.",
      valueName: "gid"))
  var group: UInt32?

  @Option(
    help: ArgumentHelp(
      "The device file of the port. By default that of the port io.udmabridge.lend.0.",
      valueName: "path"))
  var port: String?

  @Option(
    help: ArgumentHelp(
      "The card's render node. By default all cards of the driver virtio_gpu are used.", valueName: "path"))
  var renderNode: String?

  @Option(
    help: ArgumentHelp(
      "At most this many connections of programs at once. One user may have three eighths of them; root and this program's user may have all.",
      valueName: "count"))
  var maxConnections = 512

  private static let idleTime = TimeSpan.seconds(1)

  func validate() throws {
    if !(1...4096).contains(maxConnections) {
      throw ValidationError("--max-connections \(maxConnections) is not from 1 to 4096")
    }
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
    // When the agent has been idle for a time, it gives unneeded memory back.
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
