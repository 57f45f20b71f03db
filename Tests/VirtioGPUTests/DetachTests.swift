import Buffers
import Fixtures
import Linux
import Scanout
import SystemPackage
import TestSupport
import Testing

@testable import VirtioGPU

/// What is in a resource stays in it when the guest takes its pages back (virtio 1.3, 5.7.6.8: TRANSFER_TO_HOST_2D copies).
@Suite(.serialized) struct DetachTests {
  /// Copied everywhere; lent where there is udmabuf.
  static let kinds = TestHost.isActive ? [false, true] : [false]

  enum Step: String {
    case transfer, setScanout, flush, detach
    /// The guest draws something else into its pages, which are its own again.
    case draw
    /// There is nobody to show anything, or somebody again.
    case leave, comeBack
    /// The screen is another one from now on.
    case replug
  }

  private func rig(_ isLent: Bool, quotas: Quotas = Quotas()) throws -> Rig {
    try Rig(isLent ? .real : .missing(.noSuchFileOrDirectory), quotas: quotas, backing: .auto)
  }

  /// A resource of 64x48 pixels with this colour in all of its pages.
  @discardableResult
  private func create(_ rig: Rig, _ id: UInt32 = 1, colour: UInt32) throws -> [UInt64] {
    let pages = try rig.lend(id).map(\.address)
    draw(rig, pages, colour)
    return pages
  }

  private func draw(_ rig: Rig, _ pages: [UInt64], _ colour: UInt32) {
    let bytes = [UInt8]((0..<Int(systemPageSize) / 4).flatMap { _ in colour.bytes })
    for page in pages { rig.ram.write(bytes, at: page) }
  }

  private func perform(_ step: Step, _ rig: Rig, _ pages: [UInt64]) throws {
    switch step {
    case .transfer: try rig.ok(Request.transfer(1))
    case .setScanout: try rig.ok(Request.setScanout(0, 1))
    case .flush: try rig.ok(Request.flush(1))
    case .draw: draw(rig, pages, 0xee_eeee)
    case .leave: rig.screen.isAttended = false
    case .comeBack: rig.screen.isAttended = true
    case .replug:
      rig.screen.outputs[0].name += "'"
      rig.device.scanouts.outputsChanged()
    case .detach:
      rig.post(Request.detach(1))
      // It waits for the flip to the copy.
      rig.screen.flipAll()
      try rig.settle()
      #expect(rig.answer()?.type == ResponseType.ok)
    }
    rig.screen.flipAll()
    try rig.settle()
  }

  /// Every pixel on the screen has this colour.
  private func expect(_ rig: Rig, _ colour: UInt32, _ location: SourceLocation = #_sourceLocation) throws {
    let pixels = try #require(rig.screen.shown(), sourceLocation: location).pixels()
    let wrong = pixels.first { $0 != colour.bytes }
    #expect(wrong == nil, sourceLocation: location)
  }

  static let orders: [[Step]] = [
    [.transfer, .setScanout, .flush, .detach, .draw],
    [.transfer, .setScanout, .flush, .detach, .draw, .flush],
    [.transfer, .setScanout, .detach, .draw, .flush],
    [.setScanout, .transfer, .detach, .draw, .flush],
    [.transfer, .detach, .draw, .setScanout, .flush],
    [.leave, .transfer, .setScanout, .detach, .draw, .comeBack, .flush],
    [.transfer, .setScanout, .flush, .detach, .draw, .replug],
    [.transfer, .setScanout, .detach, .draw, .replug, .flush],
    // A guest that never transfers shows what is in its pages all the same.
    [.setScanout, .flush, .detach, .draw, .flush],
  ]

  @Test("a resource keeps its picture when the guest takes the pages back", arguments: orders, kinds)
  func staysInTheResource(_ order: [Step], _ isLent: Bool) throws {
    let rig = try rig(isLent)
    let pages = try create(rig, colour: 0x11_2233)
    for step in order { try perform(step, rig, pages) }
    try expect(rig, 0x11_2233)
    #expect(rig.statistics.liveDMABufs == 0 && rig.statistics.releasedLate == 0)
    #expect(rig.errors.isEmpty, "\(rig.errors)")
    // It goes with the resource.
    try rig.ok(Request.setScanout(0, 0))
    rig.screen.flipAll()
    try rig.ok(Request.unref(1))
    try rig.settle()
    #expect(rig.statistics.shadowBytes == 0)
    try rig.expectBalance()
  }

  /// Other pages take the place of those that went, and with them what is in them.
  @Test("new pages replace the content of the old ones", arguments: [false, true], kinds) func otherPages(
    _ isChosenAgain: Bool, _ isLent: Bool
  ) throws {
    let rig = try rig(isLent)
    let pages = try create(rig, colour: 0x11_2233)
    for step in [.transfer, .setScanout, .detach, .draw] as [Step] { try perform(step, rig, pages) }
    let others = rig.pages(3)
    draw(rig, others.map(\.address), 0x44_5566)
    try rig.ok(Request.attach(1, others), Request.transfer(1))
    if isChosenAgain { try rig.ok(Request.setScanout(0, 1)) }
    try rig.ok(Request.flush(1))
    rig.screen.flipAll()
    try expect(rig, 0x44_5566)
    #expect((rig.screen.shown()?.dmabuf != nil) == isLent, "lent again")
    try rig.ok(Request.setScanout(0, 0))
    rig.screen.flipAll()
    try rig.settle()
    try rig.ok(Request.unref(1))
    #expect(rig.statistics.shadowBytes == 0)
  }

  /// New pages are lent whatever stood against the old ones, wherever a copy of these is shown.
  @Test("new pages can be lent, even if the old ones could not", .testHost, arguments: [0, 1] as [UInt32])
  func otherPagesCanBeLent(_ other: UInt32) throws {
    let rig = try rig(true)
    rig.screen.lentRefusal = SinkError(.importing, "not these")
    try create(rig, colour: 0x11_2233)
    try rig.ok(Request.setScanout(0, 1), Request.setScanout(other, 1), Request.flush(1))
    rig.screen.flipAll()
    #expect(rig.screen.shown()?.dmabuf == nil)
    rig.screen.lentRefusal = nil
    let others = rig.pages(3)
    draw(rig, others.map(\.address), 0x44_5566)
    try rig.ok(Request.detach(1), Request.attach(1, others), Request.flush(1))
    rig.screen.flipAll()
    try rig.settle()
    for scanout in [0, other] { #expect(rig.screen.shown(scanout)?.dmabuf != nil, "scanout \(scanout)") }
    try expect(rig, 0x44_5566)
    #expect(rig.statistics.shadowBytes == 0)
    try rig.expectBalance()
  }

  /// What came from odd places of the guest's memory is in no page of it as it is to be shown.
  @Test("a resource keeps what odd transfers brought when the guest takes the pages back", arguments: kinds)
  func whatOddTransfersBrought(
    _ isLent: Bool
  ) throws {
    let rig = try rig(isLent)
    let pages = try create(rig, colour: 0x11_2233)
    try rig.ok(Request.transfer(1, Rectangle(0, 0, 64, 1), offset: 4096))
    draw(rig, pages, 0xee_eeee)
    for step in [.setScanout, .detach, .flush] as [Step] { try perform(step, rig, pages) }
    try expect(rig, 0x11_2233)
    #expect(rig.statistics.shadows.keys.allSatisfy { $0 == "oddTransfer" || $0 == "noDevice" })
  }

  /// The screen has no plane for the cursor, whose image and whose background are of pages that are gone.
  @Test("a cursor is drawn above a picture whose pages are gone", arguments: kinds) func aCursorAboveIt(
    _ isLent: Bool
  ) throws {
    let rig = try rig(isLent)
    let pages = try create(rig, colour: 0x11_2233)
    for step in [.transfer, .setScanout, .flush, .detach, .draw] as [Step] { try perform(step, rig, pages) }
    let image = rig.pages(4)
    draw(rig, image.map(\.address), 0xff_00ff_00)
    try rig.ok(
      Request.create(2, format: 1, 64, 64), Request.attach(2, image),
      Request.transfer(2, Rectangle(0, 0, 64, 64)), Request.detach(2))
    draw(rig, image.map(\.address), 0)
    for (x, y) in [(8, 4), (40, 30), (-60, 0)] as [(Int32, Int32)] {
      #expect(try rig.askCursor(Request.updateCursor(0, 2, x: x, y: y)).type == ResponseType.ok)
      rig.screen.flipAll()
      let pixels = try #require(rig.screen.shown()).pixels()
      let covered = (0..<64 * 48).filter { index in
        (x..<x + 64).contains(Int32(index % 64)) && (y..<y + 64).contains(Int32(index / 64))
      }
      let green = pixels.indices.filter { Array(pixels[$0].prefix(3)) == [0, 0xff, 0] }
      #expect(green == covered, "\(x),\(y)")
    }
    #expect(try rig.askCursor(Request.updateCursor(0, 0)).type == ResponseType.ok)
    rig.screen.flipAll()
    try expect(rig, 0x11_2233)
  }

  /// Another view of the resource was chosen, which cannot be lent, and not flushed when the pages went.
  @Test("after a detach the view that was chosen, but not flushed, can be shown", .testHost)
  func anotherViewWasChosen() throws {
    let rig = try rig(true)
    let pages = try create(rig, colour: 0x11_2233)
    for step in [.transfer, .setScanout, .flush] as [Step] { try perform(step, rig, pages) }
    rig.screen.lentRefusal = SinkError(.part, "no part can be shown")
    try rig.ok(Request.setScanout(0, 1, Rectangle(16, 8, 32, 32)))
    try perform(.detach, rig, pages)
    #expect(rig.statistics.releasedLate == 0 && rig.statistics.liveDMABufs == 0)
    draw(rig, pages, 0xee_eeee)
    try rig.ok(Request.flush(1))
    rig.screen.flipAll()
    #expect(try #require(rig.screen.shown()).layout.width == 32)
    try expect(rig, 0x11_2233)
  }

  /// There is no room to keep it in: what is shown stays, and what is not is black.
  @Test(
    "a detach without room for the content stays within the quota, and a shown copy stays",
    arguments: kinds) func noRoom(_ isLent: Bool) throws
  {
    var quotas = Quotas()
    // One copy of the picture.
    quotas.shadowBytes = 64 * 48 * 4
    let rig = try rig(isLent, quotas: quotas)
    let pages = try create(rig, colour: 0x11_2233)
    for step in [.transfer, .setScanout, .flush, .detach, .draw, .flush] as [Step] {
      try perform(step, rig, pages)
    }
    #expect(rig.statistics.shadowBytes <= quotas.shadowBytes && rig.errors["quota"] == 1)
    if !isLent { try expect(rig, 0x11_2233) }
    try rig.ok(Request.unref(1))
    rig.screen.flipAll()
    try rig.settle()
    #expect(rig.statistics.shadowBytes == 0 && rig.statistics.liveDMABufs == 0)
  }

  /// A resource that nothing was transferred to, and that is shown nowhere, has nothing in it.
  @Test("a detach of a resource without content copies nothing, and nothing is shown", arguments: kinds)
  func nothingToKeep(
    _ isLent: Bool
  ) throws {
    let rig = try rig(isLent)
    _ = try create(rig, colour: 0x11_2233)
    try rig.ok(Request.detach(1))
    #expect(rig.statistics.shadowBytes == 0 && rig.statistics.bytesCopied == 0)
    try rig.ok(Request.setScanout(0, 1), Request.flush(1))
    #expect(rig.errors.isEmpty && rig.screen.next() == nil && rig.screen.shown() == nil)
    try rig.expectBalance()
  }

  /// A scanout may choose a resource before that has its pages: it is shown with the first flush after it has them.
  @Test(
    "a scanout may choose a resource without pages, and shows it once it has some", arguments: [false, true],
    kinds)
  func aScanoutBeforeItsBacking(_ goesAgain: Bool, _ isLent: Bool) throws {
    let rig = try rig(isLent)
    let others = try create(rig, 2, colour: 0x44_5566)
    try rig.ok(Request.setScanout(0, 2), Request.transfer(2), Request.flush(2))
    rig.screen.flipAll()
    let before = rig.screen.shown()?.id
    try rig.ok(Request.create(1), Request.setScanout(0, 1), Request.flush(1))
    rig.screen.flipAll()
    #expect(rig.screen.shown()?.id == before, "there is nothing to be shown yet")
    let pages = rig.pages(3)
    draw(rig, pages.map(\.address), 0x11_2233)
    try rig.ok(Request.attach(1, pages), Request.transfer(1))
    if goesAgain {
      try perform(.detach, rig, pages.map(\.address))
      draw(rig, pages.map(\.address), 0xee_eeee)
    }
    try rig.ok(Request.flush(1))
    rig.screen.flipAll()
    try rig.settle()
    try expect(rig, 0x11_2233)
    #expect(rig.errors.isEmpty && others.count == 3)
    try rig.expectBalance()
  }
}
