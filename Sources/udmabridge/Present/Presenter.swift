import Consumers
import Linux
import Scanout
import SystemPackage
import Udmabuf
import Varlink

/// Follows a control socket, and shows its scanouts on a sink's.
final class Presenter: ScanoutObserver {
  let sink: any ScanoutSink
  let loop: EventLoop
  let path: FilePath
  let udmabuf: UdmabufDevice?
  let showsCursor: Bool
  private let output: OutputOptions
  private let watching: VarlinkClient
  private var token: EventLoop.Token?
  private var scanouts: [PresentedScanout] = []
  private var lastFrameID: UInt64 = 0
  private var saidBefore: Set<String> = []
  var counts = PresentCounts()
  /// Why it ended, if not because it should.
  private(set) var failure: (any Error)?

  /// - Parameter scanouts: so many of both sides' are joined, from the first on.
  init(
    _ path: FilePath, _ sink: any ScanoutSink, scanouts: Int, showsCursor: Bool, udmabuf: UdmabufDevice?,
    loop: EventLoop, output: OutputOptions
  ) throws {
    (self.path, self.sink, self.loop, self.udmabuf) = (path, sink, loop, udmabuf)
    (self.showsCursor, self.output) = (showsCursor, output)
    watching = try VarlinkClient(path)
    self.scanouts = try (0..<scanouts).map { try PresentedScanout($0, self) }
    token = try watching.withDescriptor { fd throws(Errno) in
      try loop.add(fd) { [unowned self] _ in receive() }
    }
    sink.observer = self
    try watching.callMore("io.udmabridge.Display.Watch")
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
    } catch {
      failure = failure ?? error
      loop.stop()
    }
  }

  private func take(_ event: DisplayEvent) {
    let number = event.frame?.scanout ?? event.cursor?.scanout ?? event.scanout ?? 0
    guard scanouts.indices.contains(number) else { return }
    let scanout = scanouts[number]
    switch event.event {
    case .frame:
      if let frame = event.frame { scanout.changed(frame, event.damage?.rectangle) }
    case .off: scanout.turnOff()
    case .cursor:
      if showsCursor, let cursor = event.cursor { scanout.moveCursor(cursor) }
    case .outputs, .end: break
    }
  }

  // MARK: What the card tells

  func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID) { counts.shown += 1 }

  func replaced(_ sequence: UInt64, on scanout: ScanoutID) { counts.coalesced += 1 }

  func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError) {
    counts.failed += 1
    guard error.refusal == .disconnected else { return complain("\(error)") }
    failure = failure ?? error
    loop.stop()
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
    try? output.print(
      shown, "scanout \(index) on \(name): \(picture)" + (why.map { ", copied: \($0)" } ?? ""))
  }

  /// Says it once.
  func complain(_ what: String) {
    if saidBefore.insert(what).inserted { printError("udmabridge: \(what)") }
  }
}
