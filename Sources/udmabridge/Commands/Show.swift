import ArgumentParser
import Glibc
import KMS
import Linux
import Logging
import Programs
import Scanout
import SystemPackage
import Udmabuf

struct Show: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show memory as an image on a KMS card's screen, without a copy.",
    discussion: """
      The command must be DRM master, so no display server may hold the card: run it on a text console. It ends at \
      SIGINT, at SIGTERM, or after --seconds. The screen then shows again what it showed before.

        udmabridge show --guest 4711 @pages.txt --size 1920x1080 --stride 7680
      """)

  @OptionGroup var memory: MemoryOptions
  @OptionGroup(title: "The image") var geometry: GeometryOptions

  @Option(
    help: ArgumentHelp(
      "The card: PATH[:CONNECTOR], auto, or fd:N[:CONNECTOR] for an inherited descriptor.", valueName: "card")
  )
  var kms = "auto"

  @Option(help: ArgumentHelp("End after this time.", valueName: "seconds"))
  var seconds: Double?

  @Option(
    help: ArgumentHelp(
      "Tell the card this many times per second that the image may have changed, because some cards copy it; 0 is never.",
      valueName: "hertz"))
  var refresh = 30

  @OptionGroup var output: OutputOptions

  func validate() throws {
    if geometry.size == nil, memory.lent.buffer == nil {
      throw ValidationError("the image's size is missing: --size WxH")
    }
    if !(0...1000).contains(refresh) { throw ValidationError("--refresh \(refresh) is not from 0 to 1000") }
    if let seconds, !(0.001...4_000_000).contains(seconds) {
      throw ValidationError("--seconds takes 0.001 to 4000000")
    }
  }

  private struct Facts: Encodable {
    let card, driver, connector: String
    let width, height, stride: UInt32
    let format: String
    let inode, size: UInt64
  }

  func run() throws {
    let target = try KMSTarget(kms)
    let selection = try memory.open(writable: true, whole: true)
    var layout = try geometry.layout(of: selection)
    guard let offset = UInt32(exactly: UInt64(layout.offset) + selection.start) else {
      throw Trouble(
        "the image begins at 4 GiB or later in its dma-buf, and no card can show that: choose a smaller --offset"
      )
    }
    layout.offset = offset
    let dmabuf = try selection.dmabuf()
    let loop = try EventLoop()
    let signals = try SignalFD([SIGTERM, SIGINT])
    let sink = try KMSSink(
      target, udmabuf: try? UdmabufDevice(), loop: loop,
      log: Logger(label: "udmabridge") { _ in SwiftLogNoOpLogHandler() })
    defer { sink.close() }
    let screen = Screen(
      sink, Frame(id: 1, memory: .lent(dmabuf), layout: layout), loop,
      every: refresh == 0 ? nil : .milliseconds(Int64(1000 / refresh)))
    let token = try loop.add(signals.fd) { _ in loop.stop() }
    defer { loop.remove(token, signals.fd) }
    let end = try Timer(loop) { loop.stop() }
    if let seconds { end.arm(after: .milliseconds(Int64(seconds * 1000))) }
    try screen.show { [output, sink] in
      let facts = Facts(
        card: sink.card.name, driver: sink.card.driver, connector: sink.outputs[0].name, width: layout.width,
        height: layout.height, stride: layout.stride, format: layout.format.description, inode: dmabuf.inode,
        size: dmabuf.size)
      try output.print(
        facts,
        "shown on \(facts.connector) of \(facts.card) (\(facts.driver)): \(layout), dma-buf inode \(facts.inode)"
      )
    }
    try loop.run()
    screen.end()
    if let failure = screen.failure { throw failure }
  }
}

/// One frame on the first screen of a card, presented again and again.
private final class Screen: ScanoutObserver {
  private let sink: KMSSink
  private let frame: Frame
  private let loop: EventLoop
  private let pause: TimeSpan?
  private var again: Timer?
  private var sequence: UInt64 = 0
  private var whenShown: (() throws -> Void)?
  private(set) var failure: (any Error)?
  private static let scanout = ScanoutID(0)

  init(_ sink: KMSSink, _ frame: Frame, _ loop: EventLoop, every pause: TimeSpan?) {
    (self.sink, self.frame, self.loop, self.pause) = (sink, frame, loop, pause)
    sink.observer = self
  }

  /// - Parameter whenShown: runs once the frame is on the screen.
  func show(_ whenShown: @escaping () throws -> Void) throws {
    self.whenShown = whenShown
    try sink.prepare(frame, source: frame.layout.bounds, on: Self.scanout)
    again = try Timer(loop) { [unowned self] in present() }
    present()
  }

  private func present() {
    sequence += 1
    sink.present(
      Presentation(
        frame: frame, source: frame.layout.bounds, damage: frame.layout.bounds, sequence: sequence),
      on: Self.scanout)
  }

  func end() { again = nil }

  func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID) {
    do { try whenShown.take()?() } catch { fail(error) }
    if let pause { again?.arm(after: pause) }
  }

  func replaced(_ sequence: UInt64, on scanout: ScanoutID) {}

  func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError) { fail(error) }

  func outputsChanged() {}

  private func fail(_ error: any Error) {
    failure = failure ?? error
    loop.stop()
  }
}
