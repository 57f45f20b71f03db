import Buffers
import Fixtures
import Guest
import Linux
import Testing

@testable import VirtioGPU

/// The queues' life, as far as no memory is lent.
@Suite struct LifeTests {
  @Test("six hundred commands of one kick are answered in order, in several turns", arguments: [true, false])
  func manyCommandsInOneKick(
    _ eventIndex: Bool
  ) throws {
    let rig = try Rig(queueSize: 1024, eventIndex: eventIndex)
    let heads = (1...600).map { rig.control.send(Request.create($0), answer: 24) }
    rig.device.kicked(0)
    var answers: [UInt16] = []
    while let answer = rig.answer() { answers.append(answer.head) }
    #expect(!answers.isEmpty && answers.count < 600, "others have their turn in between")
    try rig.settle()
    while let answer = rig.answer() { answers.append(answer.head) }
    #expect(answers == heads && rig.device.resources.count == 600)
    _ = rig.control.wantsKick()
    rig.control.send(Request.displayInfo(), answer: 408)
    #expect(rig.control.wantsKick(), "the driver is asked to kick for what comes next")
  }

  @Test("the driver is called once for a batch of answers") func oneCallForABatch() throws {
    let rig = try Rig()
    #expect(rig.answer() == nil)  // The driver waits to be called.
    for id in 1...10 { rig.control.send(Request.create(UInt32(id)), answer: 24) }
    rig.device.kicked(0)
    #expect(rig.notified == [1, 0])
    rig.device.kicked(0)
    #expect(rig.notified == [1, 0])
  }

  @Test("a stopped queue takes no commands until it starts again") func stopTakesNothingMore() throws {
    let rig = try Rig()
    try rig.ok(Request.create(1))
    var finished = 0
    rig.device.stop(0) { finished += 1 }
    #expect(finished == 1)
    rig.post(Request.create(2))
    try rig.settle()
    #expect(rig.answer() == nil && rig.device.resources.count == 1)
    // The cursor queue goes on until it is stopped too.
    #expect(try rig.askCursor(Request.moveCursor(0)).type == ResponseType.ok)
    rig.device.stop(1) { finished += 1 }
    rig.device.stop(1) { finished += 1 }
    rig.device.stop(0) { finished += 1 }
    #expect(finished == 4)
    rig.cursor.send(Request.moveCursor(0), answer: 24)
    rig.device.kicked(1)
    #expect(rig.answer(rig.cursor) == nil)
    // At the old index it is a resume: nothing is lost, and what was sent meanwhile is taken.
    try rig.start(0, rig.control, fresh: false)
    rig.device.kicked(0)
    #expect(rig.answer()?.type == ResponseType.ok && rig.device.resources.count == 2)
  }

  /// A queue that was left off, for the sake of others, may be disabled before its turn comes again.
  @Test("a queue that is disabled between two turns takes no commands until it is enabled")
  func aQueueThatMayNotWork() throws {
    let rig = try Rig(queueSize: 1024)
    for id in 1...600 { rig.control.send(Request.create(UInt32(id), 1, 1), answer: 24) }
    rig.device.kicked(0)
    let count = rig.device.resources.count
    try #require(count > 0 && count < 600, "it was left off")
    rig.mayWork = false
    try rig.settle()
    rig.device.kicked(0)
    #expect(rig.device.resources.count == count)
    rig.mayWork = true
    rig.device.kicked(0)
    try rig.settle()
    #expect(rig.device.resources.count == 600)
  }

  @Test("a fresh control queue drops the old driver's resources") func aFreshControlQueueDropsAll() throws {
    let rig = try Rig(
      quotas: {
        var quotas = Quotas()
        quotas.resources = 2
        return quotas
      }())
    for _ in 0..<3 {
      try rig.ok(Request.create(1), Request.create(2))
      rig.device.stop(0) {}
      try rig.start(0, rig.control, fresh: true)
      #expect(rig.device.resources.isEmpty && rig.statistics.liveResources == 0)
    }
  }

  @Test("a fresh cursor queue drops no resources") func aFreshCursorQueueDropsNothing() throws {
    let rig = try Rig()
    try rig.ok(Request.create(1))
    rig.device.stop(1) {}
    try rig.start(1, DriverQueue(rig.ram, size: 16), fresh: true)
    #expect(rig.device.resources.count == 1)
  }

  @Test("a reset drops the resources, and no queue runs until the driver starts it") func resetDropsAll()
    throws
  {
    let rig = try Rig()
    try rig.ok(Request.create(1))
    rig.device.reset()
    #expect(rig.device.resources.isEmpty && rig.statistics.liveResources == 0)
    rig.post(Request.create(2))
    try rig.settle()
    #expect(rig.answer() == nil, "no queue runs after a reset")
    try rig.start(0, rig.control, fresh: true)
    rig.device.kicked(0)
    #expect(rig.answer()?.type == ResponseType.ok)
  }

  @Test("a kick of a queue that does not run is no mistake") func kicksOfAQueueThatDoesNotRun() throws {
    let rig = try Rig()
    rig.device.reset()
    rig.device.kicked(0)
    rig.device.kicked(1)
    #expect(rig.errors.isEmpty)
  }

  @Test("a device without a sink executes commands") func withoutASink() throws {
    let rig = try Rig(sink: false)
    try rig.ok(Request.create(1), Request.flush(1), Request.setScanout(0, 0), Request.unref(1))
    #expect(rig.statistics == Statistics())
  }

  // MARK: Quotas that need no dma-buf

  @Test("a resource beyond the quota is refused, until another one goes") func resourceQuota() throws {
    var quotas = Quotas()
    quotas.resources = 3
    let rig = try Rig(quotas: quotas)
    try rig.ok(Request.create(1), Request.create(2), Request.create(3))
    let state = rig.state
    #expect(try rig.ask(Request.create(4)).type == ResponseType.outOfMemory)
    #expect(rig.state == state && rig.errors == ["quota": 1])
    #expect(rig.log.warnings.count == 1 && rig.log.warnings[0].contains("; raise resources"))
    #expect(rig.log.warnings[0].contains("quota of 3 resources"))
    try rig.ok(Request.unref(2), Request.create(4))
  }

  @Test("a list with more entries than the quota is refused") func entryQuota() throws {
    var quotas = Quotas()
    quotas.entries = 2
    let rig = try Rig(quotas: quotas)
    try rig.ok(Request.create(1))
    #expect(try rig.ask(Request.attach(1, rig.pages(3))).type == ResponseType.outOfMemory)
    #expect(rig.errors == ["quota": 1] && rig.log.warnings[0].contains("; raise entries"))
    // Two are admitted, and fail for another reason.
    #expect(try rig.ask(Request.attach(1, rig.pages(2))).type == ResponseType.invalidParameter)
    #expect(rig.errors == ["quota": 1, "shortBacking": 1])
  }

  @Test("a list beyond the quota of pinned bytes is refused, and the log says what to raise")
  func pinnedQuota() throws {
    var quotas = Quotas()
    quotas.pinnedBytes = 3 * systemPageSize - 1
    let rig = try Rig(quotas: quotas)
    try rig.ok(Request.create(1))
    #expect(try rig.ask(Request.attach(1, rig.pages(3))).type == ResponseType.outOfMemory)
    #expect(rig.errors == ["quota": 1] && rig.log.warnings[0].contains("; raise pinnedBytes"))
  }

  @Test("resources beyond the quota of bookkeeping are refused, until one goes") func bookkeepingQuota()
    throws
  {
    var quotas = Quotas()
    quotas.bookkeepingBytes = 3000
    let rig = try Rig(quotas: quotas)
    // Whatever a resource costs: some fit, and not without bound.
    var count: UInt32 = 0
    while count < 3000, try rig.ask(Request.create(count + 1)).type == ResponseType.ok { count += 1 }
    #expect((1..<3000).contains(count))
    #expect(rig.errors == ["quota": 1] && rig.log.warnings[0].contains("; raise bookkeepingBytes"))
    try rig.ok(Request.unref(1), Request.create(1))
  }
}
