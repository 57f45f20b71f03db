import Buffers
import Fixtures
import Linux
import Scanout
import SystemPackage
import TestSupport
import Testing

@testable import VirtioGPU

/// An image in the guest's memory that can be computed, drawn through the driver's own mappings.
private struct Image {
  let width: UInt32
  let height: UInt32
  let entries: [(address: UInt64, length: UInt32)]
  private var start: [(UInt64, Int)] = []

  init(_ width: UInt32, _ height: UInt32, _ entries: [(address: UInt64, length: UInt32)]) {
    (self.width, self.height, self.entries) = (width, height, entries)
    var end = 0
    for (address, length) in entries {
      start.append((address, end))
      end += Int(length)
    }
  }

  /// The four bytes of a pixel: they tell its place and the number of the drawing.
  static func bytes(_ x: UInt32, _ y: UInt32, _ number: UInt8) -> [UInt8] {
    [
      UInt8(truncatingIfNeeded: x), UInt8(truncatingIfNeeded: y), number,
      UInt8(truncatingIfNeeded: x ^ y &+ 7),
    ]
  }

  func address(_ offset: Int) -> UInt64 {
    let entry = start.last { $0.1 <= offset }!
    return entry.0 + UInt64(offset - entry.1)
  }

  func draw(_ number: UInt8, _ part: Rectangle? = nil, in ram: GuestRAM) {
    let part = part ?? Rectangle(0, 0, width, height)
    let end = entries.reduce(0) { $0 + Int($1.length) }
    for y in part.y..<part.y + part.height {
      for x in part.x..<part.x + part.width {
        for (index, byte) in Self.bytes(x, y, number).enumerated() {
          let offset = Int((y * width + x) * 4) + index
          if offset < end { ram.write(byte, at: address(offset)) }
        }
      }
    }
  }
}

/// Pictures that are copied: the same on the screen as what is lent.
@Suite struct ShadowTests {
  private let page = UInt32(systemPageSize)
  private let whole = Rectangle(0, 0, 64, 48)

  /// A copy takes descriptors too, and leaves as many free as a lent buffer does.
  @Test("copies leave the reserved descriptors free") func descriptorsAreKept() throws {
    var quotas = Quotas()
    quotas.descriptors = Quotas.reservedDescriptors + 1
    let rig = try rig(quotas: quotas)
    try rig.ok(Request.create(1), Request.attach(1, rig.pages(3)))
    #expect(try rig.ask(Request.setScanout(0, 1)).type == ResponseType.unspecified)
    #expect(rig.log.warnings[0].contains("RLIMIT_NOFILE") && rig.statistics.shadowBytes == 0)
  }

  /// Those of copies that nothing shows are given up first. Not beside other tests, which take descriptors meanwhile.
  @Test("the descriptors of copies that nothing shows are given up first", .testHost)
  func descriptorsComeBack() throws {
    // Nothing that a rig keeps open is above.
    let spare = try rig()
    let next = try Memfd.create(name: "next", size: 1).withDescriptor { $0.withRaw { Int($0) } }
    var quotas = Quotas()
    quotas.descriptors = 2 * next + 4 + Quotas.reservedDescriptors
    let rig = try rig(quotas: quotas)
    try rig.ok(Request.create(1), Request.attach(1, rig.pages(3)))
    for count in 0..<UInt32(2 * next) {
      let part = Rectangle(count % 40, count / 40, 20, 20)
      try rig.ok(Request.setScanout(0, 1, part), Request.flush(1))
      rig.screen.flipAll()
    }
    #expect(rig.errors.isEmpty && spare.errors.isEmpty)
  }

  private func rig(_ backing: BackingChoice = .auto, quotas: Quotas = Quotas()) throws -> Rig {
    try Rig(quotas: quotas, backing: backing)
  }

  /// A resource of 64x48 pixels in scattered pages, drawn with `number`, and shown on scanout 0.
  private func shown(_ rig: Rig, _ number: UInt8 = 1, format: UInt32 = 2) throws -> Image {
    let image = Image(64, 48, rig.pages(3))
    image.draw(number, in: rig.ram)
    try rig.ok(
      Request.create(1, format: format), Request.attach(1, image.entries), Request.transfer(1),
      Request.setScanout(0, 1), Request.flush(1))
    rig.screen.flipAll()
    return image
  }

  private func expect(
    _ frame: Frame?, _ number: (_ x: UInt32, _ y: UInt32) -> UInt8, at corner: (UInt32, UInt32) = (0, 0),
    _ location: SourceLocation = #_sourceLocation
  ) throws {
    let frame = try #require(frame, sourceLocation: location)
    let pixels = try frame.pixels()
    var wrong: [String] = []
    for y in 0..<frame.layout.height {
      for x in 0..<frame.layout.width {
        let (column, row) = (x + corner.0, y + corner.1)
        let wanted = Image.bytes(column, row, number(column, row))
        let seen = pixels[Int(y * frame.layout.width + x)]
        if seen != wanted { wrong.append("\(x),\(y): \(seen) instead of \(wanted)") }
      }
    }
    #expect(wrong.isEmpty, "\(wrong.prefix(3))", sourceLocation: location)
  }

  @Test("a copy has the guest's pixels, and a flush copies only its part") func showsTheSamePixels() throws {
    let rig = try rig()
    let image = try shown(rig)
    let frame = try #require(rig.screen.shown())
    #expect(frame.dmabuf == nil)
    try expect(frame) { _, _ in 1 }
    let all = rig.statistics
    #expect(all.bytesCopied == 64 * 48 * 4 && all.shadows == ["noDevice": 1])
    #expect(all.framesShown == 1 && all.buffersLent == 0 && all.liveDMABufs == 0 && all.pinnedBytes == 0)
    #expect(all.shadowBytes == 64 * 48 * 4 && all.protocolErrors.isEmpty)
    #expect(rig.log.lines.count { $0.text.contains("(noDevice)") && $0.text.contains("CONFIG_UDMABUF") } == 1)

    // Only what changed is copied.
    image.draw(2, in: rig.ram)
    let part = Rectangle(5, 7, 11, 13)
    try rig.ok(Request.transfer(1, part, offset: UInt64(7 * 256 + 5 * 4)), Request.flush(1, part))
    #expect(rig.statistics.bytesCopied == all.bytesCopied + 11 * 13 * 4)
    #expect(rig.screen.events.last == .shows(frame: frame.id, source: whole, damage: part, scanout: 0))
    rig.screen.flipAll()
    try expect(rig.screen.shown()) { x, y in
      (5..<16).contains(x) && (7..<20).contains(y) ? 2 : 1
    }
    try rig.expectBalance()
  }

  /// What was transferred but not flushed comes with the next flush, wherever that is.
  @Test("a copy takes over earlier transfers at the next flush") func transfersCount() throws {
    let rig = try rig()
    let image = try shown(rig)
    image.draw(3, in: rig.ram)
    try rig.ok(
      Request.transfer(1, Rectangle(0, 0, 4, 4)), Request.transfer(1, Rectangle(2, 2, 4, 4), offset: 520),
      Request.flush(1, Rectangle(40, 40, 8, 8)))
    rig.screen.flipAll()
    try expect(rig.screen.shown()) { x, y in
      x < 6 && y < 6 || (40..<48).contains(x) && (40..<48).contains(y) ? 3 : 1
    }
  }

  @Test("a picture that comes back to the screen is copied whole") func aFlipTakesOverAll() throws {
    let rig = try rig()
    let image = try shown(rig)
    try rig.ok(Request.create(2), Request.attach(2, rig.pages(3)), Request.setScanout(0, 2), Request.flush(2))
    rig.screen.flipAll()
    // The first one is drawn and flushed while it is not shown.
    image.draw(9, in: rig.ram)
    try rig.ok(
      Request.transfer(1), Request.flush(1), Request.setScanout(0, 1), Request.flush(1, Rectangle(0, 0, 1, 1))
    )
    rig.screen.flipAll()
    try expect(rig.screen.shown()) { _, _ in 9 }
    #expect(rig.screen.allocateCount == 2, "a place for each buffer, and no more")
    try rig.expectBalance()
  }

  struct Colours: CustomTestStringConvertible {
    let testDescription: String
    let format: UInt32
    /// Where the guest has red, green and blue.
    let red, green, blue, alpha: Int
    init(_ name: String, _ format: UInt32, _ order: String) {
      (testDescription, self.format) = (name, format)
      let order = Array(order)
      (red, green) = (order.firstIndex(of: "R")!, order.firstIndex(of: "G")!)
      (blue, alpha) = (order.firstIndex(of: "B")!, order.firstIndex { $0 == "A" || $0 == "X" }!)
    }
  }

  /// `enum virtio_gpu_formats`: the names say the order in memory.
  static let colours: [Colours] = [
    Colours("B8G8R8A8", 1, "BGRA"), Colours("B8G8R8X8", 2, "BGRX"), Colours("A8R8G8B8", 3, "ARGB"),
    Colours("X8R8G8B8", 4, "XRGB"), Colours("R8G8B8A8", 67, "RGBA"), Colours("X8B8G8R8", 68, "XBGR"),
    Colours("A8B8G8R8", 121, "ABGR"), Colours("R8G8B8X8", 134, "RGBX"),
  ]

  /// A card that has XRGB8888 only shows each colour where the guest meant it.
  @Test(
    "a copy in the card's only format has the right colours, whatever the guest's format is",
    arguments: colours) func formats(_ colours: Colours)
    throws
  {
    let rig = try rig()
    rig.screen.canvasFormat = .xrgb8888
    let image = try shown(rig, format: colours.format)
    let pixels = try #require(rig.screen.shown()).pixels()
    for (x, y) in [(0, 0), (63, 0), (0, 47), (17, 23), (63, 47)] as [(UInt32, UInt32)] {
      let drawn = Image.bytes(x, y, 1)
      let seen = pixels[Int(y * image.width + x)]
      #expect(
        Array(seen.prefix(3)) == [drawn[colours.blue], drawn[colours.green], drawn[colours.red]], "\(x),\(y)")
    }
  }

  /// Every pair of formats, by colour.
  @Test("every pair of formats is converted") func shuffles() {
    let formats: [(FourCC, String)] = [
      (.argb8888, "BGRA"), (.xrgb8888, "BGRX"), (.bgra8888, "ARGB"), (.bgrx8888, "XRGB"), (.abgr8888, "RGBA"),
      (.rgbx8888, "XBGR"), (.rgba8888, "ABGR"), (.xbgr8888, "RGBX"),
    ]
    let values: [Character: UInt8] = ["R": 0x11, "G": 0x22, "B": 0x33, "A": 0x44, "X": 0x55]
    for (from, source) in formats {
      for (to, target) in formats {
        let result = from.shuffle(to: to)!(source.map { values[$0]! })
        for (byte, channel) in zip(result, target) {
          switch channel {
          case "A": #expect(byte == (source.contains("A") ? 0x44 : 0xff), "\(from) to \(to)")
          case "X": break
          default: #expect(byte == values[channel], "\(from) to \(to)")
          }
        }
      }
    }
    #expect(
      FourCC("RG16").shuffle(to: .xrgb8888) == nil && FourCC.xrgb8888.shuffle(to: FourCC("NV12")) == nil)
    #expect(FourCC.xrgb8888.shuffle(to: .xrgb8888)!.isIdentity)
  }

  struct Cause: CustomTestStringConvertible {
    let testDescription: String
    let cause: String
    let errno: Errno
    /// Lengths of the entries; three pages are needed.
    let entries: [UInt32]
    let skip: UInt64
  }

  static let causes: [Cause] = [
    Cause(
      testDescription: "no device", cause: "noDevice", errno: .noSuchFileOrDirectory,
      entries: [4096, 4096, 4096], skip: 0),
    Cause(
      testDescription: "no permission", cause: "noPermission", errno: .permissionDenied, entries: [12288],
      skip: 0),
    Cause(
      testDescription: "not allowed in the cgroup", cause: "noPermission", errno: .notPermitted,
      entries: [12288], skip: 0),
    Cause(
      testDescription: "short", cause: "shortBacking", errno: .noSuchFileOrDirectory, entries: [4096, 4100],
      skip: 0),
    // The device comes first natively; what counts here is that each pixel is put together rightly.
    Cause(
      testDescription: "pieces of odd lengths at odd addresses", cause: "noDevice",
      errno: .noSuchFileOrDirectory, entries: [5, 1, 2, 4091, 7, 3, 2, 1, 6000, 2176], skip: 3),
  ]

  @Test(
    "a picture can be copied from any page list, also a short or an odd one", arguments: causes,
    [UInt32(2), 4]) func anyPageList(
      _ item: Cause, _ format: UInt32
    ) throws
  {
    let rig = try Rig(.missing(item.errno), backing: .auto)
    rig.screen.canvasFormat = .xrgb8888
    let entries = item.entries.map { (rig.ram.allocate(Int($0) + 16) + item.skip, $0) }
    let image = Image(64, 48, entries)
    image.draw(4, in: rig.ram)
    try rig.ok(Request.create(1, format: format), Request.attach(1, entries), Request.setScanout(0, 1))
    try rig.ok(Request.flush(1))
    rig.screen.flipAll()
    #expect(rig.statistics.shadows == [item.cause: 1])
    let pixels = try #require(rig.screen.shown()).pixels()
    let total = entries.reduce(0) { $0 + Int($1.1) } / 4
    for (index, pixel) in pixels.enumerated() {
      let (x, y) = (UInt32(index % 64), UInt32(index / 64))
      let drawn = Image.bytes(x, y, 4)
      let wanted = index >= total ? [0, 0, 0] : format == 2 ? Array(drawn[..<3]) : drawn[1...].reversed()
      #expect(Array(pixel[..<3]) == wanted, "\(x),\(y)")
    }
    // What is not there cannot be transferred.
    if item.cause == "shortBacking" {
      #expect(try rig.ask(Request.transfer(1)).type == ResponseType.invalidParameter)
    }
  }

  /// A transfer from elsewhere than the rectangle's own place in the image.
  @Test(
    "a transfer from another place than the rectangle's changes the picture only inside the rectangle",
    arguments: [
      (Rectangle(10, 10, 20, 20), 0), (Rectangle(0, 0, 64, 1), 4096), (Rectangle(0, 0, 8, 8), 2049),
      (Rectangle(63, 47, 1, 1), 8), (Rectangle(0, 0, 64, 47), 256),
    ] as [(Rectangle, UInt64)])
  func oddTransfers(_ area: Rectangle, _ offset: UInt64) throws {
    let rig = try rig()
    let image = try shown(rig)
    image.draw(5, in: rig.ram)
    try rig.ok(Request.transfer(1, area, offset: offset), Request.flush(1, area))
    rig.screen.flipAll()
    // The image as the guest's memory has it, byte by byte.
    let memory = (0..<64 * 48 * 4).map { rig.ram.read(1, at: image.address($0))[0] }
    let pixels = try #require(rig.screen.shown()).pixels()
    for y in 0..<UInt32(48) {
      for x in 0..<UInt32(64) {
        let inside = x >= area.x && x < area.x + area.width && y >= area.y && y < area.y + area.height
        let start = Int(offset) + Int((y &- area.y) &* 256 &+ (x &- area.x) &* 4)
        // Outside of it the image is what was there when the odd transfer came.
        let wanted = inside ? Array(memory[start..<start + 4]) : Image.bytes(x, y, 1)
        let now = Image.bytes(x, y, 5)
        let seen = pixels[Int(y * 64 + x)]
        #expect(seen == wanted || !inside && seen == now, "\(x),\(y): \(seen)")
      }
    }
    // From now on a transfer takes a snapshot.
    image.draw(6, in: rig.ram)
    try rig.ok(Request.transfer(1))
    image.draw(7, in: rig.ram)
    try rig.ok(Request.flush(1))
    rig.screen.flipAll()
    try expect(rig.screen.shown()) { _, _ in 6 }
    #expect(rig.statistics.shadowBytes == 2 * 64 * 48 * 4)
    try rig.ok(Request.unref(1))
    rig.screen.flipAll()
    try rig.settle()
    #expect(rig.statistics.shadowBytes == 0)
  }

  /// A mode that is larger or smaller than the picture: in the middle, or cut off.
  @Test(
    "a picture stands in the middle of a larger canvas, and is cut off in a smaller one",
    arguments: [(100, 60), (64, 48), (32, 60), (100, 20), (16, 16)] as [(UInt32, UInt32)])
  func canvasOfAMode(_ width: UInt32, _ height: UInt32) throws {
    let rig = try rig()
    rig.screen.canvasSize = (width, height)
    let image = try shown(rig)
    let frame = try #require(rig.screen.shown())
    #expect(frame.layout.width == width && frame.layout.height == height)
    let (left, top) = (width > 64 ? (width - 64) / 2 : 0, height > 48 ? (height - 48) / 2 : 0)
    func check(_ number: UInt8) throws {
      for (index, pixel) in try frame.pixels().enumerated() {
        let (x, y) = (UInt32(index) % width &- left, UInt32(index) / width &- top)
        #expect(pixel == (x < 64 && y < 48 ? Image.bytes(x, y, number) : [0, 0, 0, 0]), "\(x),\(y)")
      }
    }
    try check(1)
    image.draw(2, in: rig.ram)
    try rig.ok(Request.flush(1))
    rig.screen.flipAll()
    try check(2)
    try rig.ok(Request.unref(1))
    rig.screen.flipAll()
    try rig.settle()
    #expect(rig.statistics.shadowBytes == 0)
  }

  @Test("two scanouts show copies of parts of one resource") func twoScanoutsShowPartsOfOne() throws {
    let rig = try rig()
    let image = Image(64, 48, rig.pages(3))
    image.draw(1, in: rig.ram)
    let (left, right) = (Rectangle(0, 0, 32, 48), Rectangle(32, 8, 32, 40))
    try rig.ok(
      Request.create(1), Request.attach(1, image.entries), Request.setScanout(0, 1, left),
      Request.setScanout(1, 1, right), Request.flush(1))
    rig.screen.flipAll()
    try expect(rig.screen.shown(0)) { _, _ in 1 }
    try expect(rig.screen.shown(1), { _, _ in 1 }, at: (32, 8))
    image.draw(2, in: rig.ram)
    try rig.ok(Request.flush(1, Rectangle(30, 0, 4, 48)))
    rig.screen.flipAll()
    try expect(rig.screen.shown(0)) { x, _ in x >= 30 ? 2 : 1 }
    try expect(rig.screen.shown(1), { x, _ in x < 34 ? 2 : 1 }, at: (32, 8))
    // One goes off and comes back; meanwhile the other one went on.
    try rig.ok(Request.setScanout(1, 0))
    rig.screen.flipAll()
    #expect(rig.screen.shown(1) == nil)
    image.draw(3, in: rig.ram)
    try rig.ok(Request.flush(1), Request.setScanout(1, 1, right), Request.flush(1, Rectangle(40, 40, 1, 1)))
    rig.screen.flipAll()
    try expect(rig.screen.shown(1), { _, _ in 3 }, at: (32, 8))
    try rig.expectBalance()
  }

  /// What goes back to the guest is not waited for, and what is seen stays until another picture comes.
  @Test("a copied picture stays after a detach, whatever the guest draws") func detachKeepsThePicture() throws
  {
    let rig = try rig()
    let image = try shown(rig)
    try rig.ok(Request.detach(1))
    image.draw(8, in: rig.ram)
    try rig.ok(Request.flush(1))
    rig.screen.flipAll()
    // Another screen leaves it as it is too: there is nothing to copy it from.
    rig.screen.outputs[0].name = "another"
    rig.device.scanouts.outputsChanged()
    try rig.ok(Request.flush(1))
    rig.screen.flipAll()
    try rig.settle()
    try expect(rig.screen.shown()) { _, _ in 1 }
    #expect(rig.device.scanouts[0].binding?.picture != nil)
    try rig.ok(Request.attach(1, image.entries), Request.setScanout(0, 1), Request.flush(1))
    rig.screen.flipAll()
    try expect(rig.screen.shown()) { _, _ in 8 }
    try rig.ok(Request.unref(1))
    #expect(rig.screen.events.last == .dark(0))
    rig.screen.flipAll()
    try rig.settle()
    #expect(rig.statistics.shadowBytes == 0 && rig.statistics.liveResources == 0)
  }

  @Test("copies that nobody sees make room for others") func copiesThatNobodySeesMakeRoom() throws {
    var quotas = Quotas()
    quotas.shadowBytes = 2 * 64 * 48 * 4
    let rig = try rig(quotas: quotas)
    for id: UInt32 in 1...6 {
      try rig.ok(
        Request.create(id), Request.attach(id, rig.pages(3)), Request.setScanout(0, id), Request.flush(id))
      rig.screen.flipAll()
      try rig.settle()
      #expect(rig.statistics.shadowBytes <= quotas.shadowBytes)
    }
    try rig.ok(Request.setScanout(1, 5), Request.flush(5))
    rig.screen.flipAll()
    // Both are on a screen now.
    let answer = try rig.ask(Request.setScanout(0, 1))
    #expect(answer.type == ResponseType.outOfMemory && rig.errors["quota"] == 1)
    #expect(rig.log.lines.contains { $0.text.contains("; raise shadowBytes") })
    #expect(rig.screen.shown(0) != nil && rig.screen.shown(1) != nil)
  }

  @Test("copies that the user chose are counted by that cause") func chosen() throws {
    let rig = try rig(.shadow)
    _ = try shown(rig)
    #expect(rig.statistics.shadows == ["chosen": 1])
  }

  @Test("a resource that must be lent is not copied") func lentOrNothing() throws {
    let rig = try rig(.lent)
    try rig.ok(Request.create(1))
    #expect(try rig.ask(Request.attach(1, rig.pages(3))).type == ResponseType.outOfMemory)
    #expect(rig.errors == ["noDevice": 1] && rig.screen.allocateCount == 0)
  }

  @Test("without memory for a copy SET_SCANOUT fails, and a later one succeeds") func theSinkHasNoMemory()
    throws
  {
    let rig = try rig()
    rig.screen.allocationRefusal = SinkError(.other, "no buffer of 64x48 pixels")
    try rig.ok(Request.create(1), Request.attach(1, rig.pages(3)))
    #expect(try rig.ask(Request.setScanout(0, 1)).type == ResponseType.unspecified)
    #expect(rig.statistics.shadowBytes == 0 && rig.statistics.shadows.isEmpty)
    rig.screen.allocationRefusal = nil
    try rig.ok(Request.setScanout(0, 1), Request.flush(1))
  }

  @Test("a reset leaves no copies") func aDriverThatIsGoneLeavesNothing() throws {
    let rig = try rig()
    _ = try shown(rig)
    try rig.ok(Request.transfer(1, Rectangle(0, 0, 1, 1), offset: 8))
    rig.device.reset()
    rig.screen.flipAll()
    try rig.settle()
    let all = rig.statistics
    #expect(all.shadowBytes == 0 && all.liveResources == 0 && rig.screen.forgotten.count == 1)
  }

  // MARK: The cursor

  /// A cursor of one colour in a frame of another, transparent and half transparent parts.
  private func cursor(_ rig: Rig, _ id: UInt32, format: UInt32 = 1) throws -> [UInt32] {
    let pages = rig.pages(4)
    var pixels: [UInt32] = []
    for index in 0..<UInt32(64 * 64) {
      let (x, y) = (index % 64, index / 64)
      // Colours are multiplied by alpha.
      pixels.append(x < 8 ? 0xffff_0000 : x < 16 ? 0x8040_8000 : y % 2 == 0 ? 0 : 0xff00_00ff)
    }
    for (index, pixel) in pixels.enumerated() {
      rig.ram.write(pixel, at: pages[index / 1024].address + UInt64(index % 1024) * 4)
    }
    try rig.ok(
      Request.create(id, format: format, 64, 64), Request.attach(id, pages),
      Request.transfer(id, Rectangle(0, 0, 64, 64)))
    return pixels
  }

  private func blended(_ below: [UInt8], _ cursor: UInt32) -> [UInt8] {
    let alpha = Int(cursor >> 24)
    return (0..<4).map { byte in
      UInt8(min(255, (Int(below[byte]) * (255 - alpha) + 127) / 255 + Int(cursor >> UInt32(8 * byte) & 0xff)))
    }
  }

  private func expectCursor(
    _ rig: Rig, _ cursor: [UInt32], _ position: (Int, Int)?, number: UInt8 = 1,
    _ location: SourceLocation = #_sourceLocation
  ) throws {
    rig.screen.flipAll()
    var wrong: [String] = []
    for (index, seen) in try #require(rig.screen.shown()).pixels().enumerated() {
      let (x, y) = (index % 64, index / 64)
      var wanted = Image.bytes(UInt32(x), UInt32(y), number)
      if let (left, top) = position, (0..<64).contains(x - left), (0..<64).contains(y - top) {
        wanted = blended(wanted, cursor[(y - top) * 64 + x - left])
      }
      if seen != wanted { wrong.append("\(x),\(y): \(seen) instead of \(wanted)") }
    }
    #expect(wrong.isEmpty, "\(wrong.prefix(3))", sourceLocation: location)
  }

  /// Linux makes the buffers of cursors with a format that has no alpha, and means it all the same.
  @Test("the cursor is drawn into the copy at each of its places", arguments: [UInt32(1), 2])
  func theCursorIsDrawnIntoTheCopy(
    _ format: UInt32
  ) throws {
    let rig = try rig()
    let image = try shown(rig)
    let pixels = try cursor(rig, 2, format: format)
    #expect(try rig.askCursor(Request.updateCursor(0, 2, x: 10, y: 20)).type == ResponseType.ok)
    try expectCursor(rig, pixels, (10, 20))
    for (x, y) in [(12, 20), (-5, -60), (63, 47), (-64, 0), (64, 48), (0, 0), (-32, 30)] as [(Int32, Int32)] {
      #expect(try rig.askCursor(Request.moveCursor(0, x: x, y: y)).type == ResponseType.ok)
      try expectCursor(rig, pixels, (Int(x), Int(y)))
    }
    // The guest draws below it.
    image.draw(2, in: rig.ram)
    try rig.ok(Request.flush(1))
    try expectCursor(rig, pixels, (-32, 30), number: 2)
    // It was taken over: what becomes of the resource is not seen.
    try rig.ok(Request.unref(2))
    try expectCursor(rig, pixels, (-32, 30), number: 2)
    #expect(try rig.askCursor(Request.updateCursor(0, 0)).type == ResponseType.ok)
    try expectCursor(rig, pixels, nil, number: 2)
    let flushes = rig.statistics
    #expect(flushes.flushes == 2 && flushes.framesShown == 2, "moves of the cursor are no frames")
    try rig.expectBalance()
  }

  @Test(
    "with --cursor plane or off no cursor is drawn into a picture", arguments: [CursorChoice.plane, .off])
  func theCursorMayBeLeftOut(_ choice: CursorChoice) throws {
    let rig = try Rig(backing: .auto, cursor: choice)
    _ = try shown(rig)
    let pixels = try cursor(rig, 2)
    #expect(try rig.askCursor(Request.updateCursor(0, 2)).type == ResponseType.ok)
    #expect(try rig.askCursor(Request.moveCursor(0, x: 1, y: 1)).type == ResponseType.ok)
    try expectCursor(rig, pixels, nil)
  }

  @Test(
    "with a cursor plane the cursor goes to the plane, and into no picture",
    arguments: [CursorChoice.auto, .plane, .off])
  func aPlaneForTheCursor(_ choice: CursorChoice) throws {
    var outputs = Rig.outputs
    outputs[0].hasCursor = true
    let rig = try Rig(outputs: outputs, backing: .auto, cursor: choice)
    _ = try shown(rig)
    rig.screen.canvasSize = nil
    let pixels = try cursor(rig, 2, format: 1)
    #expect(try rig.askCursor(Request.updateCursor(0, 2, x: -3, y: 4)).type == ResponseType.ok)
    try expectCursor(rig, pixels, nil)
    guard choice != .off else {
      #expect(rig.screen.cursors.isEmpty)
      return
    }
    let shown = try #require(rig.screen.cursors[0])
    #expect(shown.position == CursorPosition(x: -3, y: 4) && shown.image.hotX == 1 && shown.image.hotY == 2)
    #expect(
      shown.image.pixels == pixels.flatMap { p in (0..<4).map { UInt8(truncatingIfNeeded: p >> (8 * $0)) } })
    #expect(try rig.askCursor(Request.moveCursor(0, x: 7, y: 8)).type == ResponseType.ok)
    #expect(rig.screen.cursors[0]?.position == CursorPosition(x: 7, y: 8))
    #expect(try rig.askCursor(Request.updateCursor(0, 0)).type == ResponseType.ok)
    #expect(rig.screen.cursors.isEmpty)
  }

  @Test("a cursor of another size, or without pages, is refused") func aCursorOfAnotherSize() throws {
    let rig = try rig()
    _ = try shown(rig)
    #expect(try rig.askCursor(Request.updateCursor(0, 1)).type == ResponseType.invalidParameter)
    #expect(rig.errors == ["cursorSize": 1])
    try rig.ok(Request.create(2, 64, 64))
    #expect(try rig.askCursor(Request.updateCursor(0, 2)).type == ResponseType.unspecified)
  }
}
