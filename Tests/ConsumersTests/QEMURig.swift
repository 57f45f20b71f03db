import Fixtures
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

@testable import Consumers
@testable import Scanout

/// A sink on QEMU's display, the front end at the other end of its socket, and what the sink reports.
final class QEMURig: ScanoutObserver {
  typealias Message = QEMUDisplayFrontEnd.Received

  static let both: UInt64 = 3
  let loop: EventLoop
  let log = LogBook()
  let sink: QEMUDisplaySink
  private(set) var frontEnd: QEMUDisplayFrontEnd!
  var reports: [String] = []
  private var lastFrame: UInt64 = 0
  private var sequences: [UInt32: UInt64] = [:]

  /// - Parameter patience: longer than any test takes, so that none depends on how busy the machine is.
  init(
    scanouts: Int = 2, asks: Bool = true, strideAlignment: StrideAlignment = .none,
    patience: TimeSpan = .seconds(3600)
  ) throws {
    loop = try EventLoop()
    let mode = DisplayMode.reducedBlanking(width: 1920, height: 1080)!
    sink = try QEMUDisplaySink(
      outputs: (0..<scanouts).map { SinkOutput(name: "out-\($0)", modes: $0 == 0 ? [mode] : []) },
      asksForScreens: asks, strideAlignment: strideAlignment, udmabuf: nil, patience: patience, loop: loop,
      log: log.logger)
    sink.observer = self
  }

  /// One with a socket, on which QEMU has said what it can do and has.
  static func attended(
    _ features: UInt64 = both, scanouts: Int = 2, patience: TimeSpan = .seconds(3600)
  ) throws -> QEMURig {
    let rig = try QEMURig(scanouts: scanouts, patience: patience)
    try rig.introduce(features)
    return rig
  }

  func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID) {
    reports.append("presented \(sequence) of \(frame.id) on \(scanout)")
  }
  func replaced(_ sequence: UInt64, on scanout: ScanoutID) { reports.append("replaced \(sequence)") }
  func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError) {
    reports.append("failed \(sequence)")
  }
  func outputsChanged() { reports.append("outputs") }

  func takeReports() -> [String] {
    defer { reports = [] }
    return reports
  }

  func settle() throws {
    for _ in 0..<10_000 where try loop.turn(waiting: .zero) == 0 { return }
    Issue.record("the loop does not come to rest")
  }

  /// Waits for what follows the end of a connection (`UnixSocket.shutDown`).
  func waitUntil(_ what: String, _ condition: () throws -> Bool) throws {
    try loop.turn(until: what, condition)
  }

  /// A new socket, as QEMU hands it over.
  func connect() throws { frontEnd = try QEMUDisplayFrontEnd { sink.connect($0) } }

  /// A new socket, on which QEMU has said what it can do and has.
  func introduce(_ features: UInt64 = QEMURig.both) throws {
    try connect()
    #expect(try messages() == [Message(1), Message(3)])
    try frontEnd.reply(1, features.bytes)
    #expect(try messages(1) == [Message(2, (features & 3).bytes)])
    try frontEnd.reply(3, QEMUDisplayFrontEnd.displayInfo([(1920, 1080)]))
    try settle()
  }

  /// What the front end has been sent since the last time; the first ones of it.
  func messages(_ count: Int = .max) throws -> [Message] {
    var messages: [Message] = []
    var before = -1
    // A long one comes in pieces.
    while messages.count < count, before != frontEnd.received {
      before = frontEnd.received
      try settle()
      while messages.count < count, let message = try frontEnd.next() { messages.append(message) }
    }
    return messages
  }

  func reply(_ request: UInt32) throws {
    try frontEnd.reply(request, request == 1 ? Self.both.bytes : [])
    try settle()
  }

  // MARK: Frames

  private func nextID() -> UInt64 {
    lastFrame += 1
    return lastFrame
  }

  /// A frame of lent pages. What stands for the dma-buf here is a memfd, of which nothing but its descriptor matters.
  func lent(_ layout: FrameLayout, source: Rectangle? = nil, prepares: Bool = true) throws -> Frame {
    let memfd = try Memfd.create(name: "frame", size: layout.pages)
    let dmabuf = try DMABuf(adopting: memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() })
    let frame = Frame(id: nextID(), memory: .lent(dmabuf), layout: layout)
    if prepares { try sink.prepare(frame, source: source ?? layout.bounds, on: ScanoutID(0)) }
    return frame
  }

  func lent(_ width: UInt32 = 64, _ height: UInt32 = 48) throws -> Frame {
    try lent(FrameLayout(width: width, height: height, format: .xrgb8888, stride: width * 4))
  }

  /// A frame of copied pixels, each its number and the frame's.
  func copied(_ width: UInt32 = 64, _ height: UInt32 = 48) throws -> Frame {
    let canvas = try sink.allocate(width: width, height: height, format: .xrgb8888, on: ScanoutID(0))
    let frame = Frame(id: nextID(), memory: .shadow(canvas.memory), layout: canvas.layout)
    for y in 0..<height {
      for x in 0..<width {
        canvas.memory.mapping.store(
          Self.pixel(x, y, frame.id), at: Int(y * canvas.layout.stride + x * 4))
      }
    }
    try sink.prepare(frame, source: frame.layout.bounds, on: ScanoutID(0))
    return frame
  }

  static func pixel(_ x: UInt32, _ y: UInt32, _ frame: UInt64) -> UInt32 { y << 16 | x | UInt32(frame) << 28 }

  func present(
    _ frame: Frame, source: Rectangle? = nil, _ damage: Rectangle? = nil, on scanout: UInt32 = 0
  ) {
    sequences[scanout, default: 0] += 1
    let source = source ?? frame.layout.bounds
    sink.present(
      Presentation(
        frame: frame, source: source, damage: damage ?? source, sequence: sequences[scanout]!),
      on: ScanoutID(scanout))
  }

  /// Presents a buffer, of which QEMU says that it has shown it.
  func show(_ frame: Frame) throws {
    present(frame)
    _ = try messages()
    try reply(10)
  }

  // MARK: What is expected

  static func words(_ numbers: UInt32...) -> [UInt8] { numbers.flatMap(\.bytes) }

  func inode(_ frame: Frame) -> UInt64? {
    guard case .lent(let dmabuf) = frame.memory else { return nil }
    return dmabuf.inode
  }

  /// DMABUF_SCANOUT2 of a frame, or DMABUF_SCANOUT.
  func announcement(
    _ frame: Frame, _ width: UInt32 = 64, _ height: UInt32 = 48, on scanout: UInt32 = 0, isFirst: Bool = false
  ) -> Message {
    let layout = Self.words(
      scanout, 0, 0, width, height, width, height, frame.layout.stride, 0, 0x3432_5258)
    return Message(
      isFirst ? 9 : 12, layout + (isFirst ? [] : [0, 0, 0, 0, 0, 0, 0, 0]), inode: inode(frame))
  }

  func update(_ x: UInt32, _ y: UInt32, _ width: UInt32, _ height: UInt32, on scanout: UInt32 = 0) -> Message
  {
    Message(10, Self.words(scanout, x, y, width, height))
  }

  func pixels(_ frame: Frame, _ area: Rectangle, on scanout: UInt32 = 0) -> Message {
    var payload = Self.words(scanout, area.x, area.y, area.width, area.height)
    for y in area.y..<area.y + area.height {
      for x in area.x..<area.x + area.width { payload += Self.pixel(x, y, frame.id).bytes }
    }
    return Message(8, payload)
  }

  static let barrier = Message(1)
  static func size(_ width: UInt32, _ height: UInt32, on scanout: UInt32 = 0) -> Message {
    Message(7, words(scanout, width, height))
  }
  static func noBuffer(on scanout: UInt32 = 0) -> Message {
    Message(9, words(scanout, 0, 0, 0, 0, 0, 0, 0, 0, 0))
  }
}
