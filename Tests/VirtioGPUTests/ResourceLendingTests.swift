import Buffers
import Fixtures
import Linux
import Testing

@testable import VirtioGPU

/// What the device says to whoever lends a guest's buffers on.
@Suite struct ResourceLendingTests {
  /// Of blobs.
  private static let size = 3 * systemPageSize

  @Test("afterQueue runs after the commands that lie in the queue unannounced")
  func queueFirst() throws {
    let rig = try Rig(backing: .auto)
    let pages = rig.pages(3)
    _ = rig.control.send(Request.createBlob(7, size: Self.size, pages), answer: 64)
    var found: [UInt8]?
    rig.device.afterQueue { found = rig.device.firstBytes(1, of: 7) }
    #expect(found != nil)
  }

  @Test("afterQueue waits for commands that do not fit into the turn")
  func longQueue() throws {
    let rig = try Rig(backing: .auto)
    rig.device.patience.turn = .nanoseconds(0)
    let pages = rig.pages(3)
    // One command fits into a turn here.
    for id in UInt32(1)...8 {
      _ = rig.control.send(Request.createBlob(id, size: Self.size, pages), answer: 64)
    }
    var isThere: Bool?
    rig.device.afterQueue { isThere = rig.device.firstBytes(1, of: 8) != nil }
    #expect(isThere == nil)
    try rig.turn { isThere != nil }
    #expect(isThere == true)
  }

  @Test("afterQueue waits no longer when its queue ends")
  func droppedQueue() throws {
    let rig = try Rig(backing: .auto)
    rig.device.patience.turn = .nanoseconds(0)
    for id in UInt32(1)...8 {
      _ = rig.control.send(Request.createBlob(id, size: Self.size, rig.pages(3)), answer: 64)
    }
    var isOver = false
    rig.device.afterQueue { isOver = true }
    #expect(!isOver)
    rig.device.drop(GPUDevice.controlQueue)
    try rig.turn { isOver }
  }

  @Test("a blob's first bytes are the guest's, if it has pages and that many bytes") func firstBytes() throws
  {
    let rig = try Rig(backing: .auto)
    let pages = rig.pages(3)
    let bytes = (0..<32).map { UInt8($0) }
    rig.ram.write(bytes, at: pages[0].address)
    try rig.ok(Request.createBlob(1, size: Self.size, pages), Request.create(2))
    #expect(rig.device.firstBytes(32, of: 1) == bytes)
    #expect(rig.device.firstBytes(Int(Self.size) + 1, of: 1) == nil)
    #expect(rig.device.firstBytes(1, of: 2) == nil, "it has no pages")
    #expect(rig.device.firstBytes(1, of: 3) == nil, "there is none")
  }

  @Test("a copied resource cannot be lent on, and one without pages counts as missing") func obstacles()
    throws
  {
    let rig = try Rig(backing: .auto)
    try rig.ok(Request.createBlob(1, size: Self.size, rig.pages(3)), Request.create(2))
    let obstacle = #expect(throws: ResourceObstacle.self) { try rig.device.lendablePages(of: 1) }
    guard case .copied(let cause) = obstacle else {
      Issue.record("\(String(describing: obstacle))")
      return
    }
    #expect(cause.name == .noDevice)
    for id in [UInt32(0), 2, 3] {
      #expect(throws: ResourceObstacle.noSuchResource) { try rig.device.lendablePages(of: id) }
    }
  }

  @Test("a new driver and a reset each begin another epoch, and a resume does not") func epochs() throws {
    let rig = try Rig(backing: .auto)
    var told: [UInt64] = []
    rig.device.whenEpochChanged = { [unowned device = rig.device] in told.append(device.epoch) }
    let first = rig.device.epoch
    try rig.start(0, rig.control, fresh: true)
    rig.device.reset()
    try rig.start(0, rig.control, fresh: false)
    #expect(told == [first + 1, first + 2])
    #expect(rig.device.epoch == first + 2)
  }
}
