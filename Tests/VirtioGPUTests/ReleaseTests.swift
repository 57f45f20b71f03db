import Buffers
import Fixtures
import Linux
import Scanout
import TestSupport
import Testing
import Udmabuf

@testable import VirtioGPU

/// How pages go back to the guest: not before nobody shows them, and not later than can be borne.
@Suite(.testHost, .serialized) struct ReleaseTests {
  /// The two commands by which a guest asks for its pages.
  enum Way: CaseIterable {
    case unref, detach

    func request(_ id: UInt32, fence: UInt64? = nil) -> [UInt8] {
      self == .unref ? Request.unref(id, fence: fence) : Request.detach(id, fence: fence)
    }
  }

  /// Resource 1 is on screen 0; resource 2 is nowhere.
  private func rig(_ patience: GPUDevice.Patience = .endless) throws -> Rig {
    let rig = try Rig(.real, patience: patience)
    try rig.lend(1)
    try rig.lend(2)
    try rig.ok(Request.setScanout(0, 1), Request.flush(1))
    rig.screen.flip()
    return rig
  }

  /// Blob 1 is on screen 0.
  private func blobRig() throws -> Rig {
    let rig = try Rig(.real)
    try rig.lendBlob(1)
    try rig.lend(2)
    try rig.ok(Request.setScanoutBlob(0, 1), Request.flush(1))
    rig.screen.flip()
    return rig
  }

  private func lent(_ rig: Rig) -> UInt64 { rig.statistics.liveDMABufs }

  @Test("pages that are not shown go back at once", arguments: Way.allCases) func whatIsNotShownGoesAtOnce(
    _ way: Way
  ) throws {
    let rig = try rig()
    weak let dmabuf = rig.device.resources[ResourceID(2)]?.buffer?.dmabuf
    #expect(dmabuf != nil)
    try rig.ok(way.request(2))
    #expect(dmabuf == nil, "the dma-buf is closed")
    #expect(lent(rig) == 1 && rig.statistics.pinnedBytes == 3 * systemPageSize)
    #expect(rig.device.resources.count == (way == .unref ? 1 : 2))
  }

  @Test("shown pages go back when the screen is dark", arguments: Way.allCases)
  func whatIsShownGoesWhenTheScreenIsDark(_ way: Way) throws {
    let rig = try rig()
    weak let frame = rig.screen.shown()
    let head = rig.post(way.request(1))
    #expect(rig.screen.events.last == .dark(0))
    try rig.settle()
    #expect(rig.answer() == nil && frame?.uses == 1 && lent(rig) == 2)
    rig.screen.flip()
    try rig.settle()
    let answer = try #require(rig.answer())
    #expect(answer.head == head && answer.type == ResponseType.ok)
    #expect(frame == nil && lent(rig) == 1 && rig.statistics.releasedLate == 0)
    try rig.expectBalance()
    if way == .detach {
      // The image is there still, and can be given other pages.
      try rig.ok(Request.attach(1, rig.pages(3)), Request.setScanout(0, 1), Request.flush(1))
      try rig.expectBalance()
    }
  }

  @Test("an UNREF right after a DETACH waits for the same pages")
  func unrefRightAfterDetachWaitsForTheSamePages() throws {
    let rig = try rig()
    let first = rig.post(Request.detach(1))
    let second = rig.post(Request.unref(1))
    try rig.settle()
    #expect(rig.answer() == nil && lent(rig) == 2)
    rig.screen.flip()
    try rig.settle()
    for head in [first, second] {
      let answer = try #require(rig.answer())
      #expect(answer.head == head && answer.type == ResponseType.ok)
    }
    #expect(lent(rig) == 1 && rig.device.resources.count == 1)
  }

  @Test("shown pages go back when their successor is shown", arguments: Way.allCases)
  func whatIsShownGoesWhenItsSuccessorIsShown(_ way: Way) throws {
    let rig = try rig()
    let first = try #require(rig.screen.shown())
    try rig.ok(Request.setScanout(0, 2), Request.flush(2))
    let second = try #require(rig.screen.next())
    let head = rig.post(way.request(1))
    try rig.settle()
    #expect(rig.answer() == nil && first.uses == 1 && rig.screen.shown() === first)
    rig.screen.flip()
    try rig.settle()
    #expect(rig.answer()?.head == head && first.uses == 0)
    #expect(rig.screen.shown() === second && second.uses == 1)
    #expect(!rig.screen.events.contains(.dark(0)), "no gap is seen")
    try rig.expectBalance()
  }

  /// A guest that chose another image, and has not flushed it yet, loses the old one: the new one is shown.
  @Test("shown pages that go give way to the chosen picture", arguments: Way.allCases)
  func whatIsShownGivesWayToWhatIsChosen(_ way: Way) throws {
    let rig = try rig()
    try rig.ok(Request.setScanout(0, 2))
    let count = rig.screen.events.count
    let head = rig.post(way.request(1))
    let second = try #require(rig.screen.next())
    #expect(second === rig.device.resources[ResourceID(2)]?.frames.first)
    let whole = Rectangle(0, 0, 64, 48)
    #expect(
      Array(rig.screen.events[count...]) == [
        .shows(frame: second.id, source: whole, damage: whole, scanout: 0)
      ])
    #expect(rig.answer() == nil)
    rig.screen.flip()
    try rig.settle()
    #expect(rig.answer()?.head == head)
    // No flush asked for it, so that it is no frame; but its pages were seen.
    let all = rig.statistics
    #expect(all.flushes == 1 && all.framesShown == 1 && all.buffersLent == 2)
    try rig.ok(Request.flush(2))
    try rig.expectBalance()
    #expect(rig.statistics.framesShown == 2)
  }

  @Test("the chosen picture gives way to its flush") func whatIsChosenGivesWayToItsFlush() throws {
    let rig = try rig()
    try rig.ok(Request.flush(1), Request.setScanout(0, 2))
    rig.post(Request.unref(1))
    try rig.ok(Request.flush(2))
    try rig.expectBalance()
    let all = rig.statistics
    // Two flushes of resource 1 and one of resource 2 were shown; the device's own presentation is not counted.
    #expect(all.flushes == 3 && all.framesShown == 3 && all.framesCoalesced == 0)
    #expect(rig.answer()?.type == ResponseType.ok && lent(rig) == 1)
  }

  @Test("pages on two screens go back when both have let go", arguments: Way.allCases)
  func sharedByTwoScreens(_ way: Way) throws {
    let rig = try rig()
    try rig.ok(Request.setScanout(1, 1), Request.flush(1))
    rig.screen.flipAll()
    #expect(rig.screen.shown(0) === rig.screen.shown(1))
    rig.post(way.request(1))
    rig.screen.flip(1)
    try rig.settle()
    #expect(rig.answer() == nil && lent(rig) == 2)
    rig.screen.flip(0)
    try rig.settle()
    #expect(rig.answer()?.type == ResponseType.ok && lent(rig) == 1)
    #expect(rig.screen.shown(0) == nil && rig.screen.shown(1) == nil)
    try rig.expectBalance()
  }

  /// It waits for its turn behind another one when it is taken away.
  @Test("pages whose frame waits for its turn go back without a flip") func whatWasNeverShown() throws {
    let rig = try rig()
    try rig.ok(Request.flush(1), Request.setScanout(0, 2), Request.flush(2))
    rig.post(Request.unref(2))
    try rig.settle()
    #expect(rig.answer()?.type == ResponseType.ok && lent(rig) == 1, "its place in the queue was taken over")
    try rig.expectBalance()
    #expect(rig.statistics.framesCoalesced == 1 && rig.statistics.buffersLent == 1)
  }

  @Test("a resource's number may be used again while its pages wait") func theSameNumberAgainWhileItWaits()
    throws
  {
    let rig = try rig()
    let head = rig.post(Request.unref(1))
    try rig.lend(1)
    try rig.ok(Request.setScanout(0, 1), Request.flush(1))
    #expect(lent(rig) == 3)
    rig.screen.flip()
    try rig.settle()
    #expect(rig.answer()?.head == head && lent(rig) == 2)
    rig.screen.flip()
    #expect(rig.screen.shown() === rig.device.resources[ResourceID(1)]?.frames.first)
    try rig.expectBalance()
  }

  // MARK: A sink that does not let go

  @Test("a sink that holds pages too long is cut off", arguments: Way.allCases) func cutOff(_ way: Way) throws
  {
    let rig = try rig(GPUDevice.Patience())
    let id = try #require(rig.screen.shown()).id
    let head = rig.post(way.request(1))
    var answer: Answer?
    try rig.turn {
      answer = rig.answer()
      return answer != nil
    }
    #expect(answer?.head == head && answer?.type == ResponseType.ok)
    #expect(rig.screen.forgotten == [id] && rig.screen.shown() == nil)
    #expect(rig.statistics.releasedLate == 1 && rig.errors == ["releasedLate": 1] && lent(rig) == 1)
    #expect(rig.log.warnings.count == 1 && rig.log.warnings[0].contains("cut off"))
    try rig.ok(Request.setScanout(0, 2), Request.flush(2))
    try rig.expectBalance()
  }

  @Test("a frame on its way is cut off too") func cutOffWhileItIsOnItsWay() throws {
    let rig = try rig(GPUDevice.Patience())
    try rig.ok(Request.setScanout(0, 2), Request.flush(2))
    rig.post(Request.flush(2, fence: 5))
    rig.post(Request.unref(2))
    rig.post(Request.unref(1))
    var count = 0
    try rig.turn {
      while rig.answer() != nil { count += 1 }
      return count == 3
    }
    // The screen goes dark with the frame that is cut off, and lets go of the other one by that.
    #expect(rig.statistics.releasedLate == 1 && lent(rig) == 0)
    try rig.expectBalance()
    #expect(rig.device.resources.isEmpty && rig.statistics.pinnedBytes == 0)
  }

  // MARK: Stop, start and reset

  @Test("a stop answers the commands that were taken, without waiting for a flip")
  func stopCompletesWhatWasTaken() throws {
    let rig = try blobRig()
    rig.post(Request.flush(1, fence: 1))
    rig.post(Request.displayInfo(fence: 2))
    #expect(rig.answer() == nil)
    var finished = false
    rig.device.stop(0) { finished = true }
    // A fence does not hold up a guest that stops.
    #expect(finished)
    #expect(rig.answer()?.fence == 1)
    #expect(rig.answer()?.type == ResponseType.displayInfo)
    try rig.expectBalance()
  }

  @Test("a stop waits until the guest has its pages, and takes no commands meanwhile")
  func stopWaitsForPages() throws {
    let rig = try rig()
    let head = rig.post(Request.unref(1))
    var finished = 0
    var usedBefore = false
    rig.device.stop(0) {
      finished += 1
      usedBefore = rig.answer()?.head == head
    }
    try rig.settle()
    #expect(finished == 0)
    rig.post(Request.create(9))
    #expect(rig.device.resources[ResourceID(9)] == nil, "nothing is taken meanwhile")
    rig.screen.flip()
    try rig.settle()
    #expect(finished == 1 && usedBefore, "the answer is in the ring before the stop is done")
    #expect(rig.answer() == nil)
    try rig.expectBalance()
  }

  @Test("a stop ends although the sink does not let go of the pages") func stopIsBounded() throws {
    let rig = try rig(GPUDevice.Patience())
    rig.post(Request.unref(1))
    var finished = false
    rig.device.stop(0) { finished = true }
    try rig.turn { finished }
    #expect(rig.answer()?.type == ResponseType.ok && rig.statistics.releasedLate == 1)
  }

  @Test("a resume keeps the resources and the picture") func aResumeKeepsAll() throws {
    let rig = try rig()
    let shown = try #require(rig.screen.shown())
    let state = rig.state
    rig.device.stop(0) {}
    rig.device.stop(1) {}
    try rig.start(0, rig.control, fresh: false)
    try rig.start(1, rig.cursor, fresh: false)
    try rig.settle()
    #expect(rig.state == state && rig.screen.shown() === shown)
    try rig.ok(Request.flush(1), Request.setScanout(0, 2), Request.flush(2))
    try rig.expectBalance()
    #expect(rig.screen.shown() === rig.device.resources[ResourceID(2)]?.frames.first)
  }

  @Test("a new driver finds nothing of the old one") func aNewDriverFindsNothing() throws {
    let rig = try rig()
    rig.device.stop(0) {}
    let control = DriverQueue(rig.ram)
    try rig.start(0, control, fresh: true)
    #expect(rig.device.resources.isEmpty && rig.statistics.liveResources == 0)
    #expect(rig.screen.events.last == .dark(0))
    #expect(lent(rig) == 1, "what is on the screen is held until the screen is dark")
    rig.screen.flip()
    try rig.settle()
    #expect(lent(rig) == 0 && rig.statistics.pinnedBytes == 0 && rig.screen.forgotten.count == 1)
    control.send(Request.create(1), answer: 24)
    rig.device.kicked(0)
    #expect(rig.answer(control)?.type == ResponseType.ok)
    try rig.expectBalance()
  }

  @Test("a reset answers no waiting command") func resetAnswersNothing() throws {
    let rig = try blobRig()
    rig.post(Request.flush(1, fence: 1))
    rig.post(Request.unref(2, fence: 2))
    rig.device.reset()
    #expect(rig.device.resources.isEmpty)
    rig.screen.flipAll()
    try rig.settle()
    #expect(rig.answer() == nil, "the rings are not the device's any more")
    #expect(lent(rig) == 0 && rig.statistics.releasedLate == 0)
    try rig.expectBalance()
  }

  @Test("after a reset a sink that hangs is cut off") func resetWithASinkThatHangs() throws {
    let rig = try rig(GPUDevice.Patience())
    rig.device.reset()
    try rig.turn { lent(rig) == 0 }
    #expect(rig.statistics.releasedLate == 1 && rig.answer() == nil)
  }

  /// Everything a guest can do in some hundred steps, by a fixed sequence of numbers: in the end nothing is
  /// left over, and every flush has come to something.
  @Test("any order of commands leaves nothing over, and accounts for every flush", arguments: 0..<6)
  func anyOrder(_ seed: UInt64) throws {
    let rig = try Rig(.real, patience: GPUDevice.Patience())
    var random = Xorshift(seed: seed)
    func number(_ bound: UInt32) -> UInt32 { UInt32(random.next() >> 22) % bound }
    var sent = 0
    var answered = 0
    for step in 0..<400 {
      let (id, scanout) = (number(4) + 1, number(2))
      let fence: UInt64? = number(3) == 0 ? UInt64(step) : nil
      while let answer = rig.answer() {
        #expect((0x1100...0x1104).contains(answer.type) || (0x1200...0x1205).contains(answer.type))
        answered += 1
      }
      if sent - answered > 20 {
        rig.screen.flipAll()
        try rig.settle()
      }
      switch number(12) {
      case 0, 1:
        try rig.settle()
        rig.screen.flip(scanout)
        continue
      case 2:
        rig.screen.refuse(scanout)
        try rig.settle()
        continue
      case 3: rig.post(Request.unref(id, fence: fence), room: 64)
      case 4: rig.post(Request.detach(id, fence: fence), room: 64)
      case 5, 6: rig.post(Request.setScanout(scanout, number(5)), room: 64)
      case 7, 8, 9: rig.post(Request.flush(id, fence: fence), room: 64)
      default:
        rig.post(Request.create(id, fence: fence), room: 64)
        let start = 0x10_0000 + UInt64(number(64)) * 0x4000
        rig.post(Request.attach(id, [(start, 0x3000)]), room: 64)
        sent += 1
      }
      sent += 1
    }
    for id in 1...4 as ClosedRange<UInt32> { rig.post(Request.unref(id), room: 64) }
    sent += 4
    try rig.turn {
      rig.screen.flipAll()
      while rig.answer() != nil { answered += 1 }
      if answered == sent { return true }
      rig.device.wake()
      return false
    }
    try rig.expectBalance()
    let all = rig.statistics
    #expect(all.liveDMABufs == 0 && all.pinnedBytes == 0 && all.liveResources == 0)
    #expect(all.flushes > 0 && all.framesShown > 0)
  }
}
