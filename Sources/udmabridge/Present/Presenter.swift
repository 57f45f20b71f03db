import DisplayProtocol
import Linux
import Scanout
import SystemPackage
import Udmabuf
import Varlink

/// Follows a control socket, and shows its scanouts on a sink's.
final class Presenter: ScanoutObserver {
  let sink: any ScanoutSink
  let loop: EventLoop
  private let path: FilePath
  private var reserve: [VarlinkClient]?
  let udmabuf: UdmabufDevice?
  let showsCursor: Bool
  private let output: OutputOptions
  private let watching: VarlinkClient
  private var token: EventLoop.Token?
  private var scanouts: [PresentedScanout] = []
  private var lastFrameID: UInt64 = 0
  private var lines = LineLimit()
  private var lastComplaint: String?
  var counts = PresentCounts()
  /// Why it ended, if not because it should.
  private(set) var failure: (any Error)?

  /// Connects, and calls nothing yet.
  /// - Parameters:
  ///   - watching: a connection.
  ///   - reserve: so many connections are made in advance, and no other ones later; nil: when they are needed.
  init(
    _ watching: VarlinkClient, _ path: FilePath, _ sink: any ScanoutSink, reserve: Int?, showsCursor: Bool,
    udmabuf: UdmabufDevice?, loop: EventLoop, output: OutputOptions
  ) throws {
    (self.watching, self.path, self.sink, self.loop, self.udmabuf) = (watching, path, sink, loop, udmabuf)
    (self.showsCursor, self.output) = (showsCursor, output)
    self.reserve = try reserve.map { try (0..<$0).map { _ in try VarlinkClient(path) } }
    scanouts = try sink.outputs.indices.map { try PresentedScanout($0, self, VarlinkClient(path)) }
    token = try watching.withDescriptor { fd throws(Errno) in
      try loop.add(fd) { [unowned self] _ in receive() }
    }
    sink.observer = self
  }

  func start() throws { try watching.callMore("\(displayInterfaceName).Watch") }

  /// A connection in place of one that the helper has closed; nil if there is none now, or no more.
  func connectAgain() -> VarlinkClient? {
    guard let left = reserve?.count else { return try? VarlinkClient(path) }
    if left == 0 {
      end(
        ControlError(
          "the helper has taken back once too often what was held for too long: in the sandbox no connection can be made; "
            + "start it again, or with --sandbox off"))
    }
    return reserve?.popLast()
  }

  func end(_ error: any Error) {
    failure = failure ?? error
    loop.stop()
  }

  deinit { stop() }

  /// Nothing more is heard of the helper.
  func stop() {
    if let token = token.take() { watching.withDescriptor { loop.remove(token, $0) } }
    for scanout in scanouts { scanout.stop() }
  }

  func newFrameID() -> UInt64 {
    lastFrameID += 1
    return lastFrameID
  }

  // MARK: What the helper tells

  private func receive() {
    do {
      while token != nil, let reply = try watching.nextReceived() {
        let event = try reply.decode(DisplayEvent.self)
        if event.event == .end || !reply.continues { return loop.stop() }
        take(event)
      }
    } catch { end(error) }
  }

  private func take(_ event: DisplayEvent) {
    let number = event.frame?.scanout ?? event.cursor?.scanout ?? event.scanout ?? 0
    guard scanouts.indices.contains(number) else { return }
    let scanout = scanouts[number]
    switch event.event {
    case .frame:
      if let frame = event.frame { scanout.changed(frame, event.damage?.clipped(to: frame)) }
    case .off: scanout.turnOff()
    case .cursor:
      if showsCursor, let cursor = event.cursor { scanout.moveCursor(cursor) }
    case .outputs: expect(event.outputs ?? [])
    case .end: break
    }
  }

  private func expect(_ outputs: [DisplayOutput]) {
    // QEMU can have more than it uses.
    let count = (outputs.lastIndex { !$0.modes.isEmpty } ?? -1) + 1
    if count > scanouts.count {
      complain(
        "the guest has \(counted(count, "scanout")), and the first \(scanouts.count) are shown; name more connectors for the rest"
      )
    }
  }

  // MARK: What the card tells

  func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID) { counts.shown += 1 }

  func replaced(_ sequence: UInt64, on scanout: ScanoutID) { counts.coalesced += 1 }

  func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError) {
    counts.failed += 1
    if error.refusal == .disconnected { end(error) } else { complain("\(error)") }
  }

  func outputsChanged() { for scanout in scanouts { scanout.outputChanged() } }

  // MARK: What people are told

  private struct Shown: Encodable {
    let scanout: Int
    let output, picture: String
    /// Why it is a copy; nil where the buffer itself is on the screen.
    let copied: String?
  }

  func say(_ picture: FrameLayout, on index: Int, copied why: String?) {
    let name = sink.outputs[index].name
    let shown = Shown(scanout: index, output: name, picture: picture.description, copied: why)
    let text = "scanout \(index) on \(name): \(picture)" + (why.map { ", copied: \($0)" } ?? "")
    switch lines.next(at: monotonicNanoseconds()) {
    case .write: try? output.print(shown, text)
    case .sayItIsFull: printError("udmabridge: \(LineLimit.full)")
    case .leaveOut: break
    }
  }

  /// Says it, unless it was said last.
  func complain(_ what: String) {
    if what == lastComplaint { return }
    lastComplaint = what
    if let line = lines.admit(what) { printError("udmabridge: \(line)") }
  }
}
