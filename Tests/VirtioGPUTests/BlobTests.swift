import Buffers
import Fixtures
import Linux
import Pictures
import Scanout
import SystemPackage
import TestSupport
import Testing

@testable import VirtioGPU

/// Blobs of guest memory: bytes that host and guest share, and images that lie in them anyhow.
@Suite struct BlobTests {
  private static let page = UInt64(systemPageSize)
  private let page = BlobTests.page

  private func rig(_ backing: BackingChoice = .auto, quotas: Quotas = Quotas()) throws -> Rig {
    try Rig(quotas: quotas, backing: backing)
  }

  /// Guest memory in one piece, each byte of which tells its place.
  private func fill(_ rig: Rig, _ count: Int, at address: UInt64, seed: Int = 0) {
    rig.ram.write((0..<count).map { Self.byte($0, seed) }, at: address)
  }

  private static func byte(_ offset: Int, _ seed: Int) -> UInt8 {
    UInt8(truncatingIfNeeded: offset &* 31 &+ offset >> 8 &* 7 &+ seed)
  }

  /// Each pixel that is shown is what lies in the blob at `offset + y * stride + x * 4`.
  private func expect(
    _ frame: Frame?, offset: Int, stride: Int, at corner: (Int, Int) = (0, 0), seed: Int = 0,
    _ location: SourceLocation = #_sourceLocation
  ) throws {
    let frame = try #require(frame, sourceLocation: location)
    let pixels = try frame.pixels()
    var wrong = 0
    for y in 0..<Int(frame.layout.height) {
      for x in 0..<Int(frame.layout.width) {
        let start = offset + (y + corner.1) * stride + (x + corner.0) * 4
        let wanted = (0..<4).map { Self.byte(start + $0, seed) }
        if pixels[y * Int(frame.layout.width) + x] != wanted { wrong += 1 }
      }
    }
    #expect(wrong == 0, "\(wrong) pixels are wrong", sourceLocation: location)
  }

  /// Strides and offsets as drivers choose them, and as nobody does.
  @Test(
    "a blob is shown with the stride and offset of its layout",
    arguments: [
      (64, 48, nil, 0), (64, 48, 256, 4096), (61, 33, 256, 0), (61, 33, 300, 100), (16, 16, 64, 4095),
      (1, 1, 4, 16380), (65, 11, 512, 3),
    ] as [(UInt32, UInt32, UInt32?, UInt32)])
  func showsWhatTheLayoutSays(
    _ width: UInt32, _ height: UInt32, _ stride: UInt32?, _ offset: UInt32
  ) throws {
    let rig = try rig()
    let size = 5 * page
    let start = rig.ram.allocate(Int(size))
    fill(rig, Int(size), at: start)
    try rig.ok(
      Request.createBlob(1, size: size, [(start, UInt32(size))]),
      Request.setScanoutBlob(0, 1, width, height, stride: stride, offset: offset),
      Request.flush(1, Rectangle(0, 0, width, height)))
    rig.screen.flipAll()
    let bytes = Int(stride ?? width * 4)
    try expect(rig.screen.shown(), offset: Int(offset), stride: bytes)
    #expect(rig.statistics.framesShown == 1 && rig.errors.isEmpty)

    // The guest writes without a command, and flushes a part.
    fill(rig, Int(size), at: start, seed: 5)
    try rig.ok(Request.flush(1, Rectangle(0, 0, width, height)))
    rig.screen.flipAll()
    try expect(rig.screen.shown(), offset: Int(offset), stride: bytes, seed: 5)
  }

  /// Two heads side by side in one blob, as two parts of one image and as two images.
  @Test("two heads show two parts of one blob, or two images in it", arguments: [true, false]) func twoHeads(
    asParts: Bool
  ) throws {
    let rig = try rig()
    let size = 8 * page
    let start = rig.ram.allocate(Int(size))
    fill(rig, Int(size), at: start)
    try rig.ok(Request.createBlob(1, size: size, [(start, UInt32(size))]))
    for head: UInt32 in 0...1 {
      try rig.ok(
        asParts
          ? Request.setScanoutBlob(head, 1, 128, 48, stride: 512, area: Rectangle(64 * head, 0, 64, 48))
          : Request.setScanoutBlob(head, 1, 64, 48, stride: 512, offset: 256 * head))
    }
    try rig.ok(Request.flush(1, Rectangle(0, 0, 64, 48)))
    if asParts { try rig.ok(Request.flush(1, Rectangle(64, 0, 64, 48))) }
    rig.screen.flipAll()
    #expect(rig.statistics.framesShown == 2)
    for head in 0...1 {
      try expect(rig.screen.shown(UInt32(head)), offset: 256 * head, stride: 512)
    }
  }

  /// Two heads show images of different sizes in one blob: a flush that is inside one of them is good for both.
  @Test("a flush may lie outside the image of one of two heads") func headsOfDifferentSizes()
    throws
  {
    let rig = try rig()
    try rig.ok(
      Request.createBlob(1, size: 8 * page, [(rig.ram.allocate(8 << 12), 8 << 12)]),
      Request.setScanoutBlob(0, 1, 64, 48), Request.setScanoutBlob(1, 1, 32, 16, offset: 16384),
      Request.flush(1, Rectangle(0, 0, 64, 48)))
    rig.screen.flipAll()
    #expect(rig.statistics.framesShown == 2)
    // What is beside the smaller one concerns the larger one alone.
    try rig.ok(Request.flush(1, Rectangle(40, 20, 8, 8)))
    rig.screen.flipAll()
    #expect(rig.statistics.framesShown == 3 && rig.errors.isEmpty)
  }

  /// Without a page list a blob has no memory until it is given some; and it may be taken and given again, as
  /// Linux does with a buffer that it imported.
  @Test("a blob's memory may come later, be taken back and come again") func memoryMayComeAndGo() throws {
    let rig = try rig()
    let size = 3 * page
    let pages = rig.pages(3)
    try rig.ok(Request.createBlob(1, size: size))
    #expect(try rig.ask(Request.setScanoutBlob(0, 1)).type == ResponseType.unspecified)
    #expect(rig.errors == ["noBacking": 1])
    for _ in 0..<3 {
      try rig.ok(
        Request.attach(1, pages), Request.setScanoutBlob(0, 1),
        Request.flush(1))
      rig.screen.flipAll()
      try rig.ok(Request.detach(1))
    }
    try rig.ok(Request.setScanoutBlob(0, 0), Request.unref(1))
    try rig.expectBalance()
    #expect(rig.statistics.liveResources == 0 && rig.statistics.shadowBytes == 0)
  }

  /// There is nothing to transfer.
  @Test("a transfer to a blob succeeds and copies nothing") func transfersAreNothing() throws {
    let rig = try rig()
    try rig.ok(
      Request.createBlob(1, size: 3 * page, rig.pages(3)), Request.transfer(1, Rectangle(0, 0, 900, 900)),
      Request.transfer(1, Rectangle(0, 0, 64, 48), offset: 77))
    #expect(rig.statistics.bytesCopied == 0)
  }

  @Test("a cursor may be a blob") func aCursorMayBeABlob() throws {
    let rig = try rig()
    let pages = rig.pages(4)
    try rig.ok(Request.createBlob(1, size: 4 * page, pages))
    #expect(try rig.askCursor(Request.updateCursor(0, 1)).type == ResponseType.ok)
    #expect(rig.device.scanouts[0].cursor?.image.pixels.count == 64 * 64 * 4)
  }

  /// However many layouts a guest tries, what is kept of them is bounded.
  @Test("a blob that is shown in 300 layouts keeps few frames and pictures") func layoutsAreNotKeptForEver()
    throws
  {
    let rig = try rig()
    try rig.ok(Request.createBlob(1, size: 16 * page, [(rig.ram.allocate(16 << 12), 16 << 12)]))
    for offset: UInt32 in 0..<300 {
      try rig.ok(
        Request.setScanoutBlob(0, 1, 16, 16, offset: offset * 4), Request.flush(1, Rectangle(0, 0, 16, 16)))
      rig.screen.flipAll()
    }
    let resource = try #require(rig.device.resources[ResourceID(1)])
    #expect(resource.frames.count <= 17 && resource.pictures.count <= 32)
    #expect(rig.statistics.shadowBytes <= 34 * 4096)
    try rig.ok(Request.setScanoutBlob(0, 0), Request.unref(1))
    try rig.expectBalance()
    #expect(rig.statistics.shadowBytes == 0)
  }

  // MARK: What is refused

  /// Blob 2 of three pages exists, and is shown by nobody; image 3 too.
  private func badRig() throws -> Rig {
    let rig = try rig()
    try rig.ok(Request.createBlob(2, size: 3 * page, rig.pages(3)), Request.create(3))
    try rig.ok(Request.attach(3, rig.pages(3)))
    return rig
  }

  static let bad: [BadCommand] = {
    let (invalid, resource) = (ResponseType.invalidParameter, ResponseType.invalidResource)
    let three: [(address: UInt64, length: UInt32)] = [(0x1000, 0x3000)]
    var all = [
      BadCommand("number 0", Request.createBlob(0, size: page, three), resource, "invalidResource"),
      BadCommand("a number twice", Request.createBlob(2, size: page, three), resource, "invalidResource"),
      BadCommand("an image's number", Request.createBlob(3, size: page, three), resource, "invalidResource"),
      BadCommand("an unknown flag", Request.createBlob(1, size: page, three, flags: 8), invalid, "blob"),
      BadCommand("all flags", Request.createBlob(1, size: page, three, flags: .max), invalid, "blob"),
      BadCommand("no size", Request.createBlob(1, size: 0, three), invalid, "size"),
      BadCommand("half a page", Request.createBlob(1, size: page / 2, three), invalid, "size"),
      BadCommand("a page and a byte", Request.createBlob(1, size: page + 1, three), invalid, "size"),
      BadCommand(
        "2^64 - 4096 bytes", Request.createBlob(1, size: 0 &- 4096, three), invalid, "size"),
      BadCommand(
        "more entries than there are", Request.createBlob(1, size: page, three, count: 2), invalid,
        "malformedCommand"),
      BadCommand(
        "a million entries", Request.createBlob(1, size: page, three, count: 1_000_000),
        ResponseType.outOfMemory, "quota"),
      BadCommand("a hole", Request.createBlob(1, size: page, [(0xb0000, 0x1000)]), invalid, "memory"),
      BadCommand("nowhere", Request.createBlob(1, size: page, [(1 << 60, 0x1000)]), invalid, "memory"),
      BadCommand(
        "an end past 2^64", Request.createBlob(1, size: page, [(0 &- 4096, 0x2000)]), invalid, "memory"),
      BadCommand("SET_SCANOUT of a blob", Request.setScanout(0, 2), invalid, "blob"),
      BadCommand("of an image", Request.setScanoutBlob(0, 3), invalid, "blob"),
      BadCommand("of nothing", Request.setScanoutBlob(0, 9), resource, "invalidResource"),
      BadCommand(
        "no such scanout", Request.setScanoutBlob(2, 2), ResponseType.invalidScanout, "invalidScanout"),
      BadCommand("a stride of 0", Request.setScanoutBlob(0, 2, stride: 0), invalid, "stride"),
      BadCommand("a stride too small", Request.setScanoutBlob(0, 2, stride: 255), invalid, "stride"),
      BadCommand("a stride too large", Request.setScanoutBlob(0, 2, stride: 257), invalid, "size"),
      BadCommand("the largest stride", Request.setScanoutBlob(0, 2, stride: .max), invalid, "size"),
      BadCommand("an offset too large", Request.setScanoutBlob(0, 2, offset: 1), invalid, "size"),
      BadCommand("the largest offset", Request.setScanoutBlob(0, 2, offset: .max), invalid, "size"),
      BadCommand("no width", Request.setScanoutBlob(0, 2, 0, 48), invalid, "size"),
      BadCommand("no height", Request.setScanoutBlob(0, 2, 64, 0), invalid, "size"),
      BadCommand("a width that wraps", Request.setScanoutBlob(0, 2, 0x4000_0001, 1), invalid, "size"),
      BadCommand("one row more", Request.setScanoutBlob(0, 2, 64, 49), invalid, "size"),
      BadCommand(
        "an area of nothing", Request.setScanoutBlob(0, 2, area: Rectangle(0, 0, 0, 0)), invalid, "rectangle"),
      BadCommand(
        "an area that wraps", Request.setScanoutBlob(0, 2, area: Rectangle(1, 0, .max, 1)), invalid,
        "rectangle"),
      BadCommand(
        "an area outside", Request.setScanoutBlob(0, 2, area: Rectangle(1, 0, 64, 48)), invalid, "rectangle"),
    ]
    for memory: UInt32 in [0, 2, 3, 4, .max] {
      all.append(
        BadCommand(
          "memory \(memory)", Request.createBlob(1, size: page, three, memory: memory), invalid, "blob"))
    }
    for format: UInt32 in [0, 5, 66, 133, 135, .max] {
      all.append(
        BadCommand("format \(format)", Request.setScanoutBlob(0, 2, format: format), invalid, "format"))
    }
    return all
  }()

  @Test("a wrong command about a blob is refused", arguments: bad) func isRefused(_ command: BadCommand)
    throws
  { try command.check(badRig()) }

  /// A flush must be inside each image that it concerns.
  @Test("a flush must be inside each image that it concerns") func aFlushOutside() throws {
    let rig = try badRig()
    try rig.ok(Request.setScanoutBlob(0, 2), Request.flush(2))
    rig.screen.flipAll()
    for area in [Rectangle(0, 0, 65, 48), Rectangle(64, 0, 1, 1), Rectangle(1, 0, .max, 1)] {
      try BadCommand("\(area)", Request.flush(2, area), ResponseType.invalidParameter, "rectangle").check(rig)
    }
  }

  /// What a driver did not choose it does not have: EDID, names, blobs.
  @Test(
    "a command of a feature that the driver did not accept is refused",
    arguments: [0x10a, 0x10b, 0x10c, 0x10d] as [UInt32]) func notChosen(_ type: UInt32) throws
  {
    let rig = try Rig(features: 0)
    let body = [UInt8](repeating: 0, count: 104)
    try BadCommand("\(hex(type))", Request.header(type) + body, ResponseType.unspecified, "unknownCommand")
      .check(rig)
  }

  @Test("a blob counts against the quota of resources") func quotasCount() throws {
    var quotas = Quotas()
    quotas.resources = 1
    let rig = try rig(quotas: quotas)
    try rig.ok(Request.createBlob(1, size: page, rig.pages(1)))
    try BadCommand(
      "a second one", Request.createBlob(2, size: page, rig.pages(1)), ResponseType.outOfMemory, "quota"
    ).check(rig)
  }

  /// What cannot be lent and may not be copied leaves no trace.
  @Test("a blob that must be lent, but cannot be, is refused and changes nothing") func lentOrNothing() throws
  {
    let rig = try rig(.lent)
    try BadCommand(
      "no udmabuf", Request.createBlob(1, size: page, rig.pages(1)), ResponseType.outOfMemory, "noDevice"
    ).check(rig)
  }
}

/// The same on the real `/dev/udmabuf`.
@Suite(.testHost, .serialized) struct BlobLendTests {
  private let page = UInt64(systemPageSize)

  @Test("all layouts of a lent blob share one dma-buf, which ends with the blob") func isLent() throws {
    let rig = try Rig(.real)
    let pages = rig.pages(12)
    try rig.ok(Request.createBlob(1, size: 12 * page, pages))
    for (index, offset) in ([0, 4096, 8192, 0] as [UInt32]).enumerated() {
      try rig.ok(Request.setScanoutBlob(0, 1, offset: offset), Request.flush(1))
      rig.screen.flipAll()
      let frame = try #require(rig.screen.shown())
      #expect(frame.dmabuf != nil && frame.layout.offset == offset)
      #expect(rig.device.resources[ResourceID(1)]?.frames.count == min(index + 1, 3))
    }
    #expect(rig.statistics.bytesCopied == 0 && rig.statistics.liveDMABufs == 1)
    // Its pages come back when the last of its frames is off the screen.
    let head = rig.post(Request.unref(1))
    rig.screen.flipAll()
    try rig.settle()
    #expect(rig.answer()?.head == head)
    #expect(rig.statistics.liveDMABufs == 0 && rig.screen.forgotten.count == 3)
  }
}
