import Buffers
import Consumers
import FoundationEssentials
import Glibc
import KMS
import Lending
import Linux
import Logging
import Programs
import Sandbox
import Scanout
import SystemPackage
import Udmabuf
import VhostUser
import VhostUserGPU
import VirtioGPU

extension QEMUDisplaySink: QEMUDisplay {}

/// The helper of one VM: it joins the modules, and lives as long as QEMU's connection.
final class Helper {
  private let options: Options
  private let logger: Logger
  private let loop: EventLoop
  private let signals: SignalFD
  private let statsFile: FD?
  private let trace: GuestTrace?
  private let cards: [KMSSink]
  private let lender: Lender
  private let devices: [GPUDevice]
  private let endpoints: [Endpoint]
  /// Nil if the guest lends nothing but pictures.
  private let lending: GuestLending?
  private let control: Control?
  private var sandbox: Sandbox?
  private var phase: Sandbox.Phase?
  private var failure: (any Error)?

  /// Opens everything that the process ever opens, so that nothing is missing once the guest runs.
  init(_ options: Options, _ logger: Logger) throws {
    (self.options, self.logger) = (options, logger)
    loop = try EventLoop()
    // These come first: libvirt starts QEMU at the same time, and QEMU does not wait for these sockets.
    let listeners = try options.devices.map { device -> Endpoint.Listener? in
      guard device.isFirst, case .path(let path) = device.address else { return nil }
      return try Endpoint.Listener(path)
    }
    lending = try options.port.port.map { [loop] in try GuestLending(FilePath($0), options.port, loop: loop) }
    var quotas = options.quotas
    let others =
      Control.descriptors(
        options.control, lending: lending?.registry.limits,
        offers: lending != nil && options.devices.contains { $0.profile == .share } ? OfferLimits() : nil)
      + (lending == nil ? 0 : GuestLending.descriptors)
    quotas.descriptors = try Self.descriptorLimit(others) - others
    signals = try SignalFD([SIGTERM, SIGINT, SIGUSR1])
    try ignoreWriteSignals()
    try exitOnBusError(
      """
      vhost-user-udmabuf: the connection to QEMU was given up: the guest's memory became shorter, or its file \
      system is full

      """)
    if let path = options.stats {
      do throws(Errno) { statsFile = try FD.create(FilePath(path)) } catch {
        throw Trouble("the statistics file \(path) cannot be written: \(FD.whyNotCreated(error))")
      }
    } else {
      statsFile = nil
    }
    trace = try options.trace.map { try GuestTrace($0, limit: options.traceLimit, logger) }

    let udmabuf = Result { () throws(Errno) in try UdmabufDevice() }
    lender = Lender(device: udmabuf, account: GuestAccount(quotas))
    let plan = try KMSPlan(options.kms.map { try KMSTarget($0) })
    cards = try plan.cards.map { [loop, logger] in
      try KMSSink($0, udmabuf: try? udmabuf.get(), loop: loop, log: logger)
    }
    var sink = try Self.join(cards, plan, options.resolution)
    var display: QEMUDisplaySink?
    if options.showsOnQEMU {
      let qemu = try QEMUDisplaySink(
        outputs: Self.onQEMU(options.resolution), asksForScreens: options.resolution.isEmpty,
        strideAlignment: Self.strideAlignment(options.strideAlignment, logger),
        udmabuf: try? udmabuf.get(), loop: loop, log: logger)
      (display, sink) = (qemu, qemu)
    } else if options.strideAlignment != nil {
      logger.notice(
        "--stride-alignment has no effect: it belongs to QEMU's display (--display qemu), which is not used")
    }
    var offered: ControlSink?
    if options.control.control != nil {
      let control = try ControlSink(outputs: sink?.outputs ?? Self.offered(options.resolution), loop: loop)
      sink = sink.map { TeeSink($0, control) } ?? control
      offered = control
    }
    if sink == nil {
      logger.notice(
        "the guest's frames are shown nowhere: --display off, and neither --kms nor --control is given")
    }
    if case .failure(let errno) = udmabuf {
      logger.warning("nothing can be lent, so everything is copied: \(LendError.noDevice(errno))")
    }
    let offers = try StartingOffers(options, udmabuf: udmabuf, cards: cards.map(\.card), logger)
    let hostMemory = try offers.hostMemory()
    let known = KnownMemory()
    var devices: [GPUDevice] = []
    endpoints = try zip(options.devices, listeners).map {
      [loop, logger, lender, sink, display] device, listener in
      let shown = device.hasScreens ? sink : nil
      let outputs =
        shown?.outputs
        ?? (device.hasScreens ? Self.headless(options.resolution) : [SinkOutput(name: "none", modes: [])])
      let gpu = try GPUDevice(
        lender: lender, sink: shown, outputs: outputs,
        scanoutCount: display == nil ? nil : max(1, options.resolution.count), backing: options.backing,
        cursor: options.cursor,
        profile: device.profile, hostMemory: device.profile == .share ? hostMemory : nil, loop: loop,
        logger: logger, advice: optionAgainst)
      devices.append(gpu)
      return Endpoint(
        gpu, at: device.address, listener: listener, keeps: options.keep, known: known,
        display: device.hasScreens ? display : nil,
        loop: loop, logger: logger
      )
    }
    self.devices = devices
    for (number, device) in devices.enumerated() { device.trace = trace?.device(number) }
    if let lending { trace?.follow(lending.registry) }
    try lending?.serve(devices, hostMemory, loop: loop, logger: logger)
    control = try offered.map { [loop, logger, lender, lending] sink in
      try Control(
        options.control, sink, offers: offers.made, lending: lending, maker: offers.maker, loop: loop,
        logger: logger
      ) { isTrusted in
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        // A buffer may be lent to some users only; the others must learn nothing of it.
        let statistics = Self.statistics(lender, devices, isTrusted ? lending : nil)
        return (try? encoder.encode(statistics)).map { [UInt8]($0) } ?? Array("{}".utf8)
      }
    }
  }

  /// What the guest uses now, and its devices' counts.
  private static func statistics(
    _ lender: Lender, _ devices: [GPUDevice], _ lending: GuestLending?
  ) -> WholeStatistics {
    var statistics = Statistics()
    lender.report(into: &statistics)
    for device in devices { device.report(into: &statistics) }
    return WholeStatistics(device: statistics, lending: lending?.statistics)
  }

  /// The least limit: half for this process itself, half for lending.
  private static let fewestDescriptors = 2 * Quotas.reservedDescriptors

  private static func descriptorLimit(_ others: Int) throws -> Int {
    let (limit, fewest) = (try raiseDescriptorLimit(), UInt64(fewestDescriptors + others))
    guard limit >= fewest else {
      throw Trouble(
        "a limit of \(limit) open descriptors (RLIMIT_NOFILE) is too low, \(fewest) is the least: raise the hard limit "
          + "(ulimit -Hn, or LimitNOFILE= of a service)")
    }
    return Int(clamping: limit)
  }

  /// Serves one connection for each device, or with `--keep` one after the other.
  /// - Returns: the exit status.
  func run() throws -> CInt {
    let signalToken = try loop.add(signals.fd) { [unowned self] _ in takeSignals() }
    defer { loop.remove(signalToken, signals.fd) }
    defer { end() }
    for (endpoint, device) in zip(endpoints, options.devices) {
      endpoint.onConnection = { [unowned self] in beServing() }
      endpoint.onEnd = { [unowned self, unowned endpoint] error in
        if options.keep { return serveNext(endpoint, after: error) }
        // An unplugged device frees everything of its own; the other device goes on.
        if error == nil, endpoints.contains(where: { $0 !== endpoint && $0.isServing }) {
          return endpoint.close()
        }
        failure = error
        loop.stop()
      }
      do { try endpoint.open() } catch let error as EndpointError {
        throw Trouble("\(device.descriptorOption): \(error)")
      }
    }
    try enterSandbox()
    try loop.run()
    if let failure {
      printError("\(programName): the helper closed the connection to QEMU: \(failure)")
      return 1
    }
    return 0
  }

  private func serveNext(_ endpoint: Endpoint, after error: (any Error)?) {
    if let error {
      logger.error("the helper closed the connection to QEMU, and waits for the next one: \(error)")
    }
    do throws(Errno) { try endpoint.serveNext() } catch {
      failure = error
      loop.stop()
    }
  }

  /// QEMU has connected for every device. From now on the sockets' files cannot be removed.
  private func beServing() {
    if phase != .waiting || endpoints.contains(where: \.isWaiting) { return }
    do throws(Trouble) { try enter(servingPhase) } catch {
      failure = error
      loop.stop()
    }
  }

  /// Enters the sandbox: nothing is opened from here on, and no byte of a peer has been read yet.
  private func enterSandbox() throws {
    guard options.sandbox == .on else { return logger.warning("the sandbox is off (--sandbox off)") }
    do throws(SandboxError) {
      sandbox = try Sandbox(program: programName, remedy: "--sandbox off runs without it, for debugging")
    } catch { throw Self.noSandbox(error) }
    try enter(endpoints.contains(where: \.isWaiting) ? .waiting : servingPhase)
  }

  /// With a control socket, a port or `--keep`, the helper accepts connections until the end.
  private var servingPhase: Sandbox.Phase {
    control == nil && lending == nil && !options.keep ? .serving : .offering
  }

  private func enter(_ phase: Sandbox.Phase) throws(Trouble) {
    guard let sandbox else { return }
    do throws(SandboxError) { try sandbox.enter(phase) } catch { throw Self.noSandbox(error) }
    self.phase = phase
  }

  private static func noSandbox(_ error: SandboxError) -> Trouble {
    Trouble("\(error); --sandbox off runs without it")
  }

  private func end() {
    for card in cards { card.close() }
    writeStatistics()
    // The sandbox allows this as long as a connection is awaited.
    let mayRemove = phase == nil || phase == .waiting
    for endpoint in endpoints { endpoint.stopListening(removing: mayRemove) }
    // Lent buffers end first, so that their watchers hear of it.
    lending?.end(removing: mayRemove)
    control?.end(removing: mayRemove)
    trace?.end()
  }

  // MARK: Signals and statistics

  private func takeSignals() {
    while let signal = signals.next() {
      if signal != SIGUSR1 {
        loop.stop()
        continue
      }
      writeStatistics()
      trace?.flush()
    }
  }

  private func writeStatistics() {
    guard statsFile != nil else { return }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    do {
      let json = [UInt8](try encoder.encode(Self.statistics(lender, devices, lending))) + [0x0a]
      unsafe try statsFile?.replaceContent(json.span.bytes)
    } catch {
      logger.error("the statistics cannot be written: \(error)")
    }
  }

  // MARK: Outputs of the guest

  /// The cards as one sink, whose scanouts prefer the sizes of `--resolution`; nil without a card.
  private static func join(
    _ cards: [KMSSink], _ plan: KMSPlan, _ resolutions: [PixelSize]
  ) throws -> (any ScanoutSink)? {
    let routes = plan.routes(outputs: cards.map(\.outputs.count))
    guard routes.count <= GPUDevice.maxScanouts else {
      throw Trouble(
        "\(routes.count) connectors are named, but a guest has at most \(GPUDevice.maxScanouts) scanouts; name fewer"
      )
    }
    for (scanout, route) in routes.enumerated() {
      guard let wanted = resolutions.dropFirst(scanout).first ?? resolutions.last else { break }
      do throws(SinkError) {
        try cards[route.sink].prefer(width: wanted.width, height: wanted.height, on: route.scanout)
      } catch { throw Trouble("--resolution \(wanted): \(error)") }
    }
    return cards.count > 1 ? SinkGroup(cards, routes: routes) : cards.first
  }

  /// The outputs for other processes, if there is no card. These processes draw the cursor themselves.
  private static func offered(_ resolutions: [PixelSize]) -> [SinkOutput] {
    headless(resolutions).map { output in
      var output = output
      output.hasCursor = true
      return output
    }
  }

  /// The stride alignment of QEMU's display. An unknown card gets the one that every card takes.
  private static func strideAlignment(
    _ option: StrideAlignmentOption?, _ logger: Logger
  ) -> StrideAlignment {
    var strictest = StrideAlignment.strictest
    strictest.origin = alignmentOption
    switch option {
    case nil: return .none
    case .bytes(var alignment):
      alignment.origin = alignmentOption
      return alignment
    case .renderNode(let path):
      do throws(Errno) {
        let driver = try RenderNode.driver(path)
        if var alignment = StrideAlignment.ofDriver(driver) {
          alignment.origin = alignmentOption
          return alignment
        }
        logger.notice(
          """
          the stride alignment of \(driver), the driver of \(path), is unknown: only pictures whose rows are a multiple of \
          \(StrideAlignment.strictest) bytes are lent; if the card takes others, say so with --stride-alignment BYTES
          """)
      } catch {
        logger.warning(
          """
          --stride-alignment: \(path) does not tell its driver (\(error)): only pictures whose rows are a multiple of \
          \(StrideAlignment.strictest) bytes are lent; --stride-alignment BYTES needs no render node
          """)
      }
      return strictest
    }
  }

  private static let alignmentOption = "--stride-alignment"

  /// The outputs of QEMU's display: one for each `--resolution`, or as many as QEMU can have. QEMU says which are in use.
  private static func onQEMU(_ resolutions: [PixelSize]) -> [SinkOutput] {
    var outputs = headless(resolutions)
    if resolutions.isEmpty {
      let missing = QEMUDisplaySink.maximumOutputs - outputs.count
      outputs += (0..<missing).map { _ in SinkOutput(name: "", modes: []) }
    }
    for index in outputs.indices { outputs[index].name = index == 0 ? "QEMU" : "QEMU-\(index + 1)" }
    return outputs
  }

  /// The outputs without a card: of any size, one for each `--resolution`, at least one.
  private static func headless(_ resolutions: [PixelSize]) -> [SinkOutput] {
    let wanted = resolutions.isEmpty ? [[]] : resolutions.map { [($0.width, $0.height)] }
    return wanted.enumerated().map { index, first in
      let sizes = first + [(1920, 1080), (1280, 720), (1024, 768)]
      let modes = sizes.compactMap { DisplayMode.reducedBlanking(width: $0.0, height: $0.1) }
      return SinkOutput(name: index == 0 ? "headless" : "headless-\(index + 1)", modes: modes)
    }
  }
}
