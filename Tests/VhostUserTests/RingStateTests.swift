import Fixtures
import Guest
import Linux
import Testing
import VhostUser
import Virtio

@Suite struct RingStateTests {
  @Test("chains that are there at the start are taken") func looksAtWhatIsThereAtTheStart() throws {
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

  @Test("a ring waits until it is enabled") func waitsUntilARingIsEnabled() throws {
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

  @Test("a disabled ring rests") func restsWhileARingIsDisabled() throws {
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

  @Test("a ring stops, and resumes where it stopped", arguments: FrontEnd.MemoryStyle.allCases)
  func stopsAndResumes(_ style: FrontEnd.MemoryStyle) throws {
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
    #expect(setup.memory.regions.count == 1)
    #expect(setup.queues[0].receive()?.bytes == [8, 7])
    #expect(try setup.frontEnd.stop() == [4, 0])
  }

  @Test("a ring starts anew for a new driver") func startsAnewForANewDriver() throws {
    let setup = try Setup.running(.slots)
    for _ in 0..<3 { #expect(try setup.echo() == [3, 2, 1]) }
    #expect(try setup.frontEnd.stop() == [3, 0])
    setup.queues = [64, 16].map { DriverQueue(setup.ram, size: $0) }
    try setup.frontEnd.start(setup.queues)
    #expect(try setup.echo() == [3, 2, 1])
    #expect(setup.device.takeEvents().contains(.started(0, fresh: true, at: 0)))
  }

  /// An index that has come around to 0 looks like a new driver's, but is not.
  @Test("a ring whose index has come around to 0 resumes") func resumesAtIndexZero() throws {
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

  @Test("a ring that never ran stops at the index that was set") func answersForARingThatNeverRan() throws {
    let setup = try Setup()
    try setup.frontEnd.realize(memory: .table)
    try setup.frontEnd.send(FrontEnd.setVringBase, UInt32(1).bytes + UInt32(77).bytes)
    #expect(try setup.frontEnd.stop() == [0, 77])
    #expect(setup.device.takeEvents() == [])
  }

  @Test("a stop waits for the chains that the device has taken") func waitsForWhatTheDeviceHasTaken() throws {
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

  @Test("a front end that leaves during a stop ends the session") func endsWhenTheFrontEndLeavesDuringAStop()
    throws
  {
    let setup = try Setup.running()
    setup.device.holds = true
    setup.queues[0].send([1, 2], answer: 2)
    setup.frontEnd.kick(0)
    try setup.link.settle()
    try setup.frontEnd.send(FrontEnd.getVringBase, UInt32(0).bytes + UInt32(0).bytes)
    try setup.link.settle()
    setup.link.hangUp()
    try setup.link.settle()
    #expect(setup.error == .closed(while: "while queue 0 was stopping"))
    setup.device.release()
    try setup.link.settle()
    #expect(setup.link.endCount == 1)
  }

  @Test("a reset stops all rings") func stopsEverythingForAReset() throws {
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

  /// How front ends stop a device for its next driver.
  enum Order: CaseIterable, Sendable {
    case asked, askedAlone, disabledAndAsked, disabledAskedAndDisowned, disabled,
      disabledAndSetUpFromTheStart, reset
  }

  @Test(
    "the next driver is served, however the front end stopped the last one", arguments: Order.allCases,
    [false, true])
  func servesTheNextDriver(_ order: Order, whileSomethingIsUnanswered: Bool) throws {
    let setup = try Setup.running()
    let frontEnd = setup.frontEnd
    for _ in 0..<3 { #expect(try setup.echo() == [3, 2, 1]) }
    // What has to be answered first would have to be waited for.
    let holds =
      whileSomethingIsUnanswered && [.disabled, .disabledAndSetUpFromTheStart, .reset].contains(order)
    let old = setup.queues[0]
    if holds {
      setup.device.holds = true
      old.send([7], answer: 1)
      frontEnd.kick(0)
      try setup.link.settle()
    }
    _ = setup.device.takeEvents()
    switch order {
    case .asked: #expect(try frontEnd.stop() == [3, 0])
    case .askedAlone: #expect(try (0..<2).map(frontEnd.base) == [3, 0])
    case .disabledAndAsked, .disabledAskedAndDisowned:
      for index in 0..<2 { try frontEnd.enable(index, false) }
      #expect(try (0..<2).map(frontEnd.base) == [3, 0])
      if order == .disabledAskedAndDisowned { try frontEnd.tell(FrontEnd.resetOwner) }
    case .disabled, .disabledAndSetUpFromTheStart:
      for index in 0..<2 { try frontEnd.enable(index, false) }
      if order == .disabledAndSetUpFromTheStart { try frontEnd.send(FrontEnd.setOwner) }
    case .reset: try frontEnd.tell(FrontEnd.resetDevice)
    }
    setup.queues = [64, 16].map { DriverQueue(setup.ram, size: $0) }
    try frontEnd.start(setup.queues)
    setup.device.release()
    try setup.link.settle()
    setup.device.holds = false
    #expect(old.receive() == nil, "the old driver's memory may be the next one's")
    let events = setup.device.takeEvents()
    #expect(
      events.contains(.started(0, fresh: true, at: 0)) && events.contains(.started(1, fresh: true, at: 0)))
    #expect(events.contains(.dropped(0)) == [.disabled, .disabledAndSetUpFromTheStart].contains(order))
    #expect(try setup.echo() == [3, 2, 1])
    #expect(setup.link.end == nil)
  }

  /// As when firmware has had the device before.
  @Test("disabled rings can be set up anew, with other features") func takesOtherFeaturesForDisabledRings()
    throws
  {
    let setup = try Setup.running()
    #expect(try setup.echo() == [3, 2, 1])
    for index in 0..<2 { try setup.frontEnd.enable(index, false) }
    _ = setup.device.takeEvents()
    setup.queues = [64, 16].map { DriverQueue(setup.ram, size: $0, eventIndex: false) }
    try setup.frontEnd.start(setup.queues)
    try setup.link.settle()
    #expect(setup.device.takeEvents().prefix(2) == [.dropped(0), .dropped(1)])
    #expect(try setup.echo() == [3, 2, 1])
  }

  /// QEMU's dirty log, which it starts and ends while the rings run.
  @Test("the rings run on while QEMU logs writes", arguments: [false, true]) func worksOnWhileTheFrontEndLogs(
    _ acknowledged: Bool
  ) throws {
    let setup = try Setup()
    let frontEnd = setup.frontEnd
    try frontEnd.realize(memory: .table, replyAck: acknowledged)
    try frontEnd.start(setup.queues)
    try setup.link.settle()
    let features = frontEnd.offeredFeatures | frontEnd.extraFeatures
    let kinds: [(isLogged: Bool, features: UInt64)] = [(true, features | 1 << 26), (false, features)]
    for (isLogged, features) in kinds {
      if isLogged {
        let log = try Memfd.create(name: "log", size: 4096)
        try frontEnd.send(FrontEnd.setLogBase, UInt64(4096).bytes + UInt64(0).bytes)
        try frontEnd.send(FrontEnd.setLogDescriptor, descriptors: [log.number])
      }
      _ = setup.device.takeEvents()
      try frontEnd.tell(FrontEnd.setFeatures, features.bytes)
      for (index, queue) in setup.queues.enumerated() {
        var addresses = FrontEnd.addresses(index, queue)
        addresses[4] = isLogged ? 1 : 0
        try frontEnd.tell(FrontEnd.setVringAddress, addresses)
      }
      #expect(try setup.echo() == [3, 2, 1])
      #expect(try setup.echo(on: 1) == [3, 2, 1])
      // It is the same run, and the log is not the device's business.
      #expect(
        setup.device.takeEvents() == [
          .features(frontEnd.offeredFeatures & ~(1 << 30))
        ])
    }
    #expect(setup.link.end == nil)
  }

  @Test("rings go on after RESET_OWNER") func ignoresResetOwner() throws {
    let setup = try Setup.running()
    try setup.frontEnd.tell(FrontEnd.resetOwner)
    #expect(try setup.echo() == [3, 2, 1])
  }

  @Test("a running ring may get other kick and call descriptors, or none for calls")
  func takesOtherLinesWhileItRuns() throws {
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

  @Test("a broken ring is reported to the front end") func reportsABrokenRing() throws {
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
