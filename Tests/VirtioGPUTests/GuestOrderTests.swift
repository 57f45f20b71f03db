import Buffers
import Fixtures
import Linux
import Pictures
import Scanout
import SystemPackage
import Testing

@testable import VirtioGPU

/// The commands of other guests' drivers, in their orders and with their choices, as their public sources have them. Each
/// picture must be on the screen, and none be copied where guest memory can be lent. U-Boot has no driver for this card.
@Suite(.serialized) struct GuestOrderTests {
  struct Guest: CustomTestStringConvertible, Sendable {
    /// The driver, and where its source is.
    let testDescription: String
    /// It bears a fence in each command, and spins until that is answered.
    var polls = false
    var features: UInt64 = 0
    var queueSize: UInt16 = 64
    var usesEventIndex = false
    /// As many bytes as each command and each answer are in its chains, whatever they need.
    var chainSize = 0
    /// Why something of it is copied all the same.
    var copies: Set<String> = []
    let play: @Sendable (Replay) throws -> Void

    init(_ driver: String, _ source: String, _ play: @escaping @Sendable (Replay) throws -> Void) {
      (testDescription, self.play) = ("\(driver) (\(source))", play)
    }

    func with(_ change: (inout Self) -> Void) -> Self {
      var guest = self
      change(&guest)
      return guest
    }
  }

  static let guests: [Guest] = [
    Guest("FreeBSD's vtgpu", "freebsd/freebsd-src sys/dev/virtio/gpu/virtio_gpu.c", freeBSD)
      .with { $0.polls = true },
    Guest("OpenBSD's viogpu", "openbsd/src sys/dev/pv/viogpu.c", openBSD).with { $0.polls = true },
    Guest("NetBSD's viogpu", "NetBSD/src sys/dev/pci/viogpu.c", openBSD).with { $0.polls = true },
    Guest(
      "Haiku's virtio_gpu", "haiku/haiku src/add-ons/kernel/drivers/graphics/virtio/virtio_gpu.cpp", haiku
    ).with { ($0.polls, $0.features) = (true, GPUFeature.edid) },
    Guest("Windows' viogpudo", "virtio-win/kvm-guest-drivers-windows viogpu/viogpudo/viogpudo.cpp", windows)
      .with { ($0.usesEventIndex, $0.copies) = (true, ["detached"]) },
    Guest("rcore's virtio-drivers", "rcore-os/virtio-drivers src/device/gpu.rs", rcore)
      .with { ($0.queueSize, $0.usesEventIndex, $0.chainSize) = (2, true, 4096) },
    Guest("Redox's virtio-gpud", "redox-os/drivers graphics/virtio-gpud/src/scheme.rs", redox),
    Guest("EDK2's VirtioGpuDxe", "tianocore/edk2 OvmfPkg/VirtioGpuDxe/Gop.c and Commands.c", edk2),
    Guest("NuttX' virtio-gpu", "apache/nuttx drivers/virtio/virtio-gpu.c", nuttx),
  ]

  @Test(
    "each driver's order of commands shows its picture, and copies no more than it must", arguments: guests,
    DetachTests.kinds)
  func isShown(_ guest: Guest, _ isLent: Bool) throws {
    let replay = try Replay(guest, isLent)
    try guest.play(replay)
    let rig = replay.rig
    #expect(rig.errors.isEmpty, "\(rig.errors)")
    let causes = Set(rig.statistics.shadows.keys)
    #expect(causes.subtracting(guest.copies) == (isLent ? [] : ["noDevice"]))
    try rig.expectBalance()
  }

  // MARK: The drivers

  /// One entry of exactly the picture's bytes; rectangles with the offset that they have in the picture.
  private static func freeBSD(_ replay: Replay) throws {
    let (width, height) = try replay.displaySize()
    let frame = replay.contiguous(width * height * 4)
    try replay.ask(Request.create(1, width, height), Request.attach(1, frame))
    try replay.ask(Request.setScanout(0, 1, Rectangle(0, 0, width, height)))
    let picture = Replay.Picture(frame, width, height)
    try replay.update(1, picture, replay.draw(picture, 1))
    for area in [Rectangle(8, 16, 24, 16), Rectangle(99, 63, 1, 1), Rectangle(0, 48, 100, 16)] {
      try replay.update(1, picture, replay.draw(picture, 2, area))
    }
  }

  /// One entry of exactly the picture's bytes, and all of it again and again.
  private static func openBSD(_ replay: Replay) throws {
    let (width, height) = try replay.displaySize()
    let frame = replay.contiguous(width * height * 4)
    try replay.ask(
      Request.create(1, width, height), Request.attach(1, frame),
      Request.setScanout(0, 1, Rectangle(0, 0, width, height)))
    let picture = Replay.Picture(frame, width, height)
    for seed in 1...4 as ClosedRange<UInt32> { try replay.update(1, picture, replay.draw(picture, seed)) }
  }

  /// A frame buffer for the largest mode, sixteen entries in each list whatever their number; another mode has another
  /// number, the same memory, and takes the first one's place after that was given up.
  private static func haiku(_ replay: Replay) throws {
    let (width, height) = try replay.displaySize()
    try replay.ask(Request.edid(0), answer: ResponseType.edid)
    let frame = replay.contiguous(16 * 4096)
    let list = [UInt8](repeating: 0, count: 15 * 16)
    try replay.ask(
      Request.create(1, width, height), Request.attach(1, frame) + list,
      Request.setScanout(0, 1, Rectangle(0, 0, width, height)))
    let first = Replay.Picture(frame, width, height)
    for seed in 1...2 as ClosedRange<UInt32> { try replay.update(1, first, replay.draw(first, seed)) }

    let second = Replay.Picture(frame, 128, 96)
    try replay.ask(Request.create(2, 128, 96), Request.attach(2, frame) + list)
    try replay.ask(Request.unref(1), atOnce: false)
    try replay.ask(
      Request.setScanout(0, 0, Rectangle(0, 0, 0, 0)), Request.setScanout(0, 2, Rectangle(0, 0, 128, 96)))
    for seed in 3...4 as ClosedRange<UInt32> { try replay.update(2, second, replay.draw(second, seed)) }
  }

  /// Many entries of whole pages; commands are queued without waiting. A mode goes while it is on the screen. The
  /// pointer moves under the number of its picture.
  private static func windows(_ replay: Replay) throws {
    let (width, height) = try replay.displaySize()
    var ids: UInt32 = 1
    for (seed, size) in [(1, (width, height)), (2, (80, 64)), (3, (width, height))]
      as [(UInt32, (UInt32, UInt32))]
    {
      let (id, whole) = (ids, Rectangle(0, 0, size.0, size.1))
      ids += 1
      let frame = replay.rig.pages(Int(size.0 * size.1 * 4 + 4095) / 4096)
      let picture = Replay.Picture(frame, size.0, size.1)
      try replay.post(
        Request.create(id, format: 2, size.0, size.1), Request.attach(id, frame),
        Request.setScanout(0, id, whole))
      try replay.update(id, picture, replay.draw(picture, seed))
      try replay.update(id, picture, replay.draw(picture, seed + 4, Rectangle(4, 4, 40, 20)))
      if seed < 3 { try replay.post(Request.detach(id), Request.unref(id)) }
    }
    let pointer = replay.contiguous(64 * 64 * 4)
    try replay.ask(Request.create(9, format: 1, 64, 64), Request.attach(9, pointer))
    try replay.cursor(Request.updateCursor(0, 9, x: 0, y: 0))
    try replay.cursor(Request.moveCursor(0, 9, x: 33, y: 44))
    replay.expectPointer(33, 44)
  }

  /// Chains of whole pages on a ring of two; an alpha channel; one entry of exactly the picture's bytes.
  private static func rcore(_ replay: Replay) throws {
    let (width, height) = try replay.displaySize()
    let frame = replay.contiguous(width * height * 4)
    let picture = Replay.Picture(frame, width, height)
    try replay.ask(
      Request.create(0xbabe, format: 1, width, height), Request.attach(0xbabe, frame),
      Request.setScanout(0, 0xbabe, Rectangle(0, 0, width, height)))
    for seed in 1...2 as ClosedRange<UInt32> {
      try replay.update(0xbabe, picture, replay.draw(picture, seed))
    }
    let pointer = replay.contiguous(64 * 64 * 4)
    try replay.ask(
      Request.create(0xdade, format: 1, 64, 64), Request.attach(0xdade, pointer),
      Request.transfer(0xdade, Rectangle(0, 0, 64, 64)))
    try replay.cursor(Request.updateCursor(0, 0xdade, x: 3, y: 4))
    replay.expectPointer(3, 4)
    try replay.cursor(Request.moveCursor(0, 0xdade, x: 50, y: 40))
    replay.expectPointer(50, 40)
  }

  /// The list is a descriptor of its own. A pointer moves under no number and is to be seen; it is hidden by a picture
  /// with nothing in it.
  private static func redox(_ replay: Replay) throws {
    let (width, height) = try replay.displaySize()
    let frame = replay.rig.pages(Int(width * height * 4 + 4095) / 4096)
    let picture = Replay.Picture(frame, width, height)
    try replay.ask(Request.create(1, width, height))
    try replay.ask(Request.attach(1, frame), pieces: 2)
    try replay.ask(Request.setScanout(0, 1, Rectangle(0, 0, width, height)))
    try replay.update(1, picture, replay.draw(picture, 1))
    // It transfers everything, and flushes what has changed.
    _ = replay.draw(picture, 2)
    try replay.ask(
      Request.transfer(1, Rectangle(0, 0, width, height)), Request.flush(1, Rectangle(0, 0, 50, height)),
      Request.flush(1, Rectangle(50, 0, 50, height)))
    try replay.expectPicture(picture)

    for id in [2, 3] as [UInt32] {
      try replay.ask(
        Request.create(id, format: 1, 64, 64), Request.attach(id, replay.contiguous(64 * 64 * 4)),
        Request.transfer(id, Rectangle(0, 0, 64, 64), fence: 7))
    }
    try replay.cursor(Request.updateCursor(0, 2, x: 3, y: 4))
    for place in 5...7 as ClosedRange<Int32> {
      try replay.cursor(Request.moveCursor(0, x: place, y: 2 * place))
      replay.expectPointer(place, 2 * place)
    }
    try replay.cursor(Request.updateCursor(0, 3, x: 0, y: 0))
    #expect(replay.rig.screen.cursors[0]?.image.pixels.allSatisfy { $0 == 0 } == true)
  }

  /// Whole pages. A new mode is flushed before anything was drawn in it, and then the old one is taken apart; numbers take
  /// turns. At the end the scanout is turned off first.
  private static func edk2(_ replay: Replay) throws {
    let (width, height) = try replay.displaySize()
    let sizes: [(UInt32, UInt32)] = [(width, height), (80, 64), (width, height)]
    for (index, (width, height)) in sizes.enumerated() {
      let (id, old) = index % 2 == 0 ? (1, 2) : (2, 1) as (UInt32, UInt32)
      let frame = replay.contiguous((width * height * 4 + 4095) / 4096 * 4096)
      var picture = Replay.Picture(frame, width, height)
      try replay.ask(
        Request.create(id, width, height), Request.attach(id, frame),
        Request.setScanout(0, id, Rectangle(0, 0, width, height)))
      if index > 0 {
        try replay.ask(Request.flush(id, Rectangle(0, 0, width, height)))
        try replay.expectPicture(picture)
        try replay.ask(Request.detach(old), atOnce: false)
        try replay.ask(Request.unref(old))
      }
      for area in [picture.bounds, Rectangle(10, 10, 30, 20), Rectangle(0, 63, width, 1)] {
        picture = replay.draw(picture, UInt32(index) + area.x, area)
        try replay.update(id, picture, picture)
      }
    }
    try replay.ask(Request.setScanout(0, 0, Rectangle(0, 0, 0, 0)))
    replay.rig.screen.flipAll()
    try replay.ask(Request.detach(1), Request.unref(1))
    #expect(replay.rig.screen.shown() == nil)
  }

  /// Four entries at most, the last one as long as the picture needs it; SET_SCANOUT before each flush, which leaves no room
  /// for an answer.
  private static func nuttx(_ replay: Replay) throws {
    let (width, height) = try replay.displaySize()
    let pages = replay.contiguous(6 * 4096)
    let frame = pages + replay.contiguous(width * height * 4 - 6 * 4096)
    let picture = Replay.Picture(frame, width, height)
    try replay.ask(Request.create(1, width, height), Request.attach(1, frame))
    for (seed, area) in [(1, picture.bounds), (2, Rectangle(20, 5, 60, 30))] as [(UInt32, Rectangle)] {
      let drawn = replay.draw(picture, seed, area)
      try replay.ask(
        Request.transfer(1, area, offset: UInt64(area.y * width + area.x) * 4),
        Request.setScanout(0, 1, picture.bounds))
      replay.tell(Request.flush(1, picture.bounds))
      try replay.expectPicture(drawn)
    }
  }
}

/// A driver at its rings, its memory, and the screen that somebody looks at.
final class Replay {
  /// A picture in guest memory, rows without a gap, and what is drawn in it.
  struct Picture {
    let entries: [(address: UInt64, length: UInt32)]
    let width, height: UInt32
    fileprivate(set) var pixels: [UInt32]
    /// The picture that was drawn last.
    fileprivate(set) var area: Rectangle

    init(_ entries: [(address: UInt64, length: UInt32)], _ width: UInt32, _ height: UInt32) {
      (self.entries, self.width, self.height) = (entries, width, height)
      pixels = Array(repeating: 0, count: Int(width * height))
      area = Rectangle(0, 0, width, height)
    }

    var bounds: Rectangle { Rectangle(0, 0, width, height) }
  }

  let rig: Rig
  private let guest: GuestOrderTests.Guest
  private var fence: UInt64 = 0
  /// The pixels in guest memory of the picture that was drawn in last.
  private var drawn: Picture?

  init(_ guest: GuestOrderTests.Guest, _ isLent: Bool) throws {
    self.guest = guest
    let mode = try #require(DisplayMode.reducedBlanking(width: 100, height: 64))
    rig = try Rig(
      isLent ? .real : .missing(.noSuchFileOrDirectory),
      outputs: [SinkOutput(name: "A", modes: [mode], hasCursor: true)], backing: .auto,
      features: guest.features, queueSize: guest.queueSize, eventIndex: guest.usesEventIndex)
  }

  // MARK: Memory

  /// One piece that begins at a page, and need not end at one.
  func contiguous(_ length: UInt32) -> [(address: UInt64, length: UInt32)] {
    [(rig.ram.allocate(Int(max(length, 4096))), length)]
  }

  /// Draws into guest memory, each pixel after its place.
  func draw(_ picture: Picture, _ seed: UInt32, _ area: Rectangle? = nil) -> Picture {
    var new = picture
    // The earlier pixels are there still.
    if let drawn, drawn.entries.map(\.address) == picture.entries.map(\.address), drawn.width == picture.width
    {
      new.pixels = drawn.pixels
    }
    new.area = area ?? picture.bounds
    for y in new.area.y..<new.area.y + new.area.height {
      var row: [UInt8] = []
      for x in new.area.x..<new.area.x + new.area.width {
        let pixel = seed &* 0x3_0517 ^ x << 9 ^ y << 2 ^ 0xff00_0000
        new.pixels[Int(y * picture.width + x)] = pixel
        for byte in 0..<4 as Range<UInt32> { row.append(UInt8(truncatingIfNeeded: pixel >> (8 * byte))) }
      }
      write(row, at: (y * picture.width + new.area.x) * 4, picture.entries)
    }
    drawn = new
    return new
  }

  private func write(_ bytes: [UInt8], at offset: UInt32, _ entries: [(address: UInt64, length: UInt32)]) {
    var (left, rest) = (Int(offset), bytes[...])
    for (address, length) in entries where !rest.isEmpty {
      let part = rest.prefix(max(0, Int(length) - left))
      if !part.isEmpty { rig.ram.write(Array(part), at: address + UInt64(left)) }
      rest = rest.dropFirst(part.count)
      left = max(0, left - Int(length))
    }
    #expect(rest.isEmpty, "the picture is larger than its memory")
  }

  // MARK: Commands

  func displaySize() throws -> (width: UInt32, height: UInt32) {
    let head = send(Request.displayInfo(), room: 408)
    let answer = try #require(rig.answer())
    #expect(answer.head == head && answer.type == ResponseType.displayInfo)
    return (answer.bytes.value(at: 32), answer.bytes.value(at: 36))
  }

  private func send(_ request: [UInt8], room: Int, pieces: Int = 1) -> UInt16 {
    var request = request
    if guest.polls {
      fence += 1
      request.replaceSubrange(4..<16, with: UInt32(1).bytes + fence.bytes)
    }
    request += [UInt8](repeating: 0, count: max(0, guest.chainSize - request.count))
    let head = rig.control.send(
      request, pieces: pieces, answer: room == 0 ? 0 : max(room, guest.chainSize), indirect: false)
    rig.device.kicked(0)
    return head
  }

  /// Commands one after the other.
  /// - Parameter atOnce: none may wait for the screen, since the driver spins. Pages on the screen are given back later.
  func ask(
    _ requests: [UInt8]..., answer wanted: UInt32 = ResponseType.ok, pieces: Int = 1, atOnce: Bool = true,
    location: SourceLocation = #_sourceLocation
  ) throws {
    for request in requests {
      let head = send(request, room: wanted == ResponseType.edid ? 1056 : 24, pieces: pieces)
      if !atOnce {
        rig.screen.flipAll()
        try rig.settle()
      }
      let answer = try #require(rig.answer(), sourceLocation: location)
      #expect(answer.head == head && answer.type == wanted, sourceLocation: location)
      if guest.polls { #expect(answer.flags == 1 && answer.fence == fence, sourceLocation: location) }
    }
  }

  /// Commands that nobody waits for. All succeed.
  func post(_ requests: [UInt8]..., location: SourceLocation = #_sourceLocation) throws {
    var heads = Set(requests.map { send($0, room: 24) })
    rig.screen.flipAll()
    try rig.settle()
    while let answer = rig.answer() {
      #expect(answer.type == ResponseType.ok, sourceLocation: location)
      heads.remove(answer.head)
    }
    #expect(heads.isEmpty, "all are answered", sourceLocation: location)
  }

  /// A command without room for an answer.
  func tell(_ request: [UInt8], location: SourceLocation = #_sourceLocation) {
    let head = send(request, room: 0)
    let answer = rig.answer()
    #expect(answer?.head == head && answer?.written == 0, sourceLocation: location)
  }

  func cursor(_ request: [UInt8], location: SourceLocation = #_sourceLocation) throws {
    #expect(try rig.askCursor(request, room: 0, location).written == 0, sourceLocation: location)
  }

  /// Transfers and flushes what was drawn last, which is then on the screen.
  func update(
    _ id: UInt32, _ picture: Picture, _ drawn: Picture, location: SourceLocation = #_sourceLocation
  ) throws {
    let area = drawn.area
    let offset = UInt64(area.y * picture.width + area.x) * 4
    try ask(
      Request.transfer(id, area, offset: offset), Request.flush(id, area), location: location)
    try expectPicture(drawn, location: location)
  }

  // MARK: The screen

  /// Every pixel, as it is in guest memory now.
  func expectPicture(_ picture: Picture, location: SourceLocation = #_sourceLocation) throws {
    rig.screen.flipAll()
    try rig.settle()
    let shown = try #require(rig.screen.shown(), sourceLocation: location)
    #expect(
      shown.layout.width == picture.width && shown.layout.height == picture.height, sourceLocation: location)
    let wanted =
      drawn?.entries.map(\.address) == picture.entries.map(\.address) ? drawn!.pixels : picture.pixels
    let (layout, mapping) = (shown.layout, try shown.mapping())
    let wrong = wanted.indices.first { index in
      let (row, column) = index.quotientAndRemainder(dividingBy: Int(layout.width))
      let place = Int(layout.offset) + row * Int(layout.stride) + column * 4
      return (mapping.load(UInt32.self, at: place) ^ wanted[index]) & 0xff_ffff != 0
    }
    #expect(wrong == nil, "this pixel", sourceLocation: location)
  }

  func expectPointer(_ x: Int32, _ y: Int32, location: SourceLocation = #_sourceLocation) {
    #expect(rig.screen.cursors[0]?.position == CursorPosition(x: x, y: y), sourceLocation: location)
  }
}
