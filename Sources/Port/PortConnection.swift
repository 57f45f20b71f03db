internal import Lending
internal import Linux
internal import SystemPackage
internal import Varlink

/// QEMU's connection, over which one agent after the other speaks.
///
/// A line is read only after the answer to the last one was sent, and an event is made only when nothing waits. A guest that
/// does not read can therefore make this process keep only one event, one answer and one line.
final class PortConnection {
  /// The most bytes that wait to be sent.
  static let longestOutput = 64 << 10
  private static let bytesPerTurn = 4 << 10

  /// Runs once, when the connection is over.
  var whenClosed: (() -> Void)?

  private let socket: UnixSocket
  private let registry: Registry
  private let devices: [any PortDevice]
  private let offers: OfferTable?
  private let meter: PortMeter
  private let loop: EventLoop
  private var token: EventLoop.Token?
  private var watched: Readiness = .readable
  private var lines: PortLines
  private var session: PortSession?
  /// Goes on at the end of the loop's turn.
  private var work: Deferred?
  private var isProceeding = false
  /// Whether a command has no answer yet.
  private var isBusy = false
  /// Whether no line has come since a device's last fresh start.
  private(set) var isSilent = false
  private var writer = JSONWriter()
  private var sent = 0
  /// Where the last answer in `writer` ends.
  private var answerEnd = 0

  init(
    _ socket: consuming UnixSocket, _ registry: Registry, _ devices: [any PortDevice], _ offers: OfferTable?,
    _ limits: PortLimits, _ meter: PortMeter, loop: EventLoop
  ) throws(Errno) {
    self.socket = socket
    (self.registry, self.devices, self.offers) = (registry, devices, offers)
    (self.meter, self.loop) = (meter, loop)
    lines = PortLines(limit: limits.line)
    work = Deferred(loop) { [unowned self] in proceed() }
    token = try loop.add(self.socket.fd) { [unowned self] in ready($0) }
  }

  deinit { close() }

  private var isOpen: Bool { token != nil }

  /// The bytes that were received, and that wait to be sent.
  var kept: (input: Int, output: Int) { (lines.count, writer.bytes.count - sent) }

  func close() {
    guard let token = token.take() else { return }
    loop.remove(token, socket.fd)
    work = nil
    session?.end()
    session = nil
    whenClosed.take()?()
  }

  func deviceWasReset(_ device: Int) {
    isSilent = true
    session?.deviceWasReset(device)
    work?.schedule()
  }

  private func ready(_ readiness: Readiness) {
    // Commands before the end would have no lasting effect.
    if readiness.contains(.hangup) { return close() }
    if readiness.contains(.readable), watched.contains(.readable) { receive() }
    proceed()
  }

  private func receive() {
    // Descriptors that a peer sends are closed here.
    var descriptors = ReceivedDescriptors()
    do throws(Errno) {
      let count = try lines.receive { input throws(Errno) in
        try socket.receive(into: &input, upTo: Self.bytesPerTurn, descriptors: &descriptors)
      }
      if count == 0 { close() }
    } catch {
      if error != .wouldBlock { close() }
    }
  }

  /// Sends and reads as much as possible.
  func proceed() {
    if isProceeding { return }
    isProceeding = true
    defer { isProceeding = false }
    while isOpen {
      send()
      if writer.bytes.isEmpty, let event = session?.nextEvent() {
        write(event)
        continue
      }
      guard isOpen, mayRead, let piece = lines.next() else { break }
      meter.takeLine()
      isSilent = false
      take(piece)
    }
    watch()
  }

  private var mayRead: Bool { !isBusy && sent >= answerEnd && meter.mayTakeLine() }

  // MARK: Receiving

  private func take(_ piece: PortLines.Piece) {
    switch piece {
    case .dropped: break
    case .tooLong:
      if session == nil { break }
      answer(
        .failure(PortError(.lineTooLong, "a line may have at most \(lines.limit) bytes, with its end")), nil)
    case .line(let line):
      do throws(PortCommand.Refusal) { run(try PortCommand.read(line)) } catch {
        // An agent of another version also ends the session of the last agent.
        if error.error.name == .wrongVersion { session.take()?.end() }
        if session != nil || error.isHello { answer(.failure(error.error), error.id) }
      }
    }
  }

  private func run(_ command: PortCommand) {
    if case .hello(let name) = command.action { return begin(name, command.id) }
    guard let session else { return }
    isBusy = true
    session.run(command.action) { [weak self] result in self?.answer(result, command.id) }
  }

  private func begin(_ name: String, _ id: Int) {
    session?.end()
    session = PortSession(registry, devices, offers) { [weak self] in self?.work?.schedule() }
    meter.countSession()
    answer(
      .success(
        .hello(
          session: name, line: lines.limit, registry.limits, audiences: registry.audienceNames)), id)
  }

  // MARK: Sending

  private func answer(_ result: Result<PortReturn, PortError>, _ id: Int?) {
    isBusy = false
    guard isOpen else { return }
    if case .failure(let error) = result { meter.count(error) }
    write(PortAnswer(result: result, id: id))
    answerEnd = writer.bytes.count
    // Otherwise the loop continues it.
    if !isProceeding { work?.schedule() }
  }

  private func write(_ message: some JSONWritable) {
    message.write(to: &writer)
    writer.raw([UInt8(ascii: "\n")])
    precondition(writer.bytes.count - sent <= Self.longestOutput, "an event and an answer are shorter")
  }

  private func send() {
    do throws(Errno) {
      while isOpen, sent < writer.bytes.count {
        sent += unsafe try socket.send(writer.bytes.span.bytes.extracting(droppingFirst: sent))
      }
      writer.removeAll()
      (sent, answerEnd) = (0, 0)
    } catch {
      if error != .wouldBlock { close() }
    }
  }

  private func watch() {
    guard let token else { return }
    var wanted: Readiness = []
    if sent < writer.bytes.count { wanted.insert(.writable) }
    if mayRead { wanted.insert(.readable) }
    if wanted == watched { return }
    watched = wanted
    do throws(Errno) { try loop.modify(token, socket.fd, wanted) } catch { close() }
  }
}
