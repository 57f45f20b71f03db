import Fixtures
import Linux
import Testing
import VhostUser
import Virtio

@Suite struct RingStateTests {
  @Test func looksAtWhatIsThereAtTheStart() throws {
    let setup = try Setup()
    try setup.frontEnd.realize(memory: .table)
    setup.queues[0].send([1, 2], answer: 2)
    setup.queues[0].send([3, 4], answer: 2)
    try setup.frontEnd.start(setup.queues)
    try setup.link.settle()
    #expect(setup.queues[0].receive()?.bytes == [2, 1])
    #expect(setup.queues[0].receive()?.bytes == [4, 3])
    let called = setup.frontEnd.called(0)
    #expect(called)
  }

  @Test func waitsUntilARingIsEnabled() throws {
    let setup = try Setup()
    let frontEnd = setup.frontEnd
    try frontEnd.realize(memory: .table)
    try frontEnd.send(FrontEnd.setFeatures, frontEnd.offeredFeatures.bytes)
    frontEnd.kick(0)
    try frontEnd.sendMemory(setup.ram)
    try frontEnd.setUp(0, setup.queues[0], base: 0)
    setup.queues[0].send([1, 2], answer: 2)
    frontEnd.kick(0)
    try setup.link.settle()
    #expect(setup.device.kicks == [0, 0])
    #expect(setup.queues[0].receive() == nil)
    try frontEnd.enable(0, true)
    try setup.link.settle()
    #expect(setup.queues[0].receive()?.bytes == [2, 1])
    #expect(setup.device.kicks[1] == 0)
  }

  @Test func restsWhileARingIsDisabled() throws {
    let setup = try Setup.running()
    try setup.frontEnd.enable(0, false)
    #expect(try setup.echo() == nil)
    #expect(try setup.echo(on: 1) == [3, 2, 1])
    try setup.frontEnd.enable(0, true)
    try setup.link.settle()
    let called = setup.frontEnd.called(0)
    #expect(called)
    #expect(setup.queues[0].receive()?.bytes == [3, 2, 1])
    #expect(setup.device.takeEvents() == [], "it is the same run")
  }

  @Test(arguments: FrontEnd.MemoryStyle.allCases) func stopsAndResumes(_ style: FrontEnd.MemoryStyle) throws {
    let setup = try Setup.running(style)
    for _ in 0..<3 { #expect(try setup.echo() == [3, 2, 1]) }
    #expect(try setup.frontEnd.stop() == [3, 0])
    #expect(setup.device.takeEvents() == [.stopping(0), .stopping(1)])
    // The guest goes on for a moment.
    setup.queues[0].send([7, 8], answer: 2)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    #expect(setup.queues[0].receive() == nil)

    try setup.frontEnd.start(setup.queues)
    try setup.link.settle()
    let events = setup.device.takeEvents()
    #expect(events.contains(.started(0, fresh: false, at: 3)))
    // Regions in slots are not sent again, and still there.
    #expect(events.contains(.memory(regions: 1)) == (style == .table))
    #expect(setup.queues[0].receive()?.bytes == [8, 7])
    #expect(try setup.frontEnd.stop() == [4, 0])
  }

  @Test func startsAnewForANewDriver() throws {
    let setup = try Setup.running(.slots)
    for _ in 0..<3 { #expect(try setup.echo() == [3, 2, 1]) }
    #expect(try setup.frontEnd.stop() == [3, 0])
    setup.queues = [64, 16].map { DriverQueue(setup.ram, size: $0) }
    try setup.frontEnd.start(setup.queues)
    #expect(try setup.echo() == [3, 2, 1])
    #expect(setup.device.takeEvents().contains(.started(0, fresh: true, at: 0)))
  }

  /// An index that has come around to 0 looks like a new driver's, but is not.
  @Test func resumesAtIndexZero() throws {
    let setup = try Setup.running(start: 65530)
    for _ in 0..<6 { #expect(try setup.echo() == [3, 2, 1]) }
    #expect(try setup.frontEnd.stop() == [0, 65530])
    try setup.frontEnd.start(setup.queues)
    try setup.link.settle()
    #expect(setup.device.takeEvents().contains(.started(0, fresh: false, at: 0)))
    #expect(try setup.echo() == [3, 2, 1])
    // Here is a new one.
    #expect(try setup.frontEnd.stop()[0] == 1)
    setup.queues = [64, 16].map { DriverQueue(setup.ram, size: $0) }
    try setup.frontEnd.start(setup.queues)
    try setup.link.settle()
    #expect(setup.device.takeEvents().contains(.started(0, fresh: true, at: 0)))
  }

  @Test func answersForARingThatNeverRan() throws {
    let setup = try Setup()
    try setup.frontEnd.realize(memory: .table)
    try setup.frontEnd.send(FrontEnd.setVringBase, UInt32(1).bytes + UInt32(77).bytes)
    #expect(try setup.frontEnd.stop() == [0, 77])
    #expect(setup.device.takeEvents() == [])
  }

  @Test func waitsForWhatTheDeviceHasTaken() throws {
    let setup = try Setup.running()
    setup.device.holds = true
    setup.queues[0].send([1, 2], answer: 2)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    // An acknowledgement that is asked for must not take the place of the answer.
    try setup.frontEnd.send(FrontEnd.getVringBase, UInt32(0).bytes + UInt32(0).bytes, flags: 9)
    try setup.frontEnd.send(FrontEnd.getQueueNum)
    // What comes now is for the next run.
    setup.queues[0].send([3, 4], answer: 2)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    #expect(setup.device.takeEvents() == [.stopping(0)])
    #expect(!setup.frontEnd.hasInput, "neither this answer nor the next one")
    // The other ring runs on.
    setup.queues[1].send([5, 6], answer: 2)
    setup.frontEnd.kick(1)
    try setup.link.settle()
    #expect(setup.device.kicks[1] == 2)

    setup.device.release()
    #expect(setup.frontEnd.hasInput)
    let base = try setup.frontEnd.reply(to: FrontEnd.getVringBase)
    #expect(base == UInt32(0).bytes + UInt32(1).bytes)
    #expect(try setup.frontEnd.reply(to: FrontEnd.getQueueNum) == UInt64(2).bytes)
    #expect(setup.queues[0].receive()?.bytes == [2, 1])
    #expect(setup.queues[0].receive() == nil)
    #expect(setup.queues[1].receive()?.bytes == [6, 5])
  }

  @Test func endsWhenTheFrontEndLeavesDuringAStop() throws {
    let setup = try Setup.running()
    setup.device.holds = true
    setup.queues[0].send([1, 2], answer: 2)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    try setup.frontEnd.send(FrontEnd.getVringBase, UInt32(0).bytes + UInt32(0).bytes)
    try setup.link.settle()
    setup.link.hangUp()
    try setup.link.settle()
    #expect(setup.error == .cutOff(while: "while queue 0 was stopping"))
    setup.device.release()
    try setup.link.settle()
    #expect(setup.link.endCount == 1)
  }

  @Test func stopsEverythingForAReset() throws {
    let setup = try Setup.running(.slots)
    setup.device.holds = true
    setup.queues[0].send([1, 2], answer: 2)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    try setup.frontEnd.tell(FrontEnd.resetDevice)
    #expect(setup.device.takeEvents() == [.reset])
    let kicks = setup.device.kicks
    setup.frontEnd.kick(0)
    setup.frontEnd.kick(1)
    try setup.link.settle()
    #expect(setup.device.kicks == kicks)
    setup.device.holds = false
    setup.queues = [64, 16].map { DriverQueue(setup.ram, size: $0) }
    try setup.frontEnd.start(setup.queues)
    #expect(try setup.echo() == [3, 2, 1])
    #expect(setup.device.takeEvents().contains(.started(0, fresh: true, at: 0)))
  }

  @Test func ignoresResetOwner() throws {
    let setup = try Setup.running()
    try setup.frontEnd.tell(FrontEnd.resetOwner)
    #expect(try setup.echo() == [3, 2, 1])
  }

  @Test func takesOtherLinesWhileItRuns() throws {
    let setup = try Setup.running()
    let (kick, call) = (try FrontEnd.Line(), try FrontEnd.Line())
    try setup.frontEnd.sendLine(FrontEnd.setVringKick, 0, kick)
    try setup.frontEnd.sendLine(FrontEnd.setVringCall, 0, call)
    try setup.link.settle()
    setup.queues[0].send([1, 2], answer: 2)
    kick.event.signal()
    try setup.link.settle()
    let (new, old) = (call.event.drain(), setup.frontEnd.called(0))
    #expect(new && !old)
    #expect(setup.queues[0].receive()?.bytes == [2, 1])
    // No call descriptor at all: the driver looks by itself.
    try setup.frontEnd.send(FrontEnd.setVringCall, UInt64(0x100).bytes)
    setup.queues[0].send([1, 2], answer: 2)
    kick.event.signal()
    try setup.link.settle()
    #expect(setup.queues[0].receive()?.bytes == [2, 1])
  }

  @Test func reportsABrokenRing() throws {
    let setup = try Setup.running()
    setup.queues[0].makeAvailable(64)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    #expect(setup.device.chainErrors == [.headOutOfRange(64, size: 64)])
    let failed = (setup.frontEnd.failed(0), setup.frontEnd.failed(1))
    #expect(failed == (true, false))
    #expect(try setup.echo(on: 1) == [3, 2, 1])
    #expect(setup.link.end == nil, "the driver's mistake is not the front end's")
  }
}
