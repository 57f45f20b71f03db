import CDRM
import Glibc
import Linux
import Logging
import Scanout
import SystemPackage
import TestSupport
import Testing
import Udmabuf

@testable import KMS

/// A card with four screens and cursor planes that refuses the memory of guests: `qemu/boot-host --card
/// virtio-gpu:4`. Each picture is a copy in the card's own memory.
@Suite(.testHost, .serialized) struct KMSHeadsTests {
  private static let sizes: [(width: UInt32, height: UInt32)] = [
    (1280, 800), (1024, 768), (1000, 700), (800, 600),
  ]

  /// The inside of a cursor: a different colour for each pixel.
  private static func cursor(_ seed: UInt8, hotX: UInt32 = 3, hotY: UInt32 = 5) -> CursorImage {
    var pixels: [UInt8] = []
    for index in 0..<64 * 64 { pixels += [UInt8(truncatingIfNeeded: index), UInt8(index >> 6), seed, 0xff] }
    return CursorImage(pixels: pixels, hotX: hotX, hotY: hotY)
  }

  @Test("the facts of a card with four heads are read") func facts() throws {
    let stage = try Stage()
    let card = stage.sink.card
    #expect(card.driver == "virtio_gpu" && card.isAtomic && card.cursorPlanes == 4)
    #expect(stage.sink.outputs.map(\.name) == (1...4).map { "Virtual-\($0)" })
    #expect(stage.sink.outputs.allSatisfy { $0.hasCursor && !$0.modes.isEmpty })
    let lent = try #require(stage.sink.lentSizes)
    #expect(lent.allSatisfy { $0.isEmpty }, "it imports none")
    #expect(try stage.layout.width == 1280)
    let older = try KMSCard(Stage.path, atomic: false)
    stage.sink.close()
    let legacy = try Stage(older)
    #expect(legacy.sink.outputs.count == 4 && legacy.sink.outputs.allSatisfy { $0.hasCursor })
  }

  /// What cannot be lent says so, and its copy is shown.
  @Test("a frame that cannot be lent is refused, and its copy is shown") func refusesGuestMemory() throws {
    let stage = try Stage()
    let picture = try stage.picture(1, prepared: false)
    let error = #expect(throws: SinkError.self) { try stage.prepare(picture) }
    #expect(error?.refusal == .importing && error?.refusal.isMendedByCopying == true)
    try stage.show(stage.copy(1, 1280, 800))
    #expect(try Screenshot().wrongRows(1) == 0)
  }

  /// Four scanouts, each in a mode of its own, two of which no screen has named.
  @Test("four scanouts are shown, each in a mode of its own", arguments: [true, false]) func fourScreens(
    atomic: Bool
  ) throws {
    let stage = try Stage(atomic: atomic)
    let sizes = Self.sizes.map { $0.width == 1000 && !atomic ? (640, 480) : $0 }
    var pictures: [Picture] = []
    for (head, size) in sizes.enumerated() {
      let picture = try stage.copy(UInt32(head + 1), size.0, size.1, on: UInt32(head))
      #expect(picture.layout.width == size.0 && picture.layout.height == size.1)
      try stage.show(picture, on: UInt32(head))
      pictures.append(picture)
    }
    for (head, picture) in pictures.enumerated() {
      let screen = try Screenshot(head: head)
      #expect(screen.width == picture.layout.width && screen.height == picture.layout.height)
      #expect(screen.wrongRows(UInt32(head + 1)) == 0, "head \(head)")
    }
    // A change on one of them, and one that goes dark.
    let part = Rectangle(x: 64, y: 64, width: 128, height: 32)
    pictures[3].paint(9, part)
    try stage.show(pictures[3], damage: part, on: 3)
    stage.sink.turnOff(ScanoutID(1))
    try stage.wait { pictures[1].frame.uses == 0 }
    #expect(try Screenshot(head: 3).wrongRows(9, part) == 0)
    #expect(try Screenshot(head: 2).wrongRows(3) == 0)
    #expect(pictures.map(\.frame.uses) == [1, 0, 1, 1] && stage.recorder.failed.isEmpty)
  }

  /// All of them at once, many times.
  @Test("four scanouts do not wait for each other") func scanoutsDoNotWaitForEachOther() throws {
    let stage = try Stage()
    let pictures = try Self.sizes.enumerated().map { head, size in
      try (0..<2).map { try stage.copy(UInt32($0), size.width, size.height, on: UInt32(head)) }
    }
    for round in 0..<10 {
      for head in pictures.indices { stage.present(pictures[head][round % 2], on: UInt32(head)) }
    }
    try stage.wait { pictures.allSatisfy { $0[0].frame.uses == 0 && $0[1].frame.uses == 1 } }
    try stage.settle()
    #expect(stage.recorder.failed.isEmpty)
    #expect(stage.recorder.presented.count + stage.recorder.replaced.count == 40)
  }

  @Test("scanouts are in the order of the named connectors") func scanoutsInTheOrderOfTheConnectors() throws {
    let stage = try Stage(connectors: ["Virtual-3", "Virtual-1"])
    #expect(stage.sink.outputs.map(\.name) == ["Virtual-3", "Virtual-1"])
    try stage.show(stage.copy(1, 800, 600, on: 0), on: 0)
    try stage.show(stage.copy(2, 1024, 768, on: 1), on: 1)
    #expect(try Screenshot(head: 2).wrongRows(1) == 0)
    #expect(try Screenshot(head: 0).wrongRows(2) == 0)
  }

  // MARK: The cursor

  private func plane(_ stage: Stage, _ scanout: Int) throws -> UInt32 {
    try #require(stage.sink.lanes[scanout].output.pipe.cursor?.id)
  }

  /// The kernel's own account of a cursor plane.
  private func expectCursor(
    _ stage: Stage, _ scanout: Int, _ image: CursorImage, x: Int64, y: Int64,
    _ location: SourceLocation = #_sourceLocation
  ) throws {
    let witness = try Witness()
    let (framebuffer, properties) = try witness.plane(plane(stage, scanout))
    try #require(framebuffer != 0, sourceLocation: location)
    func number(_ name: String) -> Int64? { properties[name].map { Int64(bitPattern: $0.value) } }
    #expect(number("CRTC_X") == x && number("CRTC_Y") == y, sourceLocation: location)
    #expect(number("CRTC_ID") == Int64(stage.sink.lanes[scanout].output.pipe.crtc), sourceLocation: location)
    let (memory, stride) = try witness.memory(of: framebuffer)
    let rows = (0..<64).flatMap { memory.bytes(at: $0 * stride, count: 256) }
    #expect(rows == image.pixels, sourceLocation: location)
  }

  @Test("the cursor is shown on its plane", arguments: [true, false]) func cursor(atomic: Bool) throws {
    let stage = try Stage(atomic: atomic)
    let (one, two) = (Self.cursor(1), Self.cursor(2, hotX: 7, hotY: 200))
    // Before there is a picture: it comes with it.
    stage.sink.setCursor(one, at: CursorPosition(x: 20, y: 30), on: ScanoutID(1))
    let picture = try stage.copy(1, 1024, 768, on: 1)
    try stage.show(picture, on: 1)
    try stage.settle()
    try expectCursor(stage, 1, one, x: 20, y: 30)
    let first = try Witness().plane(plane(stage, 1))
    if atomic {
      #expect(first.properties["HOTSPOT_X"]?.value == 3 && first.properties["HOTSPOT_Y"]?.value == 5)
    }

    stage.sink.moveCursor(to: CursorPosition(x: -10, y: 700), on: ScanoutID(1))
    try stage.settle()
    try expectCursor(stage, 1, one, x: -10, y: 700)
    // Another image: what was shown is not written over.
    let before = try Witness().memory(of: Witness().plane(plane(stage, 1)).framebuffer)
    stage.sink.setCursor(two, at: CursorPosition(x: 100, y: 100), on: ScanoutID(1))
    try stage.settle()
    try expectCursor(stage, 1, two, x: 100, y: 100)
    let old = (0..<64).flatMap { before.mapping.bytes(at: $0 * before.stride, count: 256) }
    #expect(old == one.pixels)
    // The picture does not change under it.
    #expect(try Screenshot(head: 1).wrongRows(1) == 0)

    // It goes with the screen, and comes back with it.
    stage.sink.turnOff(ScanoutID(1))
    try stage.wait { picture.frame.uses == 0 }
    if atomic { #expect(try Witness().plane(plane(stage, 1)).framebuffer == 0) }
    stage.sink.moveCursor(to: CursorPosition(x: 5, y: 6), on: ScanoutID(1))
    try stage.show(picture, on: 1)
    try stage.settle()
    try expectCursor(stage, 1, two, x: 5, y: 6)
    stage.sink.setCursor(nil, at: CursorPosition(x: 5, y: 6), on: ScanoutID(1))
    try stage.settle()
    #expect(try Witness().plane(plane(stage, 1)).framebuffer == 0)
    stage.sink.setCursor(two, at: CursorPosition(x: 1, y: 2), on: ScanoutID(1))
    try stage.settle()
    try expectCursor(stage, 1, two, x: 1, y: 2)
    let id = try plane(stage, 1)
    stage.sink.close()
    #expect(try Witness().plane(id).framebuffer == 0, "nothing is left of it")
    #expect(stage.recorder.failed.isEmpty)
  }

  /// Of many moves within one refresh the last one counts, and pictures go on meanwhile.
  @Test("of many moves within a refresh the last one counts") func cursorMovesAreCoalesced() throws {
    let stage = try Stage()
    let image = Self.cursor(3)
    let pictures = try (0..<2).map { try stage.copy(UInt32($0), 1280, 800) }
    try stage.show(pictures[0])
    stage.sink.setCursor(image, at: CursorPosition(x: 0, y: 0), on: ScanoutID(0))
    try stage.settle()
    let before = stage.sink.commits
    for x in 1...1000 { stage.sink.moveCursor(to: CursorPosition(x: Int32(x), y: 7), on: ScanoutID(0)) }
    try stage.settle()
    #expect(stage.sink.commits - before == 2, "the first one, and the last one")
    try expectCursor(stage, 0, image, x: 1000, y: 7)
    for index in 0..<20 {
      stage.sink.moveCursor(to: CursorPosition(x: Int32(index), y: 8), on: ScanoutID(0))
      try stage.show(pictures[index % 2])
    }
    try stage.settle()
    try expectCursor(stage, 0, image, x: 19, y: 8)
    #expect(stage.recorder.failed.isEmpty)
    // Wild numbers are no trouble.
    for place in [CursorPosition(x: .max, y: .min), CursorPosition(x: .min, y: .max)] {
      stage.sink.moveCursor(to: place, on: ScanoutID(0))
      try stage.settle()
      #expect(stage.sink.outputs[0].hasCursor)
    }
    stage.sink.moveCursor(to: CursorPosition(x: 3, y: 4), on: ScanoutID(0))
    try stage.settle()
    try expectCursor(stage, 0, image, x: 3, y: 4)
  }

  /// A frame that is cut off takes the screen with it; the next one brings the cursor back.
  @Test("after a frame was cut off, the next one brings the cursor back") func cursorSurvivesACut() throws {
    let stage = try Stage()
    let image = Self.cursor(4)
    let (one, two) = (try stage.copy(1, 1280, 800), try stage.copy(2, 1280, 800))
    stage.sink.setCursor(image, at: CursorPosition(x: 9, y: 9), on: ScanoutID(0))
    try stage.show(one)
    stage.sink.forget(one.frame)
    stage.sink.moveCursor(to: CursorPosition(x: 10, y: 9), on: ScanoutID(0))
    try stage.show(two)
    try stage.settle()
    try expectCursor(stage, 0, image, x: 10, y: 9)
    #expect(try Screenshot().wrongRows(2) == 0)
  }

  // MARK: Screens that come and go

  @Test("one screen of four is plugged out and in, and the others go on") func oneScreenPluggedOutAndIn()
    throws
  {
    let stage = try Stage()
    let (one, two) = (try stage.copy(1, 1280, 800), try stage.copy(2, 800, 600, on: 1))
    try stage.show(one)
    try stage.show(two, on: 1)
    try Plug.set("Virtual-2", false)
    defer { try? Plug.set("Virtual-2", true) }
    try stage.wait { stage.recorder.changes == 1 }
    #expect(stage.sink.outputs.map(\.modes.isEmpty) == [false, true, false, false])
    // The others go on.
    try stage.show(one)
    try Plug.set("Virtual-2", true)
    try stage.wait { stage.recorder.changes == 2 }
    #expect(!stage.sink.outputs[1].modes.isEmpty && stage.sink.outputs[1].hasCursor)
    try stage.settle()
    try stage.show(two, on: 1)
    #expect(try Screenshot(head: 1).wrongRows(2) == 0)
    #expect(try Screenshot().wrongRows(1) == 0)
  }

  // MARK: Several cards

  /// Two leases are two cards to whoever holds them: joined, they have their scanouts numbered through.
  @Test("two leases of a card are one sink, with consecutive scanouts") func twoCardsAsOne() throws {
    let master = try KMSCard(Stage.path)
    try master.becomeMaster()
    let pipes = try KMSPipe.choose([], of: master, limit: 4)
    let numbers = try [[2], [0, 1]].map { heads in
      let objects = try heads.flatMap {
        [pipes[$0].connector.id, pipes[$0].crtc, pipes[$0].plane.id, try #require(pipes[$0].cursor?.id)]
      }
      var lessee: UInt32 = 0
      return try master.file.call {
        unsafe drmModeCreateLease($0, objects, CInt(objects.count), O_CLOEXEC, &lessee)
      }
    }
    let loop = try EventLoop()
    let plan = try KMSPlan(numbers.map { KMSTarget(.descriptor($0)) })
    let sinks = try plan.cards.map {
      try KMSSink($0, udmabuf: nil, loop: loop, log: Logger(label: "test"))
    }
    let group = SinkGroup(sinks, routes: plan.routes(outputs: sinks.map(\.outputs.count)))
    let recorder = Recorder()
    group.observer = recorder
    #expect(group.outputs.map(\.name) == ["Virtual-3", "Virtual-1", "Virtual-2"])
    #expect(group.outputs.allSatisfy { $0.hasCursor })
    var pictures: [Picture] = []
    for scanout in UInt32(0)..<3 {
      let canvas = try group.allocate(width: 800, height: 600, format: .xrgb8888, on: ScanoutID(scanout))
      let picture = Picture(canvas)
      picture.paint(scanout + 1)
      try group.prepare(picture.frame, source: canvas.layout.bounds, on: ScanoutID(scanout))
      group.present(
        Presentation(
          frame: picture.frame, source: canvas.layout.bounds, damage: canvas.layout.bounds,
          sequence: UInt64(scanout + 1)), on: ScanoutID(scanout))
      pictures.append(picture)
    }
    try loop.turn(until: "all three are on their screens", isToldOf: true) { recorder.presented.count == 3 }
    #expect(recorder.presented.sorted() == [1, 2, 3])
    for (scanout, head) in [2, 0, 1].enumerated() {
      #expect(try Screenshot(head: head).wrongRows(UInt32(scanout + 1)) == 0)
    }
    for picture in pictures { group.forget(picture.frame) }
    #expect(pictures.allSatisfy { $0.frame.uses == 0 })
    for sink in sinks { sink.close() }
  }
}
