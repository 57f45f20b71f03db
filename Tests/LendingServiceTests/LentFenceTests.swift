import Buffers
import Lending
import LendingProtocol
import Linux
import TestSupport
import Testing

@testable import LendingService

/// A device reads a lent buffer after its importer has let go: vgem, whose fences the test signals.
@Suite(.enabled(if: TestHost.isActive, "needs vgem and /dev/udmabuf"))
struct LentFenceTests {
  private let rig: LendingRig
  private let feed: LendingFeed
  private let vgem: Vgem

  init() throws {
    rig = try LendingRig()
    feed = LendingFeed(.lender(session: rig.session))
    rig.registry.add(feed)
    vgem = try Vgem()
  }

  /// Lends a buffer, which a device begins to read and its importer releases, and asks for it back.
  private func lendToDevice(patience: TimeSpan) throws -> (LendingRig.Lent, fence: UInt32) {
    let lent = try rig.lend()
    let asker = try rig.connect()
    let holding = try Holding(asker, lent)
    guard let dmabuf = holding.dmabuf.take() else { throw TroubleInTest("no dma-buf") }
    let fence = try vgem.read(dmabuf)
    try rig.takeBack(lent, patience: patience)
    try asker.tell("Release", lent)
    return (lent, fence)
  }

  private func ends() -> [LentBuffer.State] {
    var ends: [LentBuffer.State] = []
    while let event = feed.next() { if event.news == .over { ends.append(event.buffer.state) } }
    return ends
  }

  @Test("a buffer is returned when the device that reads it has finished")
  func finished() throws {
    let (lent, fence) = try lendToDevice(patience: .seconds(60))
    try rig.pass(.seconds(30))
    #expect(ends().isEmpty)
    #expect(try rig.connect().ask("List", as: BuffersReply.self).buffers.map(\.state) == [.returning])
    try vgem.finish(fence)
    try rig.waitUntil("it is returned") { rig.registry.statistics.returned == 1 }
    #expect(ends() == [.returned(cutOff: 0, isRead: false)])
    #expect(lent.pages.dmabuf?.isIdle == true)
  }

  @Test("a buffer is returned when patience is over, and its lender learns that a device reads it")
  func late() throws {
    let (_, fence) = try lendToDevice(patience: .seconds(60))
    try rig.pass(.seconds(59))
    #expect(ends().isEmpty)
    try rig.pass(.seconds(2))
    #expect(ends() == [.returned(cutOff: 0, isRead: true)])
    try vgem.finish(fence)
  }
}
