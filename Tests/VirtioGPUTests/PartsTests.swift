import Buffers
import Fixtures
import Guest
import Linux
import Pictures
import Scanout
import SystemPackage
import Testing
import Virtio

@testable import VirtioGPU

/// The parts of the device, each without the others.
@Suite struct PartsTests {
  // MARK: CommandQueue

  /// Answers as it is told to, and notes what it was asked.
  private final class Handler: CommandHandler {
    var isBusy = false
    var isTurnOver = false
    var outcomes: [Outcome] = []
    private(set) var names: [String] = []
    private(set) var wakes = 0
    private(set) var timers = 0

    func execute(
      _ command: Command, _ header: ControlHeader, of queue: CommandQueue, _ reader: inout ChainReader,
      _ decoder: inout CommandDecoder
    ) throws(VirtQueueError) -> Outcome {
      names.append(command.name)
      return outcomes.isEmpty ? .now(.ok) : outcomes.removeFirst()
    }

    func beginTurn() {}
    func wake() { wakes += 1 }
    func armTimer() { timers += 1 }
  }

  private final class Bench {
    let handler = Handler()
    let log = LogBook()
    let driver: DriverQueue
    let queue: CommandQueue

    init(_ kind: CommandQueue.Kind = .control) throws {
      let ram = try GuestRAM.likeQEMU()
      driver = DriverQueue(ram)
      queue = CommandQueue(kind, MistakeLog(log.logger), patience: .endless)
      let ring = try VirtQueue(
        size: driver.size, rings: driver.rings, memory: ram.memory, eventIndex: driver.eventIndex,
        start: driver.seenUsed)
      queue.start(GPUQueue(queue: ring) {})
    }

    func send(_ request: [UInt8]) { driver.send(request, answer: 64) }
    func process() { queue.process(for: handler) }
    var answered: Bool { driver.receive() != nil }
  }

  @Test("a queue executes commands in their order, and asks for no later turn or timer")
  func commandsInOrder() throws {
    let bench = try Bench()
    bench.send(Request.displayInfo())
    bench.send(Request.flush(1))
    bench.process()
    #expect(bench.handler.names == ["GET_DISPLAY_INFO", "RESOURCE_FLUSH"])
    #expect(bench.answered && bench.answered && !bench.answered)
    #expect(bench.queue.isEmpty && bench.queue.deadline == nil && !bench.queue.hasMore)
    #expect(bench.handler.wakes == 0 && bench.handler.timers == 0)
  }

  @Test("a turn that is over leaves its commands to a later one")
  func turnsEnd() throws {
    let bench = try Bench()
    bench.handler.isTurnOver = true
    for _ in 0..<3 { bench.send(Request.displayInfo()) }
    bench.process()
    #expect(bench.handler.names.count == 1 && bench.queue.hasMore && bench.handler.wakes == 1)
    bench.handler.isTurnOver = false
    bench.process()
    #expect(bench.handler.names.count == 3 && !bench.queue.hasMore)
  }

  @Test(
    "the control queue waits for work that is under way, and the cursor's does not", arguments: [true, false])
  func workUnderWay(_ isControl: Bool) throws {
    let bench = try Bench(isControl ? .control : .cursor)
    bench.handler.isBusy = true
    bench.send(isControl ? Request.displayInfo() : Request.moveCursor(0, 1, x: 0, y: 0))
    bench.process()
    #expect(bench.handler.names.isEmpty == isControl && bench.queue.hasMore == isControl)
  }

  @Test("an answer waits for the presentations that its flush made, and each of them is needed")
  func answersWaitForFlips() throws {
    let bench = try Bench()
    let screens = [ScanoutID(0), ScanoutID(1)]
    bench.handler.outcomes = [.atFlip(screens.map { Flip(scanout: $0, sequence: 7) })]
    bench.send(Request.flush(1, fence: 5))
    bench.process()
    #expect(!bench.queue.isEmpty && bench.handler.timers == 1 && bench.queue.deadline != nil)
    for (screen, sequence, isAnswered) in [(0, 6, false), (0, 7, false), (1, 6, false), (1, 8, true)] {
      #expect(bench.queue.reached(UInt64(sequence), on: screens[screen]))
      bench.queue.settle()
      #expect(bench.answered == isAnswered, "screen \(screen) at \(sequence)")
    }
    #expect(bench.queue.isEmpty)
  }

  @Test("an answer whose time is over goes out, and its owner learns which scanout was silent")
  func answersHaveTheirTime() throws {
    let bench = try Bench()
    let flip = Flip(scanout: ScanoutID(3), sequence: 1)
    bench.handler.outcomes = [.atFlip([flip])]
    bench.send(Request.flush(1, fence: 5))
    bench.process()
    var silent: [ScanoutID] = []
    bench.queue.expire(.now) { silent += $0.flips.map(\.scanout) }
    #expect(silent.isEmpty)
    bench.queue.expire(.never) { silent += $0.flips.map(\.scanout) }
    bench.queue.settle()
    #expect(silent == [flip.scanout] && bench.answered)
  }

  // MARK: The others

  @Test("a context is made once, within the limit, and is gone when it is destroyed")
  func contexts() throws {
    var contexts = RenderContexts(limit: 2)
    try contexts.create(5)
    try contexts.create(6)
    for (id, kind) in [(0, MistakeKind.context), (5, .context), (7, .quota)] as [(UInt32, MistakeKind)] {
      let mistake = try #require(throws: Mistake.self) { try contexts.create(id) }
      #expect(mistake.kind == kind && contexts.ids == [5, 6])
    }
    try contexts.submit(to: 5, bytes: 0)
    #expect(throws: Mistake.self) { try contexts.submit(to: 5, bytes: 1) }
    try contexts.destroy(5)
    #expect(throws: Mistake.self) { try contexts.check(5) }
  }

  @Test("a resource counts against its guest's account from its making to its end, and not if it is not made")
  func resources() throws {
    var quotas = Quotas()
    quotas.resources = 1
    let account = GuestAccount(quotas)
    let table = ResourceTable(account)
    #expect(throws: Mistake.self) {
      try table.add(ResourceID(1)) { () throws(Mistake) in throw Mistake(.unspecified, .size, "none") }
    }
    #expect(account.resources == 0 && table.isEmpty)
    try table.add(ResourceID(1)) { Resource(id: ResourceID(1), blob: 4096) }
    #expect(throws: Mistake.self) { try table.add(ResourceID(2)) { Resource(id: ResourceID(2), blob: 4096) } }
    #expect(account.resources == 1 && table.count == 1)
    table.remove(ResourceID(2))
    #expect(account.resources == 1)
    table.remove(ResourceID(1))
    #expect(account.resources == 0)
  }

  @Test("pages that somebody shows come back when nobody does any more, or when their time is over")
  func pageReturns() throws {
    let (log, lender) = (LogBook(), Lender(device: .failure(.noSuchFileOrDirectory)))
    var (wakes, forgotten): (Int, [UInt64]) = (0, [])
    let returns = PageReturns(
      lender, MistakeLog(log.logger), try EventLoop(), patience: .seconds(60)
    ) { wakes += 1 }
    returns.forget = { forgotten.append($0.id) }
    let ram = try GuestRAM.likeQEMU()
    let page = ram.allocate(Int(systemPageSize))
    func buffer() throws -> Buffer {
      try lender.take(
        [GuestRange(address: GuestAddress(page), length: systemPageSize)], of: ram.memory,
        length: systemPageSize, as: .shadow)
    }
    let canvas = try MemfdShadow.canvas(width: 8, height: 8, format: .xrgb8888)
    let frames = (1...2).map { Frame(id: UInt64($0), memory: .shadow(canvas.memory), layout: canvas.layout) }
    #expect(
      try returns.begin(buffer(), [frames[0]], of: nil, isReset: false) == nil,
      "nobody shows it")
    for frame in frames { frame.acquire() }
    #expect(try returns.begin(buffer(), [frames[0]], of: nil, isReset: false) != nil)
    #expect(try returns.begin(buffer(), [frames[1]], of: nil, isReset: false) != nil)
    #expect(forgotten == [1] && !returns.sweep() && returns.deadline != nil)
    frames[0].release()
    #expect(wakes == 1 && returns.sweep() && forgotten == [1, 1])
    returns.cutOff(.now)
    #expect(forgotten == [1, 1], "its time is not over")
    returns.cutOff(.never)
    var statistics = Statistics()
    returns.report(into: &statistics)
    #expect(forgotten == [1, 1, 2] && returns.deadline == nil && statistics.releasedLate == 1)
  }

  @Test("a store of 3 MiB is filled in three turns, and its bytes are counted once")
  func longWork() throws {
    let size = 3 << 20
    func memory() throws -> Mapping {
      try Memfd.create(name: "work", size: UInt64(size)).withDescriptor {
        try Mapping($0, offset: 0, length: size, writable: true)
      }
    }
    let (from, to) = (try memory(), try memory())
    let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 / 4096) }
    unsafe from.store(bytes.span.bytes, at: 0)
    var work = LongWork()
    work.beginTurn(.nanoseconds(0))
    let store = PixelStore(to, ShadowCause(.detached, ""))
    var turns = 1
    if !work.store(StoreCopy(all: PixelStore(from, store.cause).bytes, store)) {
      #expect(work.isBusy && work.isStoring && work.isKeeping)
      while work.isBusy {
        turns += 1
        #expect(work.proceed() || work.isBusy)
      }
    }
    #expect(turns == 3, "a band of 1 MiB in each turn")
    #expect(work.bytesCopied == UInt64(size) && to.bytes(at: 0, count: size) == bytes)
  }
}
