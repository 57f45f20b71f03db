import Buffers
import Fixtures
import Linux
import Scanout
import SystemPackage
import Testing

@testable import VirtioGPU

/// Screens that are plugged in and out while the guest runs.
@Suite struct OutputTests {
  private static let configChange: UInt32 = 2
  private static let unplugged = SinkOutput(name: "B", modes: [])

  private static func output(_ name: String, _ sizes: (UInt32, UInt32)...) -> SinkOutput {
    SinkOutput(
      name: name, modes: sizes.map { DisplayMode.reducedBlanking(width: $0.0, height: $0.1)! })
  }

  /// `struct virtio_gpu_display_one` of a scanout: x, y, width, height, enabled.
  private func display(_ scanout: Int, _ answer: Answer) -> [UInt32] {
    (0..<5).map { answer.bytes.value(at: 24 + 24 * scanout + 4 * $0) }
  }

  @Test("the guest learns of a changed screen by the event, the display info and the EDID")
  func theGuestIsTold() throws {
    let machine = try Machine(.slots, udmabuf: .failure(.noSuchFileOrDirectory))
    #expect(try machine.frontEnd.config(size: 16) == Request.words([0, 0, 2, 0]))
    #expect(try machine.channel.next() == [])

    // The second screen is pulled.
    machine.screen.outputs[1] = Self.unplugged
    machine.device.scanouts.outputsChanged()
    #expect(try machine.channel.next() == [.init(Self.configChange)])
    #expect(try machine.frontEnd.config(size: 16) == Request.words([1, 0, 2, 0]))
    var info = try machine.ask(Request.displayInfo())
    #expect(display(0, info) == [0, 0, 1024, 768, 1])
    #expect(display(1, info) == [0, 0, 0, 0, 0])
    #expect(try machine.ask(Request.edid(1)).bytes.value(at: 24) == UInt32(0), "it has no EDID")
    #expect(try machine.ask(Request.setScanout(1, 0)).type == ResponseType.ok, "it keeps its number")

    // The driver clears the event, as QEMU passes that on: the whole space.
    try machine.frontEnd.writeConfig(Request.words([1, 1, 2, 0]))
    #expect(try machine.frontEnd.config(size: 16) == Request.words([0, 0, 2, 0]))

    // A larger one takes its place.
    machine.screen.outputs[1] = Self.output("B", (1920, 1080), (640, 480))
    machine.device.scanouts.outputsChanged()
    #expect(try machine.channel.next() == [.init(Self.configChange)])
    #expect(try machine.frontEnd.config(size: 4) == [1, 0, 0, 0])
    info = try machine.ask(Request.displayInfo())
    #expect(display(1, info) == [1024, 0, 1920, 1080, 1])
    let edid = try machine.ask(Request.edid(1)).bytes
    #expect(edid.value(at: 24) == UInt32(128) && edid[32 + 54 + 2] == 0x80)

    // A second change before the driver has cleared the event is told too.
    machine.screen.outputs[0] = SinkOutput(name: "A", modes: [])
    machine.device.scanouts.outputsChanged()
    #expect(try machine.channel.next() == [.init(Self.configChange)])
    info = try machine.ask(Request.displayInfo())
    #expect(display(0, info) == [0, 0, 0, 0, 0] && display(1, info) == [0, 0, 1920, 1080, 1])
    #expect(machine.device.statistics.protocolErrors.isEmpty && machine.link.end == nil)
  }

  @Test("if no screen has changed, the guest is told nothing") func nothingIsSaidOfNoChange() throws {
    let machine = try Machine(.slots, udmabuf: .failure(.noSuchFileOrDirectory))
    machine.device.scanouts.outputsChanged()
    #expect(try machine.channel.next() == [] && machine.device.configSpace.eventsRead == 0)
  }

  @Test("without a channel the event is in the configuration space") func withoutAChannelTheEventIsThere()
    throws
  {
    let machine = try Machine(.slots, udmabuf: .failure(.noSuchFileOrDirectory), hasChannel: false)
    machine.screen.outputs[1] = Self.unplugged
    machine.device.scanouts.outputsChanged()
    #expect(try machine.channel.next() == [])
    #expect(try machine.frontEnd.config(size: 4) == [1, 0, 0, 0])
    #expect(machine.device.statistics.protocolErrors.isEmpty)
  }

  /// The count is the driver's from its start on.
  @Test(
    "the number of scanouts never changes, whatever screens there are",
    arguments: [
      [], [output("A", (800, 600))], Rig.outputs + [output("C", (800, 600))], [unplugged, unplugged],
    ])
  func theCountStays(_ outputs: [SinkOutput]) throws {
    let rig = try Rig()
    rig.screen.outputs = outputs
    rig.device.scanouts.outputsChanged()
    #expect(rig.device.config(offset: 8, size: 4) == [2, 0, 0, 0])
    let info = try rig.ask(Request.displayInfo())
    for scanout in 0..<16 {
      let isEnabled = scanout < 2 && scanout < outputs.count && !outputs[scanout].modes.isEmpty
      #expect(display(scanout, info)[4] == (isEnabled ? 1 : 0))
    }
    #expect(try rig.ask(Request.setScanout(1, 0)).type == ResponseType.ok)
    #expect(try rig.ask(Request.setScanout(2, 0)).type == ResponseType.invalidScanout)
  }

  /// What is written where, and what is left of events_read, all bits of which are set before.
  @Test(
    "only events_clear can be written, and clears its bits in events_read",
    arguments: [
      (0, Request.words([0, 1, 0, 0]), 0xffff_fffe), (4, Request.words([1]), 0xffff_fffe),
      (4, [1], 0xffff_fffe), (4, [0, 0, 0, 0x80], 0x7fff_ffff), (7, [0x80], 0x7fff_ffff),
      (2, [0xff, 0xff, 2], 0xffff_fffd), (7, [0xff, 0xff, 0xff], 0x00ff_ffff),
      (0, Request.words([0xffff_ffff]), 0xffff_ffff), (8, Request.words([1, 1]), 0xffff_ffff),
      (4, Request.words([0xffff_ffff]), 0), (4, [], 0xffff_ffff),
      (0xffff_fffc, [1, 1, 1, 1, 1, 1, 1, 1, 1], 0xffff_ffff),
    ] as [(UInt32, [UInt8], UInt32)])
  func eventsAreCleared(_ offset: UInt32, _ bytes: [UInt8], _ left: UInt32) {
    var space = ConfigSpace(scanoutCount: 2)
    space.raise(0xffff_ffff)
    space.write(offset: offset, bytes)
    #expect(space.read(offset: 0, size: 16) == Request.words([left, 0, 2, 0]))
  }

  @Test("a reset clears the events") func aResetClearsEvents() throws {
    let rig = try Rig()
    rig.screen.outputs[1] = Self.unplugged
    rig.device.scanouts.outputsChanged()
    #expect(rig.device.configSpace.eventsRead == ConfigSpace.displayEvent)
    rig.device.reset()
    #expect(rig.device.configSpace.eventsRead == 0)
  }

  /// A guest that hears nothing of a change, or has not reacted yet, is still seen.
  @Test("a picture comes back with its screen, unless the new screen refuses it") func whatIsShownComesBack()
    throws
  {
    let rig = try Rig(backing: .auto)
    let whole = Rectangle(0, 0, 64, 48)
    try rig.ok(
      Request.create(1), Request.attach(1, rig.pages(3)), Request.setScanout(0, 1), Request.setScanout(1, 1),
      Request.flush(1))
    rig.screen.flipAll()
    let (prepared, shown) = (rig.screen.prepareCount, rig.screen.events.count)
    #expect(prepared == 2 && shown == 2)

    let screen = rig.screen.outputs[1]
    rig.screen.outputs[1].modes = []
    rig.device.scanouts.outputsChanged()
    #expect(
      rig.screen.prepareCount == prepared && rig.screen.events.count == shown, "there is nobody to show it")

    rig.screen.outputs[1] = screen
    rig.device.scanouts.outputsChanged()
    #expect(rig.screen.prepareCount == prepared + 1, "the new screen is asked")
    let frame = try #require(rig.screen.next(1))
    #expect(
      rig.screen.events.dropFirst(shown) == [
        .shows(frame: frame.id, source: whole, damage: whole, scanout: 1)
      ])
    rig.screen.flipAll()

    // One that refuses it stays dark until the guest chooses something else.
    rig.screen.outputs[1].name = "another"
    rig.screen.refusal = SinkError(.disconnected, "gone again")
    rig.device.scanouts.outputsChanged()
    #expect(rig.screen.next(1) === nil && rig.errors == ["disconnected": 1])
    rig.screen.refusal = nil
    try rig.ok(Request.setScanout(0, 0), Request.setScanout(1, 0), Request.unref(1))
    try rig.expectBalance()
    #expect(rig.statistics.flushes == 2 && rig.statistics.shadowBytes == 0)
  }

  /// With nothing on it, a screen that comes shows nothing.
  @Test("an empty scanout shows nothing on a new screen") func nothingIsShownUnasked() throws {
    let rig = try Rig(backing: .auto)
    try rig.ok(Request.create(1), Request.attach(1, rig.pages(3)), Request.setScanout(1, 1))
    rig.screen.outputs[1].name = "another"
    rig.device.scanouts.outputsChanged()
    #expect(rig.screen.events.isEmpty)
    try rig.ok(Request.flush(1))
    #expect(rig.screen.events.count == 1)
    try rig.expectBalance()
  }

  // MARK: A screen that somebody else knows

  /// The guest's question waits for whoever shows the frames, and the loop for nobody.
  @Test("GET_DISPLAY_INFO and GET_EDID wait for the sink, and other commands do not") func theScreenIsAsked()
    throws
  {
    let rig = try Rig()
    rig.screen.inquirers = []
    let (info, edid) = (rig.post(Request.displayInfo()), rig.post(Request.edid(1)))
    #expect(rig.answer() == nil)
    // Other commands do not wait.
    try rig.ok(Request.create(1))

    rig.screen.outputs[0] = Self.output("A", (1280, 800))
    rig.device.scanouts.outputsChanged()
    for finished in rig.screen.inquirers ?? [] { finished() }
    try rig.settle()
    var answer = try #require(rig.answer())
    #expect(answer.head == info && answer.type == ResponseType.displayInfo)
    #expect(display(0, answer) == [0, 0, 1280, 800, 1] && display(1, answer) == [1280, 0, 640, 480, 1])

    let bytes = [UInt8](repeating: 7, count: 1024)
    let (scanout, finished) = try #require(rig.screen.edidInquirers.first)
    #expect(scanout == ScanoutID(1))
    finished(bytes)
    try rig.settle()
    answer = try #require(rig.answer())
    #expect(answer.head == edid && answer.type == ResponseType.edid)
    #expect(answer.bytes.value(at: 24) == UInt32(1024) && Array(answer.bytes[32...]) == bytes)
  }

  /// One that it has none for, or no answer to, gets what we make of the outputs.
  @Test("if the sink has no answer, the guest gets the device's own", arguments: [false, true])
  func theScreenMayNotAnswer(isAnswered: Bool) throws {
    let rig = try Rig(patience: isAnswered ? .endless : GPUDevice.Patience())
    let own = try rig.ask(Request.edid(1)).bytes
    let ownInfo = try rig.ask(Request.displayInfo()).bytes
    rig.screen.inquirers = []
    rig.post(Request.edid(1))
    rig.post(Request.displayInfo())
    let start = Instant.now
    if isAnswered {
      rig.screen.edidInquirers[0].1(nil)
      rig.screen.inquirers?[0]()
    }
    var answers: [[UInt8]] = []
    try rig.turn {
      while let answer = rig.answer() { answers.append(answer.bytes) }
      return answers.count == 2
    }
    #expect(answers == [own, ownInfo])
    if isAnswered { return }
    #expect(Instant.now - start >= rig.device.patience.inquiry)
    // It is not waited for a second time.
    #expect(try rig.ask(Request.edid(1)).bytes == own && rig.ask(Request.displayInfo()).bytes == ownInfo)
    // An answer that comes late is nobody's, but whoever gave it is waited for again.
    rig.screen.edidInquirers[0].1([1])
    rig.screen.inquirers?[0]()
    try rig.settle()
    #expect(rig.answer() == nil)
    rig.post(Request.displayInfo())
    #expect(rig.answer() == nil)
    rig.screen.inquirers?.last?()
    try rig.settle()
    #expect(rig.answer()?.bytes == ownInfo)
  }

  @Test("after a reset nobody gets the sink's answer to an old question") func aResetForgetsWhatWasAsked()
    throws
  {
    let rig = try Rig()
    rig.screen.inquirers = []
    rig.post(Request.displayInfo())
    rig.device.reset()
    for finished in rig.screen.inquirers ?? [] { finished() }
    try rig.settle()
    #expect(rig.answer() == nil)
  }

  /// Frames that nobody looks at are not shown, and cost nothing.
  @Test("a flush that nobody looks at presents nothing") func nobodyLooks() throws {
    let rig = try Rig(backing: .auto)
    rig.screen.isAttended = false
    try rig.ok(
      Request.create(1), Request.attach(1, rig.pages(3)), Request.setScanout(0, 1), Request.flush(1))
    #expect(rig.screen.prepareCount == 0 && rig.screen.presentCount == 0)
    #expect(rig.statistics.flushes == 0 && rig.statistics.shadows.isEmpty)
    rig.screen.isAttended = true
    try rig.ok(Request.setScanout(0, 1), Request.flush(1))
    #expect(rig.screen.presentCount == 1)
  }

  /// Whoever looked goes away while a buffer is shown and another one is chosen: the first can be given up, and the second
  /// is seen as soon as somebody looks again.
  @Test(
    "a shown buffer can be given up after its viewer has gone, and the next viewer sees the new one",
    arguments: [true, false]) func nobodyLooksAnyMore(isFlushed: Bool) throws
  {
    let rig = try Rig(backing: .auto)
    try rig.ok(
      Request.create(1), Request.attach(1, rig.pages(3)), Request.create(2), Request.attach(2, rig.pages(3)),
      Request.setScanout(0, 1), Request.flush(1))
    rig.screen.flipAll()
    rig.screen.isAttended = false
    try rig.ok(Request.flush(1), Request.setScanout(0, 2))
    if isFlushed { try rig.ok(Request.flush(2)) }
    let head = rig.post(Request.unref(1))
    rig.screen.flipAll()
    try rig.settle()
    #expect(rig.answer()?.head == head)
    let count = rig.screen.presentCount
    rig.screen.isAttended = true
    try rig.ok(Request.flush(2))
    #expect(rig.screen.presentCount == count + 1, "without another SET_SCANOUT")
    try rig.expectBalance()
  }

  /// No screen, or another master of the card: that is no mistake of the guest's, which would not choose the buffer again.
  @Test(
    "while a screen is away commands succeed, and the picture comes with the screen",
    arguments: [SinkError.Refusal.noOutput, .disconnected, .busy], [true, false])
  func theScreenIsAway(_ refusal: SinkError.Refusal, comesBack: Bool) throws {
    let rig = try Rig(backing: .auto)
    try rig.ok(
      Request.create(1), Request.attach(1, rig.pages(3)), Request.create(2), Request.attach(2, rig.pages(3)),
      Request.setScanout(0, 1), Request.flush(1))
    rig.screen.flipAll()
    let first = try #require(rig.screen.shown())
    rig.screen.refusal = SinkError(refusal, "it is away")
    try rig.ok(Request.setScanout(0, 2), Request.flush(2))
    #expect(rig.screen.shown() === first && rig.screen.presentCount == 1)
    #expect(rig.errors[refusal.rawValue] == 2 && rig.log.warnings.count == 1)
    #expect(rig.log.warnings[0].contains("scanout 0") && rig.log.warnings[0].contains("it is away"))

    rig.screen.refusal = nil
    if comesBack {
      rig.screen.outputs[0].name = "again"
      rig.device.scanouts.outputsChanged()
    } else {
      try rig.ok(Request.flush(2))
    }
    rig.screen.flipAll()
    #expect(rig.screen.presentCount == 2 && rig.screen.shown() !== first)
    try rig.expectBalance()
  }

  /// Of more scanouts than the guest is told of, the front end may know better.
  @Test("the configuration space can have fewer scanouts than there are outputs") func theCountThatIsTold()
    throws
  {
    let loop = try EventLoop()
    let device = try GPUDevice(
      lender: Lender(device: .failure(.noSuchFileOrDirectory)), sink: nil,
      outputs: Rig.outputs, scanoutCount: 1, loop: loop, logger: LogBook().logger)
    #expect(device.config(offset: 8, size: 4) == [1, 0, 0, 0])
  }
}
