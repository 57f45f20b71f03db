import ArgumentParser
import Glibc
import Linux
import Metrics
import Programs
import SystemPackage

/// Prints the statistics of a host's helpers for Prometheus.
struct MetricsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "metrics",
    abstract: "Print the statistics of all helpers of this host for Prometheus.",
    discussion: """
      The command asks all helpers at once, and waits one second. udmabridge_up is 0 for a helper that does not answer, and a line on \
      standard error says why. The only right it needs is to use their control sockets.

        udmabridge metrics --output /run/udmabridge-metrics/udmabridge.prom
        udmabridge metrics --listen 127.0.0.1:9817
      """)

  @OptionGroup var helpers: HelperSelection

  @Option(
    help: ArgumentHelp(
      "Write the statistics into this file, which is replaced as a whole. node_exporter's textfile collector reads names that end in .prom.",
      valueName: "file"), completion: .file())
  var output: String?

  @Option(
    help: ArgumentHelp(
      "Serve GET /metrics at this address until SIGINT or SIGTERM: unix:PATH, 127.0.0.1:PORT or [::1]:PORT.",
      valueName: "address"), transform: ScrapeAddress.read)
  var listen: ScrapeAddress?

  func validate() throws {
    if output != nil, listen != nil {
      throw ValidationError("--output writes once, and --listen serves: give one of them")
    }
  }

  func run() throws {
    let loop = try EventLoop()
    // A host may have many domains.
    _ = try? raiseDescriptorLimit()
    if let listen { return try serve(listen, loop) }
    let poll = try HelperPoll(loop)
    var readings: [HelperReading] = []
    var isDone = false
    poll.ask(helpers.places) { (readings, isDone) = ($0, true) }
    while !isDone { try loop.turn() }
    var log = SilenceLog()
    for line in log.add(readings) { printError(line) }
    try write(MetricsText.write(readings))
  }

  private func write(_ text: String) throws {
    guard let output else {
      return try FD.standardOutput { fd throws(Errno) in
        unsafe try fd.write(Array(text.utf8).span.bytes)
      }
    }
    do throws(Errno) { try replaceFile(FilePath(output), text) } catch {
      throw Trouble("\(output) cannot be written: \(FD.whyNotCreated(error))")
    }
  }

  private func serve(_ address: ScrapeAddress, _ loop: EventLoop) throws {
    // The reader of standard error may be gone.
    try ignoreWriteSignals()
    let signals = try SignalFD([SIGTERM, SIGINT])
    let signalled = try loop.add(signals.fd) { _ in loop.stop() }
    defer { loop.remove(signalled, signals.fd) }
    let socket = try address.listen()
    defer { address.remove() }
    let bound = try address.bound(socket)
    var log = SilenceLog()
    let server = try MetricsServer(
      socket, loop: loop, poll: HelperPoll(loop), places: { [helpers] in helpers.places },
      whenAsked: { readings in for line in log.add(readings) { printError(line) } },
      whenFailed: {
        printError("udmabridge: a connection could not be accepted; the next try is in a second: \($0)")
      })
    defer { server.close() }
    try printLine("listening on \(bound)")
    try loop.run()
  }
}
