import Buffers
import Fixtures
import Guest
import KMS
import Linux
import Logging
import Scanout
import SystemPackage
import TestSupport
import Testing
import Udmabuf
import Virtio

@testable import VirtioGPU

extension GPUDevice.Patience {
  /// Longer than any test takes, so that none depends on how busy the machine is.
  static let endless = {
    let hour = TimeSpan.seconds(3600)
    return Self(fence: hour, pageReturn: hour, errand: hour, inquiry: hour, turn: hour)
  }()
}

/// A device, and on the other sides of it a driver with real queues in real memory, a screen and a log.
final class Rig {
  /// What is behind `/dev/udmabuf` for a test.
  enum Udmabuf {
    case missing(Errno)
    case real
  }

  static let outputs = [
    SinkOutput(
      name: "A",
      modes: [
        DisplayMode.reducedBlanking(width: 1024, height: 768)!,
        DisplayMode.reducedBlanking(width: 800, height: 600)!,
      ]), SinkOutput(name: "B", modes: [DisplayMode.reducedBlanking(width: 640, height: 480)!]),
  ]

  let loop: EventLoop
  let ram: GuestRAM
  let log = LogBook()
  let screen: Screen!
  let card: KMSSink?
  let lender: Lender
  let device: GPUDevice
  let control: DriverQueue
  let cursor: DriverQueue
  /// How often each queue's driver was told that something is completed.
  private(set) var notified = [0, 0]
  private var nextQueue: [VirtQueue?] = [nil, nil]
  /// The queues are enabled.
  var mayWork = true

  init(
    _ udmabuf: Udmabuf = .missing(.noSuchFileOrDirectory), ram: GuestRAM? = nil, quotas: Quotas = Quotas(),
    outputs: [SinkOutput] = Rig.outputs, sink: Bool = true,
    card: KMSCard? = nil, backing: BackingChoice = .lent, cursor cursorChoice: CursorChoice = .auto,
    profile: Profile = .display, features: UInt64? = nil, queueSize: UInt16 = 64, eventIndex: Bool = true,
    patience: GPUDevice.Patience = .endless
  ) throws {
    loop = try EventLoop()
    self.ram = try ram ?? GuestRAM.likeQEMU()
    let table: Result<UdmabufDevice, Errno> =
      switch udmabuf {
      case .missing(let errno): .failure(errno)
      case .real: .success(try UdmabufDevice())
      }
    lender = Lender(device: table, account: GuestAccount(quotas))
    let (loop, logger) = (loop, log.logger)
    self.card = try card.map { try KMSSink($0, udmabuf: try? table.get(), loop: loop, log: logger) }
    screen = sink && card == nil ? try Screen(outputs, loop) : nil
    device = try GPUDevice(
      lender: lender, sink: self.card ?? screen, outputs: self.card?.outputs ?? outputs,
      backing: backing, cursor: cursorChoice, profile: profile, loop: loop, logger: log.logger,
      advice: { if case .quota(let quota) = $0 { "raise \(quota.rawValue)" } else { nil } })
    device.patience = patience
    device.mistakes.interval = GPUDevice.Patience.endless.pageReturn
    device.featuresChanged(features ?? device.features)
    control = DriverQueue(self.ram, size: queueSize, eventIndex: eventIndex)
    cursor = DriverQueue(self.ram, size: 16, eventIndex: eventIndex)
    try start(0, control, fresh: true)
    try start(1, cursor, fresh: true)
  }

  /// The device starts a queue where its driver stands.
  func start(_ index: Int, _ queue: DriverQueue, fresh: Bool) throws {
    let device = try VirtQueue(
      size: queue.size, rings: queue.rings, memory: ram.memory, eventIndex: queue.eventIndex,
      start: queue.seenUsed)
    nextQueue[index] = device
    self.device.start(
      GPUQueue(queue: device, mayWork: { [unowned self] in mayWork }) { [unowned self] in
        if device.shouldNotify() { notified[index] += 1 }
      },
      index: index, fresh: fresh)
  }

  /// The device's side of a queue.
  func deviceQueue(_ index: Int) -> VirtQueue { nextQueue[index]! }

  // MARK: Commands

  /// Sends a command and lets the device look at its queue, but not at its clock.
  @discardableResult
  func post(_ request: [UInt8], room: Int = 2048, pieces: Int = 1, answerPieces: Int = 1) -> UInt16 {
    let head = control.send(request, pieces: pieces, answer: room, answerPieces: answerPieces)
    device.kicked(0)
    return head
  }

  /// The next answer that has come already.
  func answer(_ queue: DriverQueue? = nil) -> Answer? {
    guard let (head, written, bytes) = (queue ?? control).receive() else { return nil }
    return Answer(head: head, written: written, bytes: bytes)
  }

  /// A command that is answered at once.
  @discardableResult
  func ask(
    _ request: [UInt8], room: Int = 2048, pieces: Int = 1, answerPieces: Int = 1,
    _ location: SourceLocation = #_sourceLocation
  ) throws -> Answer {
    let head = post(request, room: room, pieces: pieces, answerPieces: answerPieces)
    let received = try #require(answer(), "no answer", sourceLocation: location)
    try #require(received.head == head, "another command was answered", sourceLocation: location)
    return received
  }

  func askCursor(
    _ request: [UInt8], room: Int = 24, _ location: SourceLocation = #_sourceLocation
  ) throws -> Answer {
    let head = cursor.send(request, answer: room)
    device.kicked(1)
    let received = try #require(answer(cursor), "no answer", sourceLocation: location)
    try #require(received.head == head, sourceLocation: location)
    return received
  }

  /// Commands that all succeed at once.
  func ok(_ requests: [UInt8]..., location: SourceLocation = #_sourceLocation) throws {
    for request in requests {
      let answer = try ask(request, location)
      #expect(
        answer.type == ResponseType.ok, "command \(hex(request.value(at: 0) as UInt32))",
        sourceLocation: location)
    }
  }

  // MARK: Memory

  /// Pages of guest memory in descending order, so that no two join.
  func pages(_ count: Int) -> [(address: UInt64, length: UInt32)] {
    (0..<count).map { _ in (ram.allocate(Int(systemPageSize)), UInt32(systemPageSize)) }
      .sorted { $0.address > $1.address }
  }

  /// A resource of 64x48 pixels, which are three pages, with as many pages behind it.
  @discardableResult
  func lend(
    _ id: UInt32, location: SourceLocation = #_sourceLocation
  ) throws -> [(address: UInt64, length: UInt32)] {
    let pages = pages(3)
    try ok(Request.create(id), Request.attach(id, pages), location: location)
    return pages
  }

  /// The same as a blob, whose flushes a screen paces.
  @discardableResult
  func lendBlob(
    _ id: UInt32, location: SourceLocation = #_sourceLocation
  ) throws -> [(address: UInt64, length: UInt32)] {
    let pages = pages(3)
    try ok(Request.createBlob(id, size: 3 * systemPageSize, pages), location: location)
    return pages
  }

  // MARK: Time

  /// Turns the loop until something is so, of which events of the loop tell.
  func turn(_ location: SourceLocation = #_sourceLocation, until done: () -> Bool) throws {
    try loop.turn(until: "what \(location) waits for", isToldOf: true, done)
  }

  /// Handles what there is to do without waiting.
  func settle() throws {
    while try loop.turn(waiting: .zero) > 0 {}
  }

  // MARK: What must not change

  /// All that a command can change, but for the count of mistakes.
  struct State: Equatable, CustomStringConvertible {
    var resources: [UInt32: String]
    var scanouts: [String]
    var statistics: Statistics
    var screen: [Int]

    var description: String { "\(resources) \(scanouts) \(statistics) \(screen)" }
  }

  var state: State {
    var statistics = self.statistics
    statistics.protocolErrors = [:]
    return State(
      resources: Dictionary(
        uniqueKeysWithValues: device.resources.values.map {
          ($0.id.rawValue, "\($0.form) \($0.buffer?.entries ?? 0) \($0.frames.map(\.id))")
        }),
      scanouts: device.scanouts.all.map {
        "\($0.binding.map { "\($0.resource.id) \($0.view)" } ?? "-") \($0.last?.id ?? 0) \($0.sequence)"
      },
      statistics: statistics,
      screen: screen == nil ? [] : [screen.events.count, screen.presentCount, screen.forgotten.count])
  }

  var statistics: Statistics { device.statistics }

  var errors: [String: UInt64] { statistics.protocolErrors }

  /// What became of the flushes adds up, and everything was reported.
  func expectBalance(_ location: SourceLocation = #_sourceLocation) throws {
    screen.flipAll()
    try settle()
    let all = statistics
    #expect(
      all.framesShown + all.framesCoalesced + all.framesFailed == all.flushes, "\(all)",
      sourceLocation: location)
    #expect(screen.isQuiet, sourceLocation: location)
  }
}
