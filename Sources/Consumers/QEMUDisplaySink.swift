package import Linux
package import Logging
package import Scanout
package import SystemPackage
package import Udmabuf
internal import VhostUser

/// Shows frames in QEMU's own display, over the socket that QEMU hands to a vhost-user-gpu.
///
/// QEMU replaces the socket at each stop, cont and reset. The sink sends everything anew to the next one. A frame
/// counts as in use until QEMU has answered a later message. If QEMU gives no socket, nobody sees the frames.
package final class QEMUDisplaySink: ScanoutSink {
  /// QEMU has at most this many consoles for one device.
  package static let maximumOutputs = 16
  /// The formats that QEMU's displays can show of a dma-buf.
  static let formats: [FourCC] = [.xrgb8888, .argb8888, .xbgr8888, .abgr8888]

  /// Copies of more bytes than this are sent as pixels.
  private static let largestBuffer: UInt64 = 64 << 20

  package weak var observer: (any ScanoutObserver)?
  /// The outputs from QEMU, or those given at the start. Their count never changes.
  package private(set) var outputs: [SinkOutput]

  private let asksForScreens: Bool
  private let strideAlignment: StrideAlignment
  private let patience: TimeSpan
  private let udmabuf: UdmabufDevice?
  private let loop: EventLoop
  private let log: Logger
  private(set) var lanes: [QEMULane]
  private var connection: QEMUDisplayConnection?
  /// QEMU's abilities; nil until QEMU has named them on this socket.
  private var features: QEMUDisplayFeatures?
  /// The question that QEMU always answers, after it has done everything before.
  private var barrier = QEMUDisplayMessage.getProtocolFeatures
  private var saidThatItHasNoFeatures = false

  private var telling: Deferred?
  private var resuming: Deferred?
  private var timer: Timer?
  /// Whether `barrier` was sent and has no answer yet.
  private var isBarrierOut = false
  /// The reports for the observer, which gets them from the loop.
  private let reports = ReportQueue()
  /// Whether QEMU has ever handed over a socket.
  private var hadSocket = false

  /// The calls that wait for QEMU's answers, and the questions that were not asked yet.
  private var inquirers: [() -> Void] = []
  private var inquiry = Inquiry.none
  private enum Inquiry { case none, wanted, asked }
  /// Whether QEMU has named its screens on this socket.
  private var knowsScreens = false
  private var edidInquirers: [(scanout: ScanoutID, finished: ([UInt8]?) -> Void, isAsked: Bool)] = []

  /// - Parameters:
  ///   - outputs: the outputs until QEMU names its screens, one for each scanout.
  ///   - asksForScreens: whether QEMU chooses the preferred sizes; otherwise `outputs` never changes.
  ///   - strideAlignment: of the card that draws QEMU's display.
  ///   - udmabuf: makes dma-bufs of copies; without it QEMU gets their pixels.
  ///   - patience: after this time without an answer QEMU gets the question that it always answers.
  package init(
    outputs: [SinkOutput], asksForScreens: Bool, strideAlignment: StrideAlignment = .none,
    udmabuf: UdmabufDevice?, patience: TimeSpan = .milliseconds(100), loop: EventLoop, log: Logger
  ) throws(Errno) {
    precondition(outputs.count <= Self.maximumOutputs, "QEMU has at most 16 consoles for a device")
    self.outputs = outputs.map { output in
      var output = output
      output.hasCursor = true
      return output
    }
    (self.asksForScreens, self.patience) = (asksForScreens, patience)
    self.strideAlignment = strideAlignment
    (self.udmabuf, self.loop, self.log) = (udmabuf, loop, log)
    lanes = outputs.indices.map { QEMULane(UInt32($0)) }
    telling = Deferred(loop) { [unowned self] in reports.deliver(to: observer) }
    resuming = Deferred(loop) { [unowned self] in proceed() }
    timer = try Timer(loop) { [unowned self] in askForAnything() }
    for lane in lanes {
      lane.queue.whenReplaced = { [unowned self, id = lane.id] in observer?.replaced($0, on: id) }
    }
  }

  // MARK: QEMU's socket

  package var isAttended: Bool { connection != nil }

  /// QEMU has sent this socket, which replaces an earlier one.
  package func connect(_ socket: consuming UnixSocket) {
    disconnect()
    hadSocket = true
    do throws(Errno) {
      connection = try QEMUDisplayConnection(
        socket, loop: loop, onReady: { [weak self] in self?.proceed() },
        onEnd: { [weak self] error in self?.ended(error) })
    } catch { return log.warning("QEMU's display socket cannot be used: \(error)") }
    // The first message on a socket finds room. The sink then asks for the display's screens. If their answer comes
    // first, the display does not answer this message.
    _ = connection?.ask(.getProtocolFeatures) { [weak self] reply in
      if case .protocolFeatures(let features) = reply { self?.introduced(features) } else { self?.isBasic() }
    }
    inquiry = .wanted
    proceed()
  }

  /// QEMU's connection for the device is over. QEMU shows nothing any more and reads no messages.
  package func abandon() {
    disconnect()
    hadSocket = false
    for lane in lanes { lane.abandon() }
  }

  private func introduced(_ features: QEMUDisplayFeatures) {
    self.features = features.intersection([.edid, .dmabuf2])
    log.debug("QEMU's display", metadata: ["features": "\(features.rawValue)"])
    // The answered question has left room for this message.
    _ = connection?.send(.setProtocolFeatures(self.features ?? []))
    proceed()
  }

  /// The display knows only the first version of the protocol.
  private func isBasic() {
    (features, barrier) = ([], .getDisplayInfo)
    if !saidThatItHasNoFeatures {
      saidThatItHasNoFeatures = true
      log.notice(
        "the display does not answer GET_PROTOCOL_FEATURES, so the helper uses only the base protocol")
    }
    proceed()
  }

  private func ended(_ error: QEMUDisplayError?) {
    if let error {
      log.warning("the helper gives up QEMU's display socket until QEMU hands over another one: \(error)")
    }
    disconnect()
  }

  private func disconnect() {
    connection = nil
    (features, barrier, isBarrierOut, knowsScreens) = (nil, .getProtocolFeatures, false, false)
    timer?.disarm()
    for lane in lanes { lane.forgetWhatWasTold() }
    // The device answers the questions that QEMU has left open.
    (inquirers, edidInquirers, inquiry) = ([], [], .none)
  }

  // MARK: Frames

  private func check(_ scanout: ScanoutID) throws(SinkError) {
    guard scanout.rawValue < lanes.count else {
      throw SinkError(.noOutput, "there is no scanout \(scanout); there are \(lanes.count)")
    }
  }

  package func prepare(_ frame: Frame, source: Rectangle, on scanout: ScanoutID) throws(SinkError) {
    try check(scanout)
    let layout = frame.layout
    guard case .lent = frame.memory else { return }
    guard Self.formats.contains(layout.format) else {
      throw SinkError(
        .format,
        "QEMU's display shows \(Self.formats.map(\.description).joined(separator: ", ")), not \(layout.format)"
      )
    }
    guard strideAlignment.allows(layout.stride) else {
      throw SinkError(
        .stride,
        "the card that draws QEMU's display needs a stride that is a multiple of \(strideAlignment) bytes"
          + (strideAlignment.origin.map { " (\($0))" } ?? "") + ", but "
          + "this one is \(layout.stride); choose a mode whose width is a multiple of \(strideAlignment.bytes / 4) pixels"
      )
    }
    guard layout.offset == 0, source.x == 0, source.y == 0 else {
      throw SinkError(
        .offset,
        "QEMU's display can only show a buffer from its first byte on, not \(source) of an image at byte "
          + "\(layout.offset); a buffer for each scanout in the guest needs no copy")
    }
  }

  /// A dma-buf if one can be made. QEMU takes pixels in only one format, which all its displays show.
  package func allocate(
    width: UInt32, height: UInt32, format: FourCC, on scanout: ScanoutID
  ) throws(SinkError) -> Canvas {
    try check(scanout)
    // Many cards need rows that begin at multiples of 256 bytes.
    let unit = max(strideAlignment.bytes, StrideAlignment.strictest.bytes)
    let stride = (width * 4 + unit - 1) / unit * unit
    let layout = FrameLayout(width: width, height: height, format: .xrgb8888, stride: stride)
    let memory = try MemfdShadow.make(layout)
    // The kernel takes all pages of a dma-buf at once, and the loop waits meanwhile.
    if let udmabuf, layout.pages <= Self.largestBuffer {
      do throws(UdmabufError) {
        let shared = try DMABufShadow(memory, udmabuf)
        return Canvas(memory: shared, layout: layout, area: layout.bounds)
      } catch { log.debug("a copy is sent as pixels: \(error)") }
    }
    return Canvas(memory: memory, layout: layout, area: layout.bounds)
  }

  package func present(_ presentation: Presentation, on scanout: ScanoutID) {
    // QEMU has handed over no socket, so nobody sees the frame. Another sink may want it, so it must not wait for
    // QEMU.
    if !hadSocket { return report(.presented(presentation), on: scanout) }
    _ = lanes[Int(scanout.rawValue)].queue.submit(.present(presentation))
    proceed()
  }

  package func turnOff(_ scanout: ScanoutID) {
    guard scanout.rawValue < lanes.count else { return }
    let lane = lanes[Int(scanout.rawValue)]
    // The next socket gets the state. Until then the guest is stopped or reset, and nothing can wait for QEMU.
    if !isAttended { return lane.queue.removeAll() }
    _ = lane.queue.submit(.turnOff)
    proceed()
  }

  package func setCursor(_ image: CursorImage?, at position: CursorPosition, on scanout: ScanoutID) {
    guard scanout.rawValue < lanes.count else { return }
    lanes[Int(scanout.rawValue)].setCursor(image, at: position)
    proceed()
  }

  package func moveCursor(to position: CursorPosition, on scanout: ScanoutID) {
    guard scanout.rawValue < lanes.count else { return }
    lanes[Int(scanout.rawValue)].moveCursor(to: position)
    proceed()
  }

  package func forget(_ frame: Frame) {
    for lane in lanes {
      let removal = lane.remove(frame)
      for gone in [removal.inFlight, removal.waiting].compactMap(\.self) {
        report(.failed(gone.sequence, .takenBack), on: lane.id)
      }
    }
    proceed()
  }

  private func report(_ report: ReportQueue.Report, on scanout: ScanoutID) {
    telling?.schedule()
    reports.append(report, on: scanout)
  }

  // MARK: Telling QEMU

  /// Sends as many messages as there is room for.
  private func proceed() {
    guard let connection, sendInquiries(connection), let features else { return }
    for lane in lanes {
      let hasRoom = lane.proceed(connection, features, barrier: barrier) { [weak self, weak lane] job in
        guard let self, let lane else { return }
        if let shown = lane.finish(job) {
          observer?.presented(shown.sequence, frame: shown.frame, on: lane.id)
        }
        proceed()
      }
      guard hasRoom else {
        if lane.hasMore { resuming?.schedule() }
        break
      }
    }
    armTimer()
  }

  private func armTimer() {
    guard let timer, !timer.armed, let first = lanes.compactMap(\.waitingSince).min() else { return }
    let waited = Instant.now - first
    // Jobs that have waited longer were asked about already. The timer looks at them again later.
    timer.arm(after: patience - waited % patience)
  }

  /// QEMU reads nothing before its display has drawn an update, and may never answer that update.
  private func askForAnything() {
    defer { armTimer() }
    let now = Instant.now
    guard let connection, !isBarrierOut,
      lanes.contains(where: { now - ($0.waitingSince ?? now) >= patience })
    else { return }
    isBarrierOut = connection.ask(barrier) { [weak self] _ in self?.isBarrierOut = false }
  }

  // MARK: QEMU's screens

  package func inquire(_ finished: @escaping () -> Void) -> Bool {
    guard asksForScreens, isAttended, inquirers.count < QEMUDisplayConnection.maxOutstanding else {
      return false
    }
    inquirers.append(finished)
    if inquiry == .none { inquiry = .wanted }
    proceed()
    return true
  }

  package func inquireEDID(of scanout: ScanoutID, _ finished: @escaping ([UInt8]?) -> Void) -> Bool {
    guard asksForScreens, isAttended, scanout.rawValue < outputs.count,
      !knowsScreens || hasEDID(scanout),
      edidInquirers.count < QEMUDisplayConnection.maxOutstanding
    else { return false }
    edidInquirers.append((scanout, finished, false))
    proceed()
    return true
  }

  /// QEMU gives no answer for a disabled screen.
  private func hasEDID(_ scanout: ScanoutID) -> Bool {
    features?.contains(.edid) == true && !outputs[Int(scanout.rawValue)].modes.isEmpty
  }

  /// - Returns: false if there is no room.
  private func sendInquiries(_ connection: QEMUDisplayConnection) -> Bool {
    if inquiry == .wanted {
      let isSent = connection.ask(.getDisplayInfo) { [weak self] reply in
        if case .displayInfo(let screens) = reply { self?.take(screens) }
      }
      guard isSent else { return false }
      inquiry = .asked
    }
    while knowsScreens, let index = edidInquirers.firstIndex(where: { !$0.isAsked }) {
      let (scanout, finished, _) = edidInquirers[index]
      guard hasEDID(scanout) else {
        edidInquirers.remove(at: index)
        finished(nil)
        continue
      }
      let isSent = connection.ask(.getEDID(scanout.rawValue)) { [weak self] reply in
        guard let self, let first = edidInquirers.firstIndex(where: \.isAsked) else { return }
        edidInquirers.remove(at: first)
        if case .edid(let bytes) = reply, !bytes.isEmpty { finished(bytes) } else { finished(nil) }
      }
      guard isSent else { return false }
      edidInquirers[index].isAsked = true
    }
    return true
  }

  private func take(_ screens: [QEMUDisplayScreen]) {
    inquiry = .none
    guard asksForScreens else { return }
    knowsScreens = true
    let now = outputs.enumerated().map { index, before in
      var output = before
      let area = screens[index].area
      let preferred = DisplayMode.reducedBlanking(width: area.width, height: area.height)
      output.modes = screens[index].isEnabled ? [preferred].compactMap(\.self) : []
      return output
    }
    if now != outputs {
      outputs = now
      observer?.outputsChanged()
    }
    let finished = inquirers
    inquirers = []
    for finished in finished { finished() }
    // Requests for EDIDs wait for the screens.
    proceed()
  }
}
