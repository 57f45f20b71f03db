import Buffers
import Fixtures
import Guest
import Linux
import Scanout
import TestSupport
import Testing
import Udmabuf
import Virtio

@testable import VirtioGPU

/// Guest memory on its way to the screen.
@Suite(.testHost, .serialized) struct LendTests {
  private let page = systemPageSize

  @Test("a resource is lent when it has pages, shown at its first flush, and gone at its unref")
  func fromCreationToTheScreen() throws {
    let rig = try Rig(.real)
    let pages = try rig.lend(1)
    #expect(rig.statistics.liveDMABufs == 1 && rig.statistics.pinnedBytes == 3 * page)
    #expect(rig.statistics.buffersLent == 0, "nobody has seen it yet")
    try rig.ok(Request.setScanout(0, 1), Request.transfer(1))
    #expect(rig.screen.events.isEmpty, "it comes on the screen with its first flush")
    try rig.ok(Request.flush(1))
    let frame = try #require(rig.screen.next())
    let whole = Rectangle(0, 0, 64, 48)
    #expect(rig.screen.events == [.shows(frame: frame.id, source: whole, damage: whole, scanout: 0)])
    #expect(frame.layout == FrameLayout(width: 64, height: 48, format: .xrgb8888, stride: 256))
    rig.screen.flip()

    // What is on the screen are the guest's own pages, in the order of the list.
    let view = try #require(frame.dmabuf).map()
    for (index, page) in pages.enumerated() {
      rig.ram.write(UInt32(index) + 7, at: page.address + 16)
      #expect(view.load(UInt32.self, at: index * Int(self.page) + 16) == UInt32(index) + 7)
    }
    let all = rig.statistics
    #expect(all.buffersLent == 1 && all.pagesLent == 3 && all.bytesLent == 3 * page)
    #expect(all.entriesReported == 3 && all.itemsJoined == 3 && all.bytesCopied == 0)
    #expect(all.flushes == 1 && all.framesShown == 1 && all.protocolErrors.isEmpty)

    try rig.ok(Request.setScanout(0, 0))
    rig.screen.flip()
    try rig.ok(Request.unref(1))
    #expect(rig.screen.shown() == nil && rig.screen.forgotten == [frame.id])
    #expect(rig.statistics.liveDMABufs == 0 && rig.statistics.pinnedBytes == 0)
    #expect(rig.statistics.liveResources == 0 && rig.statistics.releasedLate == 0)
    try rig.expectBalance()
  }

  /// TRANSFER_TO_HOST_2D takes no snapshot: what is drawn later shows too, and nothing is copied.
  @Test("a transfer copies nothing, and later drawing is seen") func transferCopiesNothing() throws {
    let rig = try Rig(.real)
    let pages = try rig.lend(1)
    try rig.ok(Request.setScanout(0, 1), Request.flush(1))
    rig.screen.flip()
    let view = try #require(rig.screen.shown()?.dmabuf).map()
    rig.ram.write(UInt32(1), at: pages[0].address)
    try rig.ok(Request.transfer(1))
    rig.ram.write(UInt32(2), at: pages[0].address)
    #expect(view.load(UInt32.self, at: 0) == 2)
    #expect(rig.statistics.bytesCopied == 0)
  }

  @Test(
    "a transfer inside the image is accepted",
    arguments: [
      (Rectangle(0, 0, 64, 48), 0), (Rectangle(0, 0, 1, 1), 12284), (Rectangle(63, 47, 1, 1), 12284),
      (Rectangle(10, 10, 20, 20), 2600), (Rectangle(0, 0, 0, 0), 0), (Rectangle(64, 48, 0, 0), .max),
    ] as [(Rectangle, UInt64)])
  func transferInside(_ area: Rectangle, _ offset: UInt64) throws {
    let rig = try Rig(.real)
    try rig.lend(1)
    try rig.ok(Request.transfer(1, area, offset: offset))
    #expect(rig.errors.isEmpty)
  }

  @Test("a page list may be cut into any descriptors", arguments: [1, 2, 3, 16, 79, 80])
  func pageListInPieces(_ pieces: Int) throws {
    let rig = try Rig(.real)
    let pages = rig.pages(3)
    try rig.ok(Request.create(1))
    // 80 bytes: header, id and count, three entries.
    #expect(try rig.ask(Request.attach(1, pages), pieces: pieces).type == ResponseType.ok)
    let buffer = try #require(rig.device.resources[ResourceID(1)]?.buffer)
    let high = rig.ram.blocks[2]
    #expect(buffer.ranges.map(\.offset) == pages.map { $0.address - high.address + high.offset })
  }

  struct List: CustomTestStringConvertible {
    let testDescription: String
    let entries: [(address: UInt64, length: UInt32)]
    /// Offsets in the file and lengths, in pages.
    let expected: [(UInt64, UInt64)]
    init(
      _ name: String, _ entries: [(address: UInt64, length: UInt32)], _ expected: [(UInt64, UInt64)]
    ) { (testDescription, self.entries, self.expected) = (name, entries, expected) }
  }

  /// An image of three pages. Guest addresses below 8 MiB are the same in the file; 4 GiB is at 8 MiB.
  static let lists: [List] = [
    List("one entry", [(0x10_0000, 0x3000)], [(0x100, 3)]),
    List("neighbours join", [(0x10_0000, 0x1000), (0x10_1000, 0x1000), (0x10_2000, 0x1000)], [(0x100, 3)]),
    List(
      "apart", [(0x10_2000, 0x1000), (0x10_1000, 0x1000), (0x10_0000, 0x1000)],
      [(0x102, 1), (0x101, 1), (0x100, 1)]),
    List("of two regions", [(0x1_0000_1000, 0x1000), (0x10_0000, 0x2000)], [(0x801, 1), (0x100, 2)]),
    List(
      "from one region into the next of the file", [(0x7f_f000, 0x1000), (0x1_0000_0000, 0x2000)],
      [(0x7ff, 3)]),
    List(
      "the same page again and again", [(0x10_0000, 0x1000), (0x10_0000, 0x1000), (0x10_0000, 0x1000)],
      [(0x100, 1), (0x100, 1), (0x100, 1)]),
    List("overlapping", [(0x10_0000, 0x2000), (0x10_1000, 0x1000)], [(0x100, 2), (0x101, 1)]),
    List("one entry too many", [(0x10_0000, 0x3000), (0x20_0000, 0x1000)], [(0x100, 3)]),
    List("the last is too long", [(0x20_0000, 0x1000), (0x10_0000, 0x10_0000)], [(0x200, 1), (0x100, 2)]),
    List("the first is too long", [(0x10_0000, 0x10_0000), (0x30_0000, 0x1000)], [(0x100, 3)]),
    List("joined, and too long", [(0x10_0000, 0x2000), (0x10_2000, 0x2000)], [(0x100, 3)]),
    List("neighbours that meet inside a page", [(0x10_0000, 0x1800), (0x10_1800, 0x1800)], [(0x100, 3)]),
    List("a length that is no pages is enough for the rest", [(0x10_0000, 0x3008)], [(0x100, 3)]),
  ]

  @Test("each kind of page list gives a dma-buf of the image's pages, in their order", arguments: lists)
  func pageLists(_ list: List) throws {
    let rig = try Rig(.real)
    try rig.ok(Request.create(1), Request.attach(1, list.entries), Request.setScanout(0, 1), Request.flush(1))
    rig.screen.flip()
    let buffer = try #require(rig.device.resources[ResourceID(1)]?.buffer)
    #expect(buffer.ranges.map { $0.offset / page } == list.expected.map(\.0))
    #expect(buffer.ranges.map { $0.length / page } == list.expected.map(\.1))
    #expect(buffer.ranges.allSatisfy { $0.offset % page == 0 && $0.length % page == 0 })
    // No more than the image's pages are lent.
    #expect(buffer.dmabuf?.size == 3 * page && rig.statistics.pinnedBytes == 3 * page)
    let all = rig.statistics
    #expect(all.entriesReported == UInt64(list.entries.count))
    #expect(all.itemsJoined == UInt64(list.expected.count) && all.pagesLent == 3)
    let view = try #require(rig.screen.shown()?.dmabuf).map()
    var place = 0
    for (offset, pages) in list.expected {
      let guest = offset >= 0x800 ? 0x1_0000_0000 + (offset - 0x800) * page : offset * page
      rig.ram.write(UInt32(place) + 1, at: guest)
      #expect(view.load(UInt32.self, at: place) == UInt32(place) + 1)
      place += Int(pages * page)
    }
  }

  /// An image that does not fill its last page takes all of it.
  @Test(
    "an image takes whole pages",
    arguments: [(1, 1, 1), (1024, 1, 1), (1025, 1, 2), (50, 41, 3), (64, 48, 3)] as [(UInt32, UInt32, UInt64)]
  )
  func wholePages(_ width: UInt32, _ height: UInt32, _ pages: UInt64) throws {
    let rig = try Rig(.real)
    try rig.ok(Request.create(1, width, height), Request.attach(1, rig.pages(3)))
    #expect(rig.statistics.pinnedBytes == pages * page)
  }

  // MARK: Scanouts

  @Test("a scanout shows a part of an image, and gets only the damage inside it") func partsOfAnImage() throws
  {
    let rig = try Rig(.real)
    try rig.lend(1)
    let (left, right) = (Rectangle(0, 0, 32, 48), Rectangle(32, 0, 32, 48))
    try rig.ok(Request.setScanout(0, 1, left), Request.setScanout(1, 1, right))
    // Only what is in the part is damage, and only the scanouts that show it are concerned.
    try rig.ok(Request.flush(1))
    rig.screen.flipAll()
    try rig.ok(Request.flush(1, Rectangle(40, 4, 8, 8)), Request.flush(1, Rectangle(30, 0, 4, 1)))
    rig.screen.flipAll()
    let id = try #require(rig.screen.shown()).id
    #expect(
      rig.screen.events == [
        .shows(frame: id, source: left, damage: left, scanout: 0),
        .shows(frame: id, source: right, damage: right, scanout: 1),
        .shows(frame: id, source: right, damage: Rectangle(40, 4, 8, 8), scanout: 1),
        .shows(frame: id, source: left, damage: Rectangle(30, 0, 2, 1), scanout: 0),
        .shows(frame: id, source: right, damage: Rectangle(32, 0, 2, 1), scanout: 1),
      ])
    #expect(rig.statistics.flushes == 5 && rig.statistics.buffersLent == 1)
    try rig.expectBalance()
  }

  @Test("two scanouts show their own resources, and one goes dark alone")
  func twoScanoutsWithTheirOwnResources() throws {
    let rig = try Rig(.real)
    try rig.lend(1)
    try rig.lend(2)
    try rig.ok(Request.setScanout(0, 1), Request.setScanout(1, 2), Request.flush(1))
    #expect(rig.screen.next(1) == nil)
    try rig.ok(Request.flush(2))
    rig.screen.flipAll()
    #expect(rig.screen.shown(0) !== rig.screen.shown(1) && rig.screen.shown(1) != nil)
    try rig.ok(Request.setScanout(0, 0))
    rig.screen.flipAll()
    #expect(rig.screen.shown(0) == nil && rig.screen.shown(1) != nil)
    #expect(rig.statistics.flushes == 2)
    try rig.expectBalance()
  }

  @Test("a flush of what no scanout shows presents nothing") func aFlushWithoutAScanoutShowsNothing() throws {
    let rig = try Rig(.real)
    try rig.lend(1)
    try rig.lend(2)
    try rig.ok(Request.flush(1), Request.setScanout(0, 1), Request.flush(2))
    try rig.ok(Request.flush(1, Rectangle(0, 0, 0, 0)), Request.flush(1, Rectangle(64, 48, 0, 0)))
    try rig.ok(Request.setScanout(0, 1, Rectangle(0, 0, 32, 48)), Request.flush(1, Rectangle(32, 0, 32, 48)))
    #expect(rig.screen.events.isEmpty && rig.statistics.flushes == 0 && rig.errors.isEmpty)
  }

  @Test("the sink is asked once for each scanout and part in which a frame is shown")
  func aSinkIsAskedOnceForEachPlace() throws {
    let rig = try Rig(.real)
    try rig.lend(1)
    for _ in 0..<10 { try rig.ok(Request.setScanout(0, 1), Request.flush(1)) }
    #expect(rig.screen.prepareCount == 1)
    try rig.ok(Request.setScanout(1, 1), Request.setScanout(0, 1, Rectangle(0, 0, 32, 48)))
    #expect(rig.screen.prepareCount == 3)
    // However many places a guest tries, what is presented was prepared; the screen checks that.
    for x in 0..<UInt32(40) {
      try rig.ok(Request.setScanout(0, 1, Rectangle(x, 0, 20, 48)), Request.flush(1))
    }
    try rig.ok(Request.setScanout(0, 1), Request.flush(1))
    try rig.expectBalance()
    // A new backing is a new frame.
    let count = rig.screen.prepareCount
    try rig.ok(Request.setScanout(0, 0), Request.setScanout(1, 0))
    rig.screen.flipAll()
    try rig.ok(Request.detach(1), Request.attach(1, rig.pages(3)), Request.setScanout(0, 1))
    #expect(rig.screen.prepareCount == count + 1)
  }

  @Test(
    "a refusal of the sink is an error to the guest and a line in the log, and the old picture stays",
    arguments: [SinkError.Refusal.format, .stride, .mode, .importing, .other])
  func aSinkRefuses(_ refusal: SinkError.Refusal) throws {
    let rig = try Rig(.real)
    try rig.lend(1)
    try rig.lend(2)
    try rig.ok(Request.setScanout(0, 1), Request.flush(1))
    rig.screen.flip()
    rig.screen.refusal = SinkError(refusal, "it has its reasons")
    var state = rig.state
    #expect(try rig.ask(Request.setScanout(0, 2)).type == ResponseType.unspecified)
    // It is told to forget what it did not take.
    state.screen[2] += 1
    #expect(rig.state == state && rig.errors == [refusal.rawValue: 1])
    #expect(rig.log.warnings.count == 1 && rig.log.warnings[0].contains("it has its reasons"))
    #expect(rig.log.warnings[0].contains("scanout 0") && rig.log.warnings[0].contains("resource 2"))
    // What was on the screen stays, and goes on.
    try rig.ok(Request.setScanout(0, 1), Request.flush(1), Request.unref(2))
    rig.screen.refusal = nil
    try rig.lend(2)
    try rig.ok(Request.setScanout(0, 2), Request.flush(2))
    try rig.expectBalance()
  }

  /// A frame that the sink took once, and does not take now, is not left with it.
  @Test("the sink forgets a frame that it refuses later") func whatIsRefusedLaterIsForgotten() throws {
    let rig = try Rig(.real, backing: .auto)
    try rig.lend(1)
    try rig.lend(2)
    try rig.ok(Request.setScanout(0, 1), Request.flush(1))
    let frame = try #require(rig.screen.next())
    rig.screen.flip()
    try rig.ok(Request.setScanout(0, 2), Request.flush(2))
    rig.screen.flip()
    // Another screen, which does not agree.
    rig.screen.outputs[0].name = "another"
    rig.device.scanouts.outputsChanged()
    rig.screen.lentRefusal = SinkError(.mode, "not that one")
    try rig.ok(Request.setScanout(0, 1))
    #expect(rig.screen.forgotten.contains(frame.id))
    #expect(rig.device.resources[ResourceID(1)]?.frames.isEmpty == true)
    rig.screen.flipAll()
    try rig.ok(Request.flush(1))
    try rig.expectBalance()
  }

  // MARK: Quotas and limits

  @Test("a list beyond the quota of pinned bytes is refused, until pages come back") func pinnedQuota() throws
  {
    var quotas = Quotas()
    quotas.pinnedBytes = 7 * page
    let rig = try Rig(.real, quotas: quotas)
    try rig.lend(1)
    try rig.lend(2)
    try rig.ok(Request.create(3), Request.create(4, 1, 1))
    let state = rig.state
    #expect(try rig.ask(Request.attach(3, rig.pages(3))).type == ResponseType.outOfMemory)
    #expect(rig.state == state && rig.errors == ["quota": 1])
    #expect(rig.log.warnings[0].contains("; raise pinnedBytes"))
    #expect(rig.log.warnings[0].contains("\(9 * page)") && rig.log.warnings[0].contains("\(7 * page)"))
    // What fits is lent, and what comes back can be lent again.
    try rig.ok(Request.attach(4, rig.pages(1)), Request.unref(1), Request.attach(3, rig.pages(3)))
    #expect(rig.statistics.pinnedBytes == 7 * page)
  }

  @Test("the quota of bookkeeping counts the joined ranges of a list, not its entries")
  func bookkeepingQuota() throws {
    var quotas = Quotas()
    let item = UInt64(MemoryLayout<MemfdRange>.stride)
    quotas.bookkeepingBytes = 1024 + 2 * item
    let rig = try Rig(.real, quotas: quotas)
    try rig.ok(Request.create(1))
    #expect(try rig.ask(Request.attach(1, rig.pages(3))).type == ResponseType.outOfMemory)
    #expect(rig.errors == ["quota": 1] && rig.log.warnings[0].contains("; raise bookkeepingBytes"))
    // Ten entries that join to one are cheap.
    let start = rig.ram.allocate(Int(3 * page))
    let joined = (0..<12).map { (address: start + UInt64($0) * 1024, length: UInt32(1024)) }
    for _ in 0..<3 { try rig.ok(Request.attach(1, joined), Request.detach(1)) }
    try rig.ok(Request.attach(1, joined), Request.unref(1), Request.create(1))
  }

  /// The kernel's `list_limit`: the line names the limit, what is needed, and what to do.
  @Test("list_limit is reported with its value, the need and the remedy") func listLimit() throws {
    let rig = try Rig(.real, ram: GuestRAM.likeQEMU(low: 8 << 20, high: 32 << 20))
    // Rows of one page each.
    try rig.ok(Request.create(1, 1024, 1025), Request.create(2, 1024, 1024))
    let pages = rig.pages(1025)
    try TestHost.withUdmabufLimits(items: 1024) { () throws in
      let state = rig.state
      #expect(try rig.ask(Request.attach(1, pages)).type == ResponseType.outOfMemory)
      #expect(rig.state == state && rig.errors == ["listLimit": 1])
      for word in ["list_limit", "1024", "1025", "echo 2048 > /sys/module/udmabuf/parameters/list_limit"] {
        #expect(rig.log.warnings[0].contains(word), "\(rig.log.warnings[0])")
      }
      // As many as the limit are lent, also where the guest's list is longer.
      try rig.ok(Request.attach(2, pages))
      #expect(rig.device.resources[ResourceID(2)]?.buffer?.ranges.count == 1024)
    }
    // The remedy helps at once.
    try TestHost.withUdmabufLimits(items: 2048) { try rig.ok(Request.attach(1, pages)) }
    #expect(rig.statistics.pinnedBytes == (1024 + 1025) * page)
  }

  /// The kernel's `size_limit_mb`.
  @Test("size_limit_mb is reported with its value, the need and the remedy") func sizeLimit() throws {
    let rig = try Rig(.real, ram: GuestRAM.likeQEMU(low: 8 << 20, high: 80 << 20))
    try rig.ok(Request.create(1, 4096, 4097))
    let entry = (address: UInt64(0x1_0000_0000), length: UInt32(66 << 20))
    try TestHost.withUdmabufLimits(megabytes: 64) { () throws in
      let state = rig.state
      #expect(try rig.ask(Request.attach(1, [entry])).type == ResponseType.outOfMemory)
      #expect(rig.state == state && rig.errors == ["sizeLimit": 1])
      for word in [
        "size_limit_mb", " 64;", "\(4096 * 4097 * 4)",
        "echo 65 > /sys/module/udmabuf/parameters/size_limit_mb",
      ] {
        #expect(rig.log.warnings[0].contains(word), "\(rig.log.warnings[0])")
      }
    }
    try TestHost.withUdmabufLimits(megabytes: 65) { try rig.ok(Request.attach(1, [entry])) }
  }

  @Test("memory without the seal is not lent, and the log names the seal") func memoryThatIsNotSealed() throws
  {
    let rig = try Rig(.real, ram: GuestRAM([.init(at: 0, length: 16 << 20)], seals: []))
    try rig.ok(Request.create(1))
    let state = rig.state
    #expect(try rig.ask(Request.attach(1, rig.pages(3))).type == ResponseType.outOfMemory)
    #expect(rig.state == state && rig.errors == ["notSealedMemfd": 1])
    #expect(rig.log.warnings[0].contains("F_SEAL_SHRINK"))
  }

  // MARK: Memory that comes and goes

  /// What is lent stays lent when its memory is unplugged; a list that names it later is refused.
  @Test("a lent buffer stays when its memory leaves the table, and new lists of it are refused")
  func anotherMemoryTable() throws {
    let blocks = [
      GuestRAM.Block(at: 0, length: 8 << 20), GuestRAM.Block(at: 1 << 30, length: 4 << 20, file: 1),
    ]
    let rig = try Rig(.real, ram: GuestRAM(blocks))
    let far: [(address: UInt64, length: UInt32)] = [(1 << 30, 0x3000)]
    try rig.ok(Request.create(1), Request.attach(1, far), Request.setScanout(0, 1), Request.flush(1))
    rig.screen.flip()
    let all = rig.ram.memory
    rig.deviceQueue(0).memory = try GuestMemory([rig.ram.region(blocks[0])])
    try rig.ok(Request.flush(1), Request.transfer(1))
    rig.screen.flip()
    rig.ram.write(UInt32(77), at: 1 << 30)
    let view = try #require(rig.screen.shown()?.dmabuf).map()
    #expect(view.load(UInt32.self, at: 0) == 77)

    try rig.ok(Request.create(2))
    #expect(try rig.ask(Request.attach(2, far)).type == ResponseType.invalidParameter)
    #expect(rig.errors == ["memory": 1])
    rig.deviceQueue(0).memory = all
    try rig.ok(Request.attach(2, far))
    try rig.expectBalance()
  }
}
