import Buffers
import Fixtures
import Linux
import Scanout
import TestSupport
import Testing

@testable import VirtioGPU

/// A command whose work is too much for one turn of the loop. Here no turn has time for more than it must do: one
/// command, and one MiB of a copy.
@Suite struct TurnTests {
  /// Pictures of 1024x1024 pixels have four such parts.
  static let side: UInt32 = 1024
  static let band = 1 << 20
  static let parts = 4
  static let area = Rectangle(0, 0, side, side)

  private func rig(_ backing: BackingChoice = .auto, outputs: [SinkOutput] = Rig.outputs) throws -> Rig {
    let rig = try Rig(outputs: outputs, backing: backing)
    rig.device.patience.turn = .nanoseconds(0)
    return rig
  }

  /// The guest's memory behind a picture, all of it the same pages of 64 KiB.
  private func pages(_ rig: Rig, _ pixel: UInt32) -> [(address: UInt64, length: UInt32)] {
    let start = rig.ram.allocate(64 << 10)
    fill(rig, start, pixel)
    return (0..<64).map { _ in (start, 64 << 10) }
  }

  private func fill(_ rig: Rig, _ start: UInt64, _ pixel: UInt32) {
    rig.ram.write([UInt8]((0..<16 << 10).flatMap { _ in pixel.bytes }), at: start)
  }

  /// A picture of one colour, on a scanout, but not flushed.
  @discardableResult
  private func picture(
    _ rig: Rig, _ id: UInt32, _ pixel: UInt32, scanout: UInt32? = 0
  ) throws -> UInt64 {
    let pages = pages(rig, pixel)
    try rig.ok(Request.create(id, Self.side, Self.side), Request.attach(id, pages))
    if let scanout { try rig.ok(Request.setScanout(scanout, id, Self.area)) }
    return pages[0].address
  }

  /// The colours of the rows of what is on the screen, or on its way there, from above.
  private func colours(_ frame: Frame?) throws -> [UInt32] {
    let frame = try #require(frame)
    guard case .shadow(let memory) = frame.memory else { return [] }
    return (0..<Int(frame.layout.height)).map {
      memory.mapping.load(UInt32.self, at: $0 * Int(frame.layout.stride))
    }
  }

  private var rowsPerBand: Int { Self.band / Int(Self.side) / 4 }

  /// Sends commands without a look at the queue.
  @discardableResult
  private func send(_ rig: Rig, _ requests: [UInt8]...) -> [UInt16] {
    requests.map { rig.control.send($0, answer: 2048) }
  }

  @Test("a long copy goes on in later turns") func whatTakesLongGoesOnInLaterTurns() throws {
    let rig = try rig()
    try picture(rig, 1, 7)
    // Something else that always has something to do.
    let other = try EventFD()
    var turns = 0
    let token = try rig.loop.add(other.fd) { _ in turns += 1 }
    defer { rig.loop.remove(token, other.fd) }
    other.signal()

    rig.post(Request.flush(1, Self.area))
    for part in 1...Self.parts {
      #expect(rig.statistics.bytesCopied == UInt64(part * Self.band))
      guard part < Self.parts else { break }
      #expect(rig.answer() == nil && rig.screen.presentCount == 0, "part \(part)")
      try rig.loop.turn(waiting: .zero)
    }
    #expect(turns == Self.parts - 1, "it has a turn after each part")
    #expect(rig.answer()?.type == ResponseType.ok && rig.screen.presentCount == 1)
    rig.screen.flip()
    #expect(try colours(rig.screen.shown()).allSatisfy { $0 == 7 })
    try rig.loop.turn(waiting: .zero)
    #expect(rig.statistics.bytesCopied == UInt64(Self.parts * Self.band), "and then no more")
  }

  /// What fits into a turn is done with the command, as ever.
  @Test("a short copy is done at once") func whatIsShortIsDoneAtOnce() throws {
    let rig = try rig()
    try picture(rig, 1, 7)
    rig.post(Request.flush(1, Self.area))
    try rig.settle()
    while rig.answer() != nil {}
    let before = rig.screen.presentCount
    try rig.ok(Request.flush(1, Rectangle(0, 0, Self.side, UInt32(rowsPerBand))))
    #expect(rig.screen.presentCount == before + 1)
  }

  /// Commands behind it on its queue wait; those on the other one do not.
  @Test("the commands of a queue keep their order during a long copy") func theOrderOfAQueueStays() throws {
    let rig = try rig()
    let start = try picture(rig, 1, 7)
    let heads = send(rig, Request.flush(1, Self.area), Request.create(2), Request.unref(1))
    rig.device.kicked(0)
    rig.device.kicked(0)
    try rig.loop.turn(waiting: .zero)
    #expect(rig.device.resources.count == 1 && rig.answer() == nil)
    #expect(try rig.askCursor(Request.moveCursor(0)).type == ResponseType.ok)
    try rig.turn { rig.screen.presentCount == 1 }
    #expect(rig.device.resources[ResourceID(1)] != nil, "the pages are not asked for before all is copied")
    var answers: [Answer] = []
    try rig.turn {
      while let answer = rig.answer() { answers.append(answer) }
      return answers.count == 3
    }
    #expect(answers.map(\.type) == [ResponseType.ok, ResponseType.ok, ResponseType.ok])
    #expect(answers.map(\.head) == heads)
    fill(rig, start, 9)
    #expect(try colours(rig.screen.next()).allSatisfy { $0 == 7 })
    try rig.expectBalance()
  }

  @Test("a fence waits for the copy and the flip") func aFenceWaitsForCopyAndFlip() throws {
    let rig = try rig()
    let entries = pages(rig, 7)
    try rig.ok(
      Request.createBlob(1, size: UInt64(Self.parts * Self.band), entries),
      Request.setScanoutBlob(0, 1, Self.side, Self.side))
    rig.post(Request.flush(1, Self.area, fence: 5))
    try rig.turn { rig.screen.presentCount == 1 }
    #expect(rig.answer() == nil)
    rig.screen.flip()
    #expect(rig.answer()?.fence == 5)
    try rig.expectBalance()
  }

  /// One flush of what two screens show has two copies to make.
  @Test("one flush makes the copies of two screens") func twoScreens() throws {
    let rig = try rig()
    try picture(rig, 1, 7)
    try rig.ok(Request.setScanout(1, 1, Self.area))
    rig.post(Request.flush(1, Self.area))
    try rig.turn { rig.answer() != nil }
    #expect(rig.screen.presentCount == 2)
    #expect(rig.statistics.bytesCopied == UInt64(2 * Self.parts * Self.band))
    try rig.expectBalance()
    for scanout: UInt32 in 0...1 {
      #expect(try colours(rig.screen.shown(scanout)).allSatisfy { $0 == 7 })
    }
  }

  // MARK: What comes in between

  /// The cursor is where it was moved to last when the picture comes.
  @Test("the cursor is at its last place when the copy is complete") func theCursorMovesMeanwhile() throws {
    let rig = try rig()
    try picture(rig, 1, 7)
    let image = rig.ram.allocate(64 * 64 * 4)
    rig.ram.write([UInt8](repeating: 0xff, count: 64 * 64 * 4), at: image)
    try rig.ok(
      Request.create(2, format: 1, 64, 64), Request.attach(2, [(image, 64 * 64 * 4)]),
      Request.transfer(2, Rectangle(0, 0, 64, 64)))
    #expect(try rig.askCursor(Request.updateCursor(0, 2, x: 0, y: 0)).type == ResponseType.ok)
    rig.post(Request.flush(1, Self.area))
    for place: Int32 in [100, 200, 300] {
      #expect(try rig.askCursor(Request.moveCursor(0, x: 0, y: place)).type == ResponseType.ok)
    }
    #expect(rig.screen.presentCount == 0)
    try rig.turn { rig.answer() != nil }
    #expect(rig.screen.presentCount == 1)
    try rig.expectBalance()
    let rows = try colours(rig.screen.shown())
    #expect(rows.indices.filter { rows[$0] != 7 } == Array(300..<364))
    #expect(rig.statistics.flushes == 1 && rig.statistics.framesShown == 1)
  }

  /// A cursor alone can make a copy necessary, and it waits for nothing.
  @Test("a cursor can bring a long copy, and later commands wait for it") func aCursorBringsALongCopy() throws
  {
    let rig = try rig()
    try picture(rig, 1, 7)
    rig.post(Request.flush(1, Self.area))
    try rig.turn { rig.answer() != nil }
    rig.screen.flipAll()
    try picture(rig, 3, 9)
    let image = rig.ram.allocate(64 * 64 * 4)
    try rig.ok(
      Request.create(2, format: 1, 64, 64), Request.attach(2, [(image, 64 * 64 * 4)]))
    // It comes with the new picture, all of it.
    #expect(try rig.askCursor(Request.updateCursor(0, 2)).type == ResponseType.ok)
    #expect(rig.screen.presentCount == 1)
    rig.post(Request.create(4))
    #expect(rig.answer() == nil, "whatever takes pages back waits until nobody reads them")
    try rig.turn { rig.answer() != nil }
    #expect(rig.screen.presentCount == 2)
    try rig.expectBalance()
    #expect(try colours(rig.screen.shown()).allSatisfy { $0 == 9 })
  }

  /// A copy was needed for the cursor alone, which is hidden before it is complete: the pages themselves take its place.
  @Test("a cursor that is hidden during its copy brings the pages themselves back", .testHost)
  func theCursorIsHiddenMeanwhile() throws {
    var outputs = Rig.outputs
    outputs[0].hasCursor = false
    let rig = try Rig(.real, outputs: outputs, backing: .auto)
    rig.device.patience.turn = .nanoseconds(0)
    let length = UInt32(Self.parts * Self.band)
    let image = rig.ram.allocate(64 * 64 * 4)
    try rig.ok(
      Request.create(1, Self.side, Self.side), Request.attach(1, [(rig.ram.allocate(Int(length)), length)]),
      Request.create(2, format: 1, 64, 64), Request.attach(2, [(image, 64 * 64 * 4)]),
      Request.setScanout(0, 1, Self.area))
    #expect(try rig.askCursor(Request.updateCursor(0, 2)).type == ResponseType.ok)
    rig.post(Request.flush(1, Self.area, fence: 5))
    #expect(rig.device.isBusy && rig.answer() == nil, "a cursor that came before the first flush is drawn")
    #expect(try rig.askCursor(Request.updateCursor(0, 0)).type == ResponseType.ok)
    try rig.turn { rig.answer()?.fence == 5 }
    rig.screen.flipAll()
    try rig.settle()
    #expect(rig.screen.shown()?.dmabuf != nil && !rig.device.isBusy)
    try rig.expectBalance()
  }

  /// The screen changes, and what was copied for the old one is of no use.
  @Test("a copy for a screen that changed is made anew") func anotherScreenComesMeanwhile() throws {
    let rig = try rig()
    try picture(rig, 1, 7)
    rig.post(Request.flush(1, Self.area))
    try rig.loop.turn(waiting: .zero)
    rig.screen.outputs[0].name = "another"
    rig.device.scanouts.outputsChanged()
    try rig.turn { rig.answer() != nil }
    #expect(rig.screen.presentCount == 1 && rig.screen.allocateCount == 2)
    let all = rig.statistics
    #expect(all.flushes == 1 && all.framesCoalesced == 1)
    rig.screen.flipAll()
    try rig.settle()
    #expect(try colours(rig.screen.shown()).allSatisfy { $0 == 7 })
    #expect(rig.statistics.shadowBytes == UInt64(Self.parts * Self.band))
  }

  // MARK: What ends it

  /// GET_VRING_BASE waits for nothing: the flush is answered, and the next one copies what is missing.
  @Test("a stop ends a long copy, and shows what was copied") func stopEndsIt() throws {
    let rig = try rig()
    try picture(rig, 1, 7)
    send(rig, Request.flush(1, Self.area), Request.create(2))
    rig.device.kicked(0)
    try rig.loop.turn(waiting: .zero)
    var finished = false
    rig.device.stop(0) { finished = true }
    #expect(finished && rig.answer()?.type == ResponseType.ok && rig.answer() == nil)
    try rig.settle()
    rig.screen.flip()
    let rows = try colours(rig.screen.shown())
    #expect(rows.count { $0 == 7 } == 2 * rowsPerBand, "what there was of it is shown")

    try rig.start(0, rig.control, fresh: false)
    send(rig, Request.flush(1, Rectangle(0, 0, 1, 1)))
    rig.device.kicked(0)
    var answered = 0
    try rig.turn {
      while rig.answer() != nil { answered += 1 }
      return answered == 2
    }
    try rig.expectBalance()
    #expect(try colours(rig.screen.shown()).allSatisfy { $0 == 7 })
  }

  @Test("a reset or a new driver ends a long copy", arguments: [true, false]) func resetAndANewDriverEndIt(
    _ isReset: Bool
  ) throws {
    let rig = try rig()
    try picture(rig, 1, 7)
    rig.post(Request.flush(1, Self.area))
    if isReset { rig.device.reset() } else { rig.device.stop(0) {} }
    let control = DriverQueue(rig.ram)
    try rig.start(0, control, fresh: true)
    #expect((rig.answer() == nil) == isReset)
    rig.screen.flipAll()
    try rig.settle()
    #expect(rig.screen.shown() == nil && rig.device.resources.isEmpty && !rig.device.isBusy)
    let all = rig.statistics
    #expect(all.shadowBytes == 0 && all.liveResources == 0)
    #expect(all.bytesCopied == UInt64(Self.band))
    control.send(Request.displayInfo(), answer: 408)
    rig.device.kicked(0)
    #expect(rig.answer(control)?.type == ResponseType.displayInfo)
    try rig.expectBalance()
  }

  // MARK: Stores

  /// A transfer from one row below its own place: the image moves into a store, and the part after it.
  private var oddArea: Rectangle { Rectangle(0, 0, Self.side, Self.side - 1) }
  private var oddTransfer: [UInt8] { Request.transfer(1, oddArea, offset: UInt64(Self.side) * 4) }

  @Test("a long transfer into a store goes on in later turns") func aTransferIntoAStore() throws {
    let rig = try rig()
    let start = try picture(rig, 1, 7)
    send(rig, oddTransfer, Request.flush(1, Self.area))
    rig.device.kicked(0)
    #expect(rig.answer() == nil && rig.statistics.bytesCopied == UInt64(Self.band))
    try rig.turn { rig.answer() != nil }
    // All of it, and all but one row of it.
    let stored = 2 * Self.parts * Self.band - Int(Self.side) * 4
    #expect(rig.statistics.bytesCopied >= UInt64(stored))
    // It has been transferred: what the guest draws now is not seen.
    fill(rig, start, 9)
    try rig.turn { rig.answer() != nil }
    rig.screen.flipAll()
    #expect(try colours(rig.screen.shown()).allSatisfy { $0 == 7 })
    try rig.expectBalance()
  }

  /// A transfer that was answered by a stop arrives all the same, before any other command.
  @Test("a transfer that a stop has answered arrives before any other command") func aTransferOverAStop()
    throws
  {
    let rig = try rig()
    try picture(rig, 1, 7)
    rig.post(oddTransfer)
    var finished = false
    rig.device.stop(0) { finished = true }
    #expect(finished && rig.answer()?.type == ResponseType.ok)
    try rig.start(0, rig.control, fresh: false)
    rig.post(Request.flush(1, Self.area))
    try rig.turn { rig.answer() != nil }
    rig.screen.flipAll()
    #expect(try colours(rig.screen.shown()).allSatisfy { $0 == 7 })
  }

  /// A detach copies all of a resource before its pages go back, whatever comes in between.
  @Test("a stop waits for the copy of a detach") func aStopWaitsForADetach() throws {
    let rig = try rig()
    let start = try picture(rig, 1, 7)
    try rig.ok(Request.transfer(1, Self.area))
    rig.post(Request.detach(1))
    #expect(rig.answer() == nil && rig.device.isBusy)
    var answer: Answer?
    var finished = false
    rig.device.stop(0) {
      finished = true
      answer = rig.answer()
    }
    #expect(!finished && rig.answer() == nil)
    // A cursor can bring more copies: it waits, too.
    rig.cursor.send(Request.moveCursor(0), answer: 24)
    rig.device.kicked(1)
    #expect(rig.answer(rig.cursor) == nil)
    try rig.turn { finished }
    try rig.turn { rig.answer(rig.cursor) != nil }
    #expect(answer?.type == ResponseType.ok, "the answer comes before the end of the stop")
    fill(rig, start, 9)
    try rig.start(0, rig.control, fresh: false)
    rig.post(Request.flush(1, Self.area))
    try rig.turn { rig.answer() != nil }
    rig.screen.flipAll()
    #expect(try colours(rig.screen.shown()).allSatisfy { $0 == 7 })
  }

  @Test("a reset ends a long transfer") func resetEndsATransfer() throws {
    let rig = try rig()
    try picture(rig, 1, 7)
    rig.post(oddTransfer)
    rig.device.reset()
    try rig.settle()
    #expect(!rig.device.isBusy && rig.statistics.shadowBytes == 0)
    #expect(rig.statistics.bytesCopied == UInt64(Self.band))
  }

  // MARK: Memory that goes back

  /// The memory of a huge copy takes the kernel a while, too: what asks for more waits until it is back.
  @Test("commands wait until all parts of a huge copy's memory have gone back") func aHugeCopyGoesInParts()
    throws
  {
    let rig = try rig()
    let (width, height) = (UInt32(4096), UInt32(1536))  // 24 MiB
    let entries = (0..<384).map { _ in (address: UInt64(0x10_0000), length: UInt32(64 << 10)) }
    let area = Rectangle(0, 0, width, height)
    try rig.ok(
      Request.create(1, width, height), Request.attach(1, entries), Request.setScanout(0, 1, area))
    rig.post(Request.flush(1, area))
    try rig.turn { rig.answer() != nil }
    rig.screen.flip()
    try rig.ok(Request.unref(1))
    rig.screen.flip()
    try rig.loop.turn(waiting: .zero)
    #expect(rig.device.isBusy && rig.statistics.shadowBytes == 0)
    rig.post(Request.displayInfo())
    #expect(rig.answer() == nil)
    try rig.turn { rig.answer() != nil }
    #expect(!rig.device.isBusy)
    try rig.expectBalance()
  }

  /// So do many small ones that go together.
  @Test("the memory of many copies goes back in parts") func manyCopiesGoInParts() throws {
    let rig = try rig()
    // 4 MiB each: the first two go at once.
    for id: UInt32 in 1...5 {
      try picture(rig, id, id)
      rig.post(Request.flush(id, Self.area))
      try rig.turn { rig.answer() != nil }
      rig.screen.flipAll()
      try rig.settle()
    }
    try rig.ok(Request.setScanout(0, 0))
    rig.screen.flipAll()
    try rig.settle()
    rig.device.beginTurn()
    rig.device.dropAll()
    #expect(rig.device.scanouts.work.spent.count == 3 && rig.statistics.shadowBytes == 0)
    try rig.settle()
    #expect(!rig.device.isBusy)
  }

  /// What stands in it is not seen again, wherever somebody still has it mapped.
  @Test("memory that goes back is empty") func memoryThatGoesBackIsEmpty() throws {
    let canvas = try MemfdShadow.canvas(width: 4096, height: 1536, format: .xrgb8888)
    let mapping = canvas.memory.mapping
    for offset in [0, 9 << 20, mapping.length - 4] { mapping.store(UInt32(5), at: offset) }
    var spent = SpentMemory(mapping)
    var parts = 1
    while !spent.giveBack() { parts += 1 }
    #expect(parts == 3)
    for offset in [0, 9 << 20, mapping.length - 4] { #expect(mapping.load(UInt32.self, at: offset) == 0) }
  }

  // MARK: Lent pages

  /// DETACH of what is shown copies it first: the pages go back when all of it is copied and shown.
  @Test("a detach of a shown picture waits for its copy", .testHost) func detachWaitsForItsCopy() throws {
    let rig = try Rig(.real, backing: .auto)
    rig.device.patience.turn = .nanoseconds(0)
    let start = rig.ram.allocate(Self.parts * Self.band)
    // One pixel of each row is enough.
    let draw = { (pixel: UInt32) in
      for row in 0..<UInt64(Self.side) { rig.ram.write(pixel, at: start + row * UInt64(Self.side) * 4) }
    }
    draw(7)
    try rig.ok(
      Request.create(1, Self.side, Self.side), Request.attach(1, [(start, UInt32(Self.parts * Self.band))]),
      Request.setScanout(0, 1, Self.area), Request.flush(1, Self.area))
    rig.screen.flip()
    #expect(rig.screen.shown()?.dmabuf != nil)
    let detach = rig.post(Request.detach(1))
    let create = rig.post(Request.create(2))
    #expect(rig.device.resources.count == 1)
    try rig.turn { rig.screen.presentCount == 2 }
    // Into memory of ours, and from there to the screen.
    #expect(rig.statistics.bytesCopied == UInt64(2 * Self.parts * Self.band))
    #expect(rig.answer()?.head == create && rig.answer() == nil)
    rig.screen.flip()
    try rig.settle()
    #expect(rig.answer()?.head == detach)
    draw(9)
    #expect(try colours(rig.screen.shown()).allSatisfy { $0 == 7 })
    #expect(rig.statistics.liveDMABufs == 0 && rig.statistics.releasedLate == 0)
    try rig.expectBalance()
  }
}
