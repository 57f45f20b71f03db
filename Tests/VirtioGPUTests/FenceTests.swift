import Buffers
import Fixtures
import Linux
import Scanout
import SystemPackage
import TestSupport
import Testing
import Udmabuf

@testable import VirtioGPU

/// When a flush is answered (virtio 1.3, 5.7.6.7).
@Suite struct FenceTests {
  /// Blob 1 is shown on scanout 0, blob 2 on scanout 1.
  private func rig(
    _ patience: GPUDevice.Patience = .endless, _ udmabuf: Rig.Udmabuf = .missing(.noSuchFileOrDirectory)
  ) throws -> Rig {
    let rig = try Rig(udmabuf, backing: .auto, patience: patience)
    try rig.lendBlob(1)
    try rig.lendBlob(2)
    try rig.ok(Request.setScanoutBlob(0, 1), Request.setScanoutBlob(1, 2))
    return rig
  }

  private func fences(_ rig: Rig) -> [UInt64] {
    var fences: [UInt64] = []
    while let answer = rig.answer() { fences.append(answer.flags & 1 == 1 ? answer.fence : 0) }
    return fences
  }

  @Test("a blob's flush with a fence is answered at its flip") func answeredAtTheFlip() throws {
    let rig = try rig()
    _ = rig.answer()  // The driver waits to be called.
    let head = rig.post(Request.flush(1, fence: 41))
    let before = rig.notified[0]
    #expect(rig.answer() == nil)
    rig.screen.flip()
    let answer = try #require(rig.answer())
    #expect(answer.head == head && answer.type == ResponseType.ok && answer.fence == 41 && answer.flags == 1)
    #expect(rig.notified[0] == before + 1)
    try rig.expectBalance()
    #expect(rig.statistics.framesShown == 1)
  }

  @Test("a flush with a fence, but without a flip, is answered when its time is over")
  func answeredWithoutAFlipAfterAWhile() throws {
    let rig = try rig(GPUDevice.Patience())
    let head = rig.post(Request.flush(1, fence: 41))
    var answer: Answer?
    try rig.turn {
      answer = rig.answer()
      return answer != nil
    }
    #expect(answer?.head == head && answer?.type == ResponseType.ok && answer?.fence == 41)
    #expect(rig.screen.shown() == nil && rig.statistics.framesShown == 0)
    try rig.expectBalance()
    #expect(rig.statistics.framesShown == 1)
  }

  @Test("a flush without a fence is answered at once") func withoutAFenceAtOnce() throws {
    let rig = try rig()
    for _ in 0..<5 { try rig.ok(Request.flush(1)) }
    // One on its way, one waits, three gave way.
    #expect(rig.statistics.framesCoalesced == 3)
    try rig.expectBalance()
    #expect(rig.statistics.framesShown == 2 && rig.statistics.flushes == 5)
  }

  @Test("the fence of a replaced frame waits for its successor") func whatGivesWayWaitsForItsSuccessor()
    throws
  {
    let rig = try rig()
    for fence in 1...4 as ClosedRange<UInt64> { rig.post(Request.flush(1, fence: fence)) }
    #expect(fences(rig) == [])
    rig.screen.flip()
    #expect(fences(rig) == [1])
    rig.screen.flip()
    #expect(fences(rig) == [2, 3, 4])
    try rig.expectBalance()
    let all = rig.statistics
    #expect(all.framesShown == 2 && all.framesCoalesced == 2 && all.framesFailed == 0)
  }

  @Test("fences of different scanouts are answered in order") func orderAmongScanouts() throws {
    let rig = try rig()
    rig.post(Request.flush(1, fence: 1))
    rig.post(Request.flush(2, fence: 2))
    rig.screen.flip(1)
    #expect(fences(rig) == [], "fence 2 would tell the driver that 1 is done")
    rig.screen.flip(0)
    #expect(fences(rig) == [1, 2])
    try rig.expectBalance()
  }

  @Test("fences of all commands are answered in order, and commands without a fence overtake them")
  func othersKeepTheOrderToo() throws {
    let rig = try rig()
    rig.post(Request.flush(1, fence: 1))
    rig.post(Request.create(3, fence: 2))
    rig.post(Request.unref(99, fence: 3))
    rig.post(Request.transfer(1, fence: 4))
    #expect(fences(rig) == [])
    // What bears no fence overtakes them.
    try rig.ok(Request.create(4))
    #expect(rig.device.resources.count == 4, "they are done, only their answers wait")
    rig.screen.flip()
    var answers: [Answer] = []
    while let answer = rig.answer() { answers.append(answer) }
    #expect(answers.map(\.fence) == [1, 2, 3, 4])
    #expect(answers.map(\.type) == [0x1100, 0x1100, ResponseType.invalidResource, 0x1100])
    // With nothing before it a fence is answered at once.
    #expect(try rig.ask(Request.displayInfo(fence: 5)).fence == 5)
    try rig.expectBalance()
  }

  @Test("a flush on two screens is answered after the flips of both") func oneFlushOnTwoScreensWaitsForBoth()
    throws
  {
    let rig = try rig()
    try rig.ok(Request.setScanoutBlob(1, 1))
    rig.post(Request.flush(1, fence: 1))
    rig.screen.flip(0)
    #expect(fences(rig) == [])
    rig.screen.flip(1)
    #expect(fences(rig) == [1])
    #expect(rig.statistics.flushes == 2 && rig.statistics.framesShown == 2)
    try rig.expectBalance()
  }

  @Test("the fence of a flush that no scanout shows is answered at once") func nothingToWaitFor() throws {
    let rig = try rig()
    try rig.lend(3)
    #expect(try rig.ask(Request.flush(3, fence: 1)).fence == 1)
    #expect(try rig.ask(Request.flush(1, Rectangle(0, 0, 0, 0), fence: 2)).fence == 2)
    #expect(try rig.ask(Request.flush(99, fence: 3)).type == ResponseType.invalidResource)
    #expect(rig.statistics.flushes == 0)
  }

  @Test("if the screen refuses a frame, its flush is answered, and the refusal counted")
  func aFrameThatTheScreenRefuses() throws {
    let rig = try rig()
    rig.post(Request.flush(1, fence: 1))
    rig.screen.refuse()
    try rig.settle()
    let answer = try #require(rig.answer())
    #expect(answer.type == ResponseType.ok && answer.fence == 1)
    #expect(rig.statistics.framesFailed == 1 && rig.errors == ["mode": 1])
    #expect(rig.log.warnings.last?.contains("no such mode") == true)
    // The next one may be shown.
    rig.post(Request.flush(1, fence: 2))
    rig.screen.flip()
    #expect(fences(rig) == [2])
    try rig.expectBalance()
  }

  /// The frame that waited its turn will not be shown any more: its fence must not wait for ever.
  @Test("a fence is answered if its scanout is turned off before the flip") func turnedOffBeforeTheFlip()
    throws
  {
    let rig = try rig()
    rig.post(Request.flush(1, fence: 1))
    rig.post(Request.flush(1, fence: 2))
    try rig.ok(Request.setScanout(0, 0))
    #expect(fences(rig) == [], "2 does not overtake 1")
    rig.screen.flip()
    #expect(fences(rig) == [1, 2])
    rig.screen.flipAll()
    #expect(rig.screen.shown() == nil)
    #expect(rig.statistics.framesShown == 1 && rig.statistics.framesCoalesced == 1)
    try rig.expectBalance()
  }

  /// What waits its turn behind another fence waits without the loop going round and round.
  @Test("a fence that waits for its turn does not keep the loop busy", .testHost) func waitingIsIdle() throws
  {
    let rig = try rig(GPUDevice.Patience(), .real)
    try rig.ok(Request.flush(1))
    rig.screen.flip()
    rig.post(Request.unref(1, fence: 1))
    rig.post(Request.displayInfo(fence: 2))
    rig.post(Request.flush(2, fence: 3))
    var (turns, answered) = (0, [UInt64]())
    try rig.turn {
      turns += 1
      answered += fences(rig)
      return answered.count == 3
    }
    #expect(answered == [1, 2, 3] && rig.statistics.releasedLate == 1)
    // The fence's time, the release's time, what the sink tells, and a few more.
    #expect(turns < 20, "\(turns) turns")
    try rig.expectBalance()
  }

  // MARK: Who does not wait

  /// OpenBSD, NetBSD, FreeBSD and Haiku set a fence on each command and spin until it is answered. Their pictures are
  /// no blobs, and what comes before keeps its turn.
  @Test("the fence of a flush without a blob waits for earlier fences, but for no flip")
  func aFlushOfWhatIsNoBlob() throws {
    let rig = try rig()
    try rig.lend(3)
    try rig.ok(Request.setScanout(1, 3))
    for fence in 1...3 as ClosedRange<UInt64> {
      #expect(try rig.ask(Request.flush(3, fence: fence)).fence == fence)
    }
    rig.post(Request.flush(1, fence: 4))
    rig.post(Request.flush(3, fence: 5))
    #expect(fences(rig) == [])
    rig.screen.flip(0)
    #expect(fences(rig) == [4, 5])
    try rig.expectBalance()
  }

  /// Intel's driver for Windows gives flushes of blobs the number of a fence, and not the flag.
  @Test("a fence's number without the flag paces a blob's flush") func aNumberWithoutTheFlag() throws {
    let rig = try rig()
    let flush = { (id: UInt32) in
      var request = Request.flush(id, fence: 9)
      request[4] = 0
      return request
    }
    rig.post(flush(1))
    #expect(rig.answer() == nil)
    rig.screen.flip()
    let answer = try #require(rig.answer())
    #expect(answer.type == ResponseType.ok && answer.flags == 0 && answer.fence == 0)
    // It is no fence, whose order counts.
    rig.post(flush(1))
    rig.post(Request.flush(2, fence: 2))
    rig.screen.flip(1)
    #expect(fences(rig) == [2])
    rig.screen.flip(0)
    #expect(fences(rig) == [0])
    try rig.lend(3)
    try rig.ok(Request.setScanout(1, 3), flush(3))
    try rig.expectBalance()
  }

  /// A display that says nothing, such as a window that is hidden, makes one flush wait, and no
  /// other after it.
  @Test("only the first flush waits for a display that does not answer")
  func aSilentDisplayIsNotWaitedForTwice() throws {
    let rig = try rig(GPUDevice.Patience())
    rig.post(Request.flush(1, fence: 1))
    try rig.turn { fences(rig) == [1] }
    for fence in 2...5 as ClosedRange<UInt64> {
      #expect(try rig.ask(Request.flush(1, fence: fence)).fence == fence)
    }
    // The other screen is not concerned.
    rig.post(Request.flush(2, fence: 6))
    #expect(rig.answer() == nil)
    rig.screen.flip(1)
    #expect(fences(rig) == [6])
    try rig.expectBalance()
  }

  /// It is waited for again when it has shown a frame in time.
  @Test("flushes wait again for a display that has shown a frame in time") func aDisplayThatIsBack() throws {
    let rig = try rig(GPUDevice.Patience())
    rig.post(Request.flush(1, fence: 1))
    try rig.turn { fences(rig) == [1] }
    rig.screen.flipAll()
    // A slow machine may take longer than a fence waits between the two: then it is tried again.
    var (fence, isPaced) = (UInt64(1), false)
    while !isPaced, fence < 1000 {
      fence += 1
      #expect(try rig.ask(Request.flush(1, fence: fence)).fence == fence)
      rig.screen.flip()
      fence += 1
      rig.post(Request.flush(1, fence: fence))
      isPaced = rig.answer() == nil
      rig.screen.flip()
    }
    #expect(isPaced && fences(rig) == [fence])
    try rig.expectBalance()
  }
}
