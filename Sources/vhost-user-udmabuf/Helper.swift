import Buffers
import FoundationEssentials
import Glibc
import KMS
import Linux
import Logging
import Sandbox
import Scanout
import SystemPackage
import Udmabuf
import VhostUser
import VhostUserGPU
import VirtioGPU

/// Why the program cannot start, in one line.
struct StartError: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// A socket that is listened on.
private final class Listener {
  let socket: UnixSocket
  init(_ socket: consuming UnixSocket) { self.socket = socket }
}

/// One VM's helper: joins the modules, and lives as long as QEMU's connection.
final class Helper {
  private let options: Options
  private let logger: Logger
  private let loop: EventLoop
  private let signals: SignalFD
  private let statsFile: FD?
  private let cards: [KMSSink]
  private let device: GPUDevice
  private let adapter: GPUBackEnd
  /// Kept until the first message: who connects without a word is not QEMU.
  private var listener: Listener?
  /// There while a connection is awaited.
  private var listenerToken: EventLoop.Token?
  private var session: VhostUserSession?
  private var sandbox: Sandbox?
  private var failure: (any Error)?

  /// Opens all that is ever opened, so that nothing is missing once the guest runs.
  init(_ options: Options) throws {
    self.options = options
    let level = options.logLevel
    logger = Logger(label: programName) { _ in StandardErrorLog(program: programName, level: level) }
    var quotas = options.quotas
    quotas.descriptors = try Self.descriptorLimit()
    loop = try EventLoop()
    signals = try SignalFD([SIGTERM, SIGINT, SIGUSR1])
    try ignoreWriteSignals()
    try exitOnBusError(
      """
      vhost-user-udmabuf: the connection to QEMU was given up: the guest's memory became shorter, or its file \
      system is full

      """)
    if let path = options.stats {
      do throws(Errno) { statsFile = try FD.create(FilePath(path)) } catch {
        throw StartError("the statistics file \(path) cannot be written: \(error)")
      }
    } else {
      statsFile = nil
    }

    let udmabuf = Result { () throws(Errno) in try UdmabufDevice() }
    let buffers = BufferTable(device: udmabuf, quotas: quotas)
    let plan = try KMSPlan(options.kms.map { try KMSTarget($0) })
    cards = try plan.cards.map { [loop, logger] in
      try KMSSink($0, udmabuf: try? udmabuf.get(), loop: loop, log: logger)
    }
    let sink = try Self.join(cards, plan, options.resolution)
    if sink == nil { logger.notice("no --kms card was given: the guest's pages are lent, and shown nowhere") }
    if case .failure(let errno) = udmabuf {
      logger.warning("nothing can be lent, so that all is copied: \(LendError.noDevice(errno))")
    }
    let outputs = sink?.outputs ?? Self.headless(options.resolution)
    device = try GPUDevice(
      buffers: buffers, sink: sink, outputs: outputs, backing: options.backing, cursor: options.cursor,
      loop: loop, logger: logger)
    adapter = GPUBackEnd(device, loop: loop, logger: logger)
  }

  /// What this process needs itself, and half of it to lend.
  private static let fewestDescriptors = 2 * Quotas.reservedDescriptors

  private static func descriptorLimit() throws -> Int {
    let limit = try raiseDescriptorLimit()
    guard limit >= fewestDescriptors else {
      throw StartError(
        "\(limit) open descriptors (RLIMIT_NOFILE) are too few, \(fewestDescriptors) are the least: raise the hard limit "
          + "(ulimit -Hn, or LimitNOFILE= of a service)")
    }
    return Int(clamping: limit)
  }

  /// Serves one connection.
  /// - Returns: the exit status.
  func run() throws -> CInt {
    let signalToken = try loop.add(signals.fd) { [unowned self] _ in takeSignals() }
    defer { loop.remove(signalToken, signals.fd) }
    defer { end() }
    if let number = options.fd {
      let fd: FD
      do throws(Errno) { fd = try FD.inherited(number) } catch {
        throw StartError("--fd \(number): there is no such inherited descriptor (\(error))")
      }
      guard (try? fd.status())?.isSocket == true else { throw StartError("--fd \(number) is not a socket") }
      try serve(UnixSocket(adopting: fd))
    } else if let path = options.socketPath {
      try listen(FilePath(path))
    }
    try enterSandbox()
    try loop.run()
    if let failure {
      printError("\(programName): the connection to QEMU was closed: \(failure)")
      return 1
    }
    return 0
  }

  // MARK: Connection

  private func listen(_ path: FilePath) throws {
    let socket: UnixSocket
    do throws(Errno) {
      // A killed process leaves its file behind.
      if UnixSocket.isStale(path) { removeFile(path) }
      socket = try UnixSocket.listen(path)
    } catch {
      throw StartError(
        error == .addressInUse
          ? "\(path) is in use by another process; choose another --socket-path or end that process"
          : "cannot listen on \(path): \(error)")
    }
    listener = Listener(socket)
    try awaitConnection()
    logger.info("listening on \(path)")
  }

  private func awaitConnection() throws(Errno) {
    guard let listener else { return }
    listenerToken = try loop.add(listener.socket.fd) { [unowned self] _ in accept() }
  }

  private func accept() {
    guard let listener else { return }
    let socket: UnixSocket
    do throws(Errno) { socket = try listener.socket.accept() } catch {
      if error != .wouldBlock && error != .connectionAbort {
        logger.error("a connection could not be taken: \(error)")
      }
      return
    }
    // One back end serves one connection; the next must wait until this one turns out to be nobody.
    pauseListening()
    do throws(Errno) {
      try serve(socket)
    } catch {
      logger.error("a connection could not be served: \(error)")
      goOnListening()
    }
  }

  private func serve(_ socket: consuming UnixSocket) throws(Errno) {
    session = try VhostUserSession(
      socket, loop: loop, device: adapter, logger: logger,
      onFirstMessage: { [unowned self] in beServing() },
      onEnd: { [unowned self] error in
        // A program that looked whether somebody listens, and hung up.
        if error == nil, session?.hasStarted == false, listener != nil { return goOnListening() }
        failure = error
        loop.stop()
      })
    adapter.session = session
  }

  private func pauseListening() {
    if let listener, let token = listenerToken.take() { loop.remove(token, listener.socket.fd) }
  }

  private func stopListening() {
    pauseListening()
    guard listener.take() != nil, let path = options.socketPath else { return }
    removeFile(FilePath(path))
  }

  /// It is QEMU: nobody else is waited for.
  private func beServing() {
    if listener == nil { return }
    stopListening()
    do throws(SandboxError) { try sandbox?.enter(.serving) } catch {
      failure = error
      loop.stop()
    }
  }

  private func goOnListening() {
    session = nil
    do throws(Errno) { try awaitConnection() } catch {
      logger.error("no further connection can be awaited: \(error)")
      loop.stop()
    }
  }

  /// Nothing is opened from here on, and nothing that a peer sent has been read yet.
  private func enterSandbox() throws {
    guard options.sandbox == .on else { return logger.warning("the sandbox is off") }
    let sandbox = try Sandbox(program: programName)
    try sandbox.enter(listenerToken == nil ? .serving : .waiting)
    self.sandbox = sandbox
  }

  private func end() {
    for card in cards { card.close() }
    writeStatistics()
    stopListening()
  }

  // MARK: Signals and statistics

  private func takeSignals() {
    while let signal = signals.next() {
      if signal == SIGUSR1 { writeStatistics() } else { loop.stop() }
    }
  }

  private func writeStatistics() {
    guard statsFile != nil else { return }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    do {
      let json = [UInt8](try encoder.encode(device.buffers.statistics)) + [0x0a]
      unsafe try statsFile?.replaceContent(json.span.bytes)
    } catch {
      logger.error("the statistics cannot be written: \(error)")
    }
  }

  // MARK: What the guest is offered

  /// The cards as one sink, whose scanouts prefer the sizes that were asked for; nil if there is none.
  private static func join(
    _ cards: [KMSSink], _ plan: KMSPlan, _ resolutions: [Resolution]
  ) throws -> (any ScanoutSink)? {
    let routes = plan.routes(outputs: cards.map(\.outputs.count))
    guard routes.count <= GPUDevice.maxScanouts else {
      throw StartError(
        "\(routes.count) connectors are more than the \(GPUDevice.maxScanouts) scanouts of a guest; name fewer"
      )
    }
    for (scanout, route) in routes.enumerated() {
      guard let wanted = resolutions.dropFirst(scanout).first ?? resolutions.last else { break }
      do throws(SinkError) {
        try cards[route.sink].prefer(width: wanted.width, height: wanted.height, on: route.scanout)
      } catch { throw StartError("--resolution \(wanted): \(error)") }
    }
    return cards.count > 1 ? SinkGroup(cards, routes: routes) : cards.first
  }

  /// Without a card: outputs of any size, one for each that was asked for, and one at least.
  private static func headless(_ resolutions: [Resolution]) -> [SinkOutput] {
    let wanted = resolutions.isEmpty ? [[]] : resolutions.map { [($0.width, $0.height)] }
    return wanted.enumerated().map { index, first in
      let sizes = first + [(1920, 1080), (1280, 720), (1024, 768)]
      let modes = sizes.compactMap { DisplayMode.reducedBlanking(width: $0.0, height: $0.1) }
      return SinkOutput(name: index == 0 ? "headless" : "headless-\(index + 1)", modes: modes)
    }
  }
}
