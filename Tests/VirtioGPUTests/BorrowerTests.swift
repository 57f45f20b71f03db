import Buffers
import Fixtures
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import VirtioGPU

/// How pages go back to the guest while somebody uses them beside the screens.
@Suite struct BorrowerTests {
  /// Uses the pages of some buffers, and lets go when the test says so.
  private final class Importer: Borrower {
    var deadline: Instant?
    private(set) var asked: [Bool] = []
    private(set) var goneCount = 0

    func pagesAreWanted(isReset: Bool) -> Instant? {
      asked.append(isReset)
      return deadline
    }

    func pagesAreGone() { goneCount += 1 }
  }

  /// Resources 1 and 2, each with an importer.
  private final class Stage {
    let rig: Rig
    let importers = [Importer(), Importer()]
    private(set) var buffers: [Buffer] = []

    init(_ udmabuf: Rig.Udmabuf = .missing(.noSuchFileOrDirectory)) throws {
      rig = try Rig(udmabuf, backing: .auto)
      for (index, importer) in importers.enumerated() {
        try rig.lend(UInt32(index) + 1)
        let buffer = try #require(rig.device.resources[ResourceID(UInt32(index) + 1)]?.buffer)
        buffer.add(importer)
        buffers.append(buffer)
      }
    }
  }

  @Test("a guest gets its pages back when the last borrower has let go", arguments: ReleaseTests.Way.allCases)
  func waits(_ way: ReleaseTests.Way) throws {
    let stage = try Stage()
    let (rig, second) = (stage.rig, Importer())
    stage.buffers[0].add(second)
    let head = rig.post(way.request(1))
    try rig.settle()
    #expect(rig.answer() == nil && stage.importers[0].asked == [false] && second.asked == [false])
    #expect(stage.importers[1].asked.isEmpty, "its pages are not wanted")
    stage.buffers[0].remove(stage.importers[0])
    try rig.settle()
    #expect(rig.answer() == nil)
    stage.buffers[0].remove(second)
    try rig.settle()
    let answer = try #require(rig.answer())
    #expect(answer.head == head && answer.type == ResponseType.ok)
    #expect(second.goneCount == 0, "it has let go before")
    #expect(rig.statistics.releasedLate == 0 && rig.errors.isEmpty)
  }

  @Test(
    "a borrower that misses its own deadline is cut off and counted",
    arguments: ReleaseTests.Way.allCases)
  func cutOff(_ way: ReleaseTests.Way) throws {
    let stage = try Stage()
    let rig = stage.rig
    // The device itself would wait for an hour.
    for importer in stage.importers { importer.deadline = .now + .milliseconds(20) }
    for id: UInt32 in 1...2 { rig.post(way.request(id)) }
    try rig.settle()
    var answers = 0
    try rig.turn {
      while rig.answer() != nil { answers += 1 }
      return answers == 2
    }
    #expect(stage.importers.allSatisfy { $0.goneCount == 1 && $0.asked == [false] })
    #expect(rig.statistics.releasedLate == 2)
    #expect(rig.log.warnings.first?.contains("the importer of it is cut off") == true)
  }

  @Test("a reset asks the borrowers for their pages, and the next driver does not wait") func reset() throws {
    let stage = try Stage()
    let rig = stage.rig
    rig.device.reset()
    #expect(stage.importers.allSatisfy { $0.asked == [true] && $0.goneCount == 0 })
    let control = DriverQueue(rig.ram)
    try rig.start(0, control, fresh: true)
    control.send(Request.create(1), answer: 24)
    rig.device.kicked(0)
    #expect(rig.answer(control)?.type == ResponseType.ok)
    #expect(rig.device.resources.count == 1)
    for (buffer, importer) in zip(stage.buffers, stage.importers) { buffer.remove(importer) }
    try rig.settle()
    #expect(rig.statistics.releasedLate == 0 && stage.importers.allSatisfy { $0.goneCount == 0 })
  }

  @Test(
    "pages that are shown and borrowed go back when screen and borrower have let go", .testHost,
    arguments: [true, false])
  func shownToo(_ screenIsFirst: Bool) throws {
    // A copy would be shown instead of the pages.
    let stage = try Stage(.real)
    let rig = stage.rig
    try rig.ok(Request.setScanout(0, 1), Request.flush(1))
    rig.screen.flip()
    rig.post(Request.unref(1))
    for isScreen in [screenIsFirst, !screenIsFirst] {
      try rig.settle()
      #expect(rig.answer() == nil)
      if isScreen { rig.screen.flipAll() } else { stage.buffers[0].remove(stage.importers[0]) }
    }
    try rig.settle()
    #expect(rig.answer()?.type == ResponseType.ok && rig.statistics.releasedLate == 0)
  }
}
