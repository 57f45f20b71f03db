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

/// What the test host's card does: bochs at 1920x1080 on 7.3, cirrus at 1024x768 on 6.12. There is one
/// screen, so one test at a time.
@Suite(.testHost, .serialized) struct KMSDeviceTests {
  private func connectorName(_ card: KMSCard) -> String { card.driver == "bochs-drm" ? "Virtual-1" : "VGA-1" }

  @Test("the card's facts are read") func facts() throws {
    let card = try KMSCard(.init(.auto))
    #expect(card.name == "/dev/dri/card0")
    #expect(["bochs-drm", "cirrus", "cirrus-qemu"].contains(card.driver))
    #expect(card.isAtomic && card.imports && card.exports && card.hasDumbBuffers)
    let connector = try #require(card.connectors.first)
    #expect(connector.name == connectorName(card) && connector.isConnected && !connector.modes.isEmpty)
    let plane = try #require(card.planes.first { $0.kind == .primary })
    #expect(plane.formats.contains(.xrgb8888) && plane.takesDamage)
    #expect(card.cursorPlanes == 0)
    #expect(card.isMaster)
  }

  @Test("a probe finds that the card imports, shows and commits a udmabuf") func probe() throws {
    let probes = KMSProbe.all(try UdmabufDevice())
    try #require(!probes.isEmpty)
    for probe in probes {
      #expect(probe.error == nil)
      #expect(probe.importsUdmabuf == .yes)
      guard probe.driver != "vgem" else { continue }
      #expect(probe.framebuffer == .yes && probe.commit == .yes)
    }
    #expect(KMSProbe.all(nil).allSatisfy { $0.importsUdmabuf != .yes && $0.error == nil })
  }

  /// A session that somebody runs is not disturbed: what needs no master is tried, the rest is said.
  @Test("a probe beside a DRM master does not disturb it, and says what could not be tried")
  func probeBesideAMaster() throws {
    let master = try KMSCard(Stage.path)
    try master.becomeMaster()
    let probe = KMSProbe("/dev/dri/card0", try UdmabufDevice())
    #expect(probe.importsUdmabuf == .yes && probe.framebuffer == .yes)
    guard case .untested(let why) = probe.commit else {
      Issue.record("\(probe.commit)")
      return
    }
    #expect(why.contains("another process is DRM master of /dev/dri/card0"))
    #expect(master.isMaster)
  }

  @Test("every mode that the sink offers for guest memory is shown") func outputsAreWhatCanBeShown() throws {
    let stage = try Stage()
    let output = try #require(stage.sink.outputs.first)
    #expect(stage.sink.outputs.count == 1 && output.name == connectorName(stage.sink.card))
    #expect(output.modes.allSatisfy { !$0.interlaced })
    #expect(!output.modes.isEmpty && stage.sink.lentSizes?.first?.isEmpty == false)
    let sizes = Set(output.modes.map { "\($0.hdisplay)x\($0.vdisplay)" })
    #expect(sizes.contains(stage.sink.card.driver == "bochs-drm" ? "1920x1080" : "1024x768"))
    for mode in try #require(stage.sink.lentSizes?.first).prefix(4) {
      let (width, height) = (UInt32(mode.hdisplay), UInt32(mode.vdisplay))
      let layout = FrameLayout(width: width, height: height, format: .xrgb8888, stride: width * 4)
      let picture = try Picture(layout, udmabuf: stage.udmabuf)
      try stage.prepare(picture)
      try stage.show(picture)
      let mode = try Witness().crtc.mode
      #expect(UInt32(mode.hdisplay) == width && UInt32(mode.vdisplay) == height)
    }
  }

  /// The very pages of the udmabuf are what the card takes its pixels from.
  @Test("the card shows the very pages of a udmabuf of scattered pages", arguments: [true, false])
  func showsScatteredPages(atomic: Bool) throws {
    let stage = try Stage(atomic: atomic)
    #expect(stage.sink.card.isAtomic == atomic)
    let (one, two) = (try stage.picture(1), try stage.picture(2))
    try stage.show(one)
    #expect(try Witness().shownInode() == one.dmabuf.inode)
    #expect(one.frame.uses == 1)
    #expect(try Screenshot().wrongRows(1) == 0)
    try stage.show(two)
    #expect(try Witness().shownInode() == two.dmabuf.inode)
    #expect(one.frame.uses == 0 && two.frame.uses == 1)
    let screen = try Screenshot()
    #expect(screen.wrongRows(2) == 0 && screen.wrongRows(1) > 0)
    #expect(screen.width == two.layout.width && screen.height == two.layout.height)
    // The guest draws into the buffer that is shown.
    let part = Rectangle(x: 64, y: 100, width: 200, height: 50)
    two.paint(3, part)
    try stage.show(two, damage: part)
    let changed = try Screenshot()
    #expect(changed.wrongRows(3, part) == 0)
    #expect(changed.wrongRows(2, Rectangle(x: 0, y: 0, width: two.layout.width, height: 100)) == 0)
  }

  /// The driver copies what is said to be damaged and nothing else, again and again.
  @Test("the driver copies the damaged part of a frame, and nothing else") func damageIsWhatIsTakenOver()
    throws
  {
    let stage = try Stage()
    let picture = try stage.picture(1)
    try stage.show(picture)
    picture.paint(2)
    let part = Rectangle(x: 32, y: 64, width: 320, height: 64)
    try stage.show(picture, damage: part)
    var screen = try Screenshot()
    #expect(screen.wrongRows(2, part) == 0)
    #expect(screen.wrongRows(1, Rectangle(x: 0, y: 0, width: picture.layout.width, height: 64)) == 0)
    picture.paint(3)
    try stage.show(picture, damage: part)
    screen = try Screenshot()
    #expect(screen.wrongRows(3, part) == 0)
    #expect(screen.wrongRows(1, Rectangle(x: 0, y: 128, width: picture.layout.width, height: 64)) == 0)
    // Nothing said is everything.
    try stage.show(picture, damage: Rectangle(x: 0, y: 0, width: 0, height: 0))
    #expect(try Screenshot().wrongRows(3) == 0)
  }

  @Test(
    "the card shows a part of a frame, or refuses it if it shows frames from their start alone",
    arguments: [(0, 0, 0), (0, 0, 4096), (64, 0, 0), (0, 16, 0)] as [(UInt32, UInt32, UInt32)])
  func showsAPartOfAFrame(x: UInt32, y: UInt32, offset: UInt32) throws {
    let stage = try Stage()
    var layout = try stage.layout
    let source = Rectangle(x: x, y: y, width: layout.width, height: layout.height)
    layout.width += 64
    layout.height += 16
    layout.stride = layout.width * 4
    layout.offset = offset
    let memfd = try Memfd.create(name: "part", size: layout.pages + UInt64(offset), seals: .shrink)
    let dmabuf = try stage.udmabuf.create(
      MemfdRange(memfd: memfd, offset: 0, length: layout.pages + UInt64(offset)))
    let frame = Frame(id: 1 << 32, memory: .lent(dmabuf), layout: layout)
    let memory = try dmabuf.map(writable: true)
    for row in 0..<source.height {
      let pixels = Pattern.inFrame(row, 0, source.width, 4)
      memory.store(unsafe pixels.span.bytes, at: Int(offset + (row + y) * layout.stride + x * 4))
    }
    do throws(SinkError) { try stage.sink.prepare(frame, source: source, on: ScanoutID(0)) } catch {
      #expect(error.refusal == .part && (x != 0 || y != 0), "\(error)")
      #expect(stage.sink.card.showsFromStartOnly)
      return
    }
    stage.sink.present(
      Presentation(frame: frame, source: source, damage: source, sequence: 1), on: ScanoutID(0))
    try stage.wait { stage.recorder.presented == [1] }
    #expect(try Screenshot().wrongRows(4) == 0)
  }

  /// What comes faster than the screen replaces what waits.
  @Test("a frame that comes faster than the screen replaces the waiting one") func coalesces() throws {
    let stage = try Stage()
    let pictures = try (0..<3).map { _ in try stage.picture() }
    for index in 0..<30 { stage.present(pictures[index % 3]) }
    #expect(pictures.map(\.frame.uses) == [1, 0, 1])
    try stage.wait { stage.recorder.presented.last == 30 }
    #expect(stage.recorder.presented == [1, 30] && stage.recorder.replaced == Array(2...29))
    #expect(stage.recorder.failed.isEmpty)
    #expect(pictures.map(\.frame.uses) == [0, 0, 1])
  }

  /// One turn of the loop for each flip: nothing spins, nothing is polled.
  @Test("the loop turns once for each flip") func wakesOncePerFlip() throws {
    let stage = try Stage()
    let pictures = [try stage.picture(), try stage.picture()]
    try stage.show(pictures[0])
    let (turns, start) = (stage.turns, Instant.now)
    stage.recorder.whenPresented = { sequence in
      if sequence < 60 { stage.present(pictures[Int(sequence % 2)]) }
    }
    stage.present(pictures[1])
    try stage.wait { stage.recorder.presented.last == 60 }
    stage.recorder.whenPresented = nil
    #expect(stage.recorder.presented == Array(1...60) && stage.recorder.failed.isEmpty)
    #expect(stage.turns - turns <= 59 + 10)
    print("59 flips in \(Instant.now - start), \(stage.turns - turns) turns")
  }

  @Test("a scanout that is turned off is dark", arguments: [true, false]) func turnsOff(atomic: Bool) throws {
    let stage = try Stage(atomic: atomic)
    let picture = try stage.picture(1)
    try stage.show(picture)
    // Behind what is on its way.
    let sequence = stage.present(picture)
    stage.sink.turnOff(ScanoutID(0))
    try stage.wait { picture.frame.uses == 0 }
    #expect(stage.recorder.presented.last == sequence)
    #expect(try Witness().crtc.mode_valid == 0)
    stage.sink.turnOff(ScanoutID(0))
    try stage.show(picture)
    #expect(try Witness().shownInode() == picture.dmabuf.inode)
    #expect(try Screenshot().wrongRows(1) == 0)
    #expect(stage.recorder.failed.isEmpty)
  }

  @Test("a shown frame that is forgotten leaves the screen dark", arguments: [true, false])
  func forgetsWhatIsShown(atomic: Bool) throws {
    let stage = try Stage(atomic: atomic)
    let (one, two) = (try stage.picture(1), try stage.picture(2))
    try stage.show(one)
    stage.sink.forget(one.frame)
    #expect(one.frame.uses == 0)
    #expect(try Witness().shownInode() == nil)
    try stage.show(two)
    #expect(try Witness().shownInode() == two.dmabuf.inode)
    #expect(try Screenshot().wrongRows(2) == 0)
    stage.sink.forget(one.frame)
    #expect(try Witness().shownInode() == two.dmabuf.inode)
  }

  @Test("a frame that is forgotten on its way or while it waits fails, and is not shown")
  func forgetsWhatIsOnItsWay() throws {
    let stage = try Stage()
    let pictures = try (1...4).map { try stage.picture($0) }
    try stage.show(pictures[0])
    stage.present(pictures[1])
    stage.present(pictures[2])
    stage.sink.forget(pictures[2].frame)
    #expect(pictures.map(\.frame.uses) == [1, 1, 0, 0])
    stage.present(pictures[3])
    stage.sink.forget(pictures[1].frame)
    #expect(pictures.map(\.frame.uses) == [0, 0, 0, 1])
    try stage.wait { stage.recorder.presented.last == 4 }
    #expect(stage.recorder.presented == [1, 4])
    #expect(stage.recorder.failed.map(\.sequence) == [3, 2])
    #expect(try Witness().shownInode() == pictures[3].dmabuf.inode)
    #expect(try Screenshot().wrongRows(4) == 0)
    // The flip events of what was cut off have come and gone.
    try stage.show(pictures[0].prepared(again: stage))
  }

  /// Framebuffers and handles of frames that are forgotten do not stay behind.
  @Test("forgotten frames leave no framebuffers and no handles behind") func leavesNothingBehind() throws {
    let stage = try Stage()
    let file = stage.sink.card.file
    func framebuffers() throws -> Int {
      var count = 0
      try file.call {
        guard let resources = unsafe drmModeGetResources($0) else { return -1 }
        count = unsafe Int(resources.pointee.count_fbs)
        unsafe drmModeFreeResources(resources)
        return 0
      }
      return count
    }
    #expect(try framebuffers() == 0, "the trial of the modes")
    let picture = try stage.picture(prepared: false)
    for _ in 0..<3 {
      try stage.prepare(picture)
      try stage.prepare(picture)
      #expect(try framebuffers() == 1)
      stage.sink.forget(picture.frame)
      #expect(try framebuffers() == 0)
    }
    // A handle that was left open would be what another import of the same dma-buf gives.
    let handle = try stage.sink.card.importHandle(picture.dmabuf)
    stage.sink.card.closeHandle(handle)
    #expect(throws: Errno.self) { try file.call { drmCloseBufferHandle($0, handle) } }
  }

  /// The driver of cirrus on 6.12 maps what it imports for a device of 32 address bits. Where there is memory above
  /// them (`qemu/boot-host --kernel oldest-udmabuf --memory 6G`), the kernel gives the device a copy, and writes it back. On 7.3
  /// bochs has no more bits, and its driver maps nothing. Where the trial cannot be made at the start, what the kernel says
  /// counts.
  @Test("the kernel writes no old copy back over lent memory", arguments: [64, 0])
  func memoryOfOthersIsNotWrittenBack(megabytes: UInt64) throws {
    let stage = try TestHost.withUdmabufLimits(megabytes: megabytes) { try Stage() }
    let ends = try readText("/proc/iomem").split(separator: "\n").filter { $0.hasSuffix(": System RAM") }
      .compactMap { UInt64($0.split(separator: " ")[0].split(separator: "-")[1], radix: 16) }
    let card = stage.sink.card
    let isMapped = card.driver == "cirrus"
    let end = try #require(ends.max())
    let bounces = isMapped && end > 0xffff_ffff
    let reach = try DMAReach(#require(card.number))
    #expect(reach.bits == 32 && !reach.isTranslated)
    // The kernel's zones end where its RAM does.
    #expect(try #require(reach.ramEnd) > end && reach.ramEnd! - end <= 128 << 20, "\(reach)")
    #expect(card.bounces == bounces)
    #expect(card.takesCopies(stage.udmabuf) == bounces, "the trial sees the same")
    let picture = try stage.picture(1, prepared: false)
    if bounces {
      let error = #expect(throws: SinkError.self) { try stage.prepare(picture) }
      #expect(error?.refusal == .bouncing)
      #expect(stage.sink.lentSizes == [[]])
    } else {
      try stage.prepare(picture)
    }
    #expect(card.bounces == bounces)
    picture.paint(2)
    stage.sink.forget(picture.frame)
    let (layout, rowBytes) = (picture.layout, Int(picture.layout.width) * 4)
    for row in 0..<layout.height {
      let bytes = picture.memory.bytes(at: Int(row * layout.stride), count: rowBytes)
      guard bytes == Pattern.inFrame(row, 0, layout.width, 2) else {
        Issue.record("row \(row) is an old one")
        break
      }
    }
  }

  @Test("a frame that the card cannot show is refused with its reason") func refusals() throws {
    let stage = try Stage()
    let layout = try stage.layout
    func refusal(
      _ change: (inout FrameLayout) -> Void, source: Rectangle? = nil, scanout: UInt32 = 0
    ) throws -> SinkError? {
      var layout = layout
      change(&layout)
      let memfd = try Memfd.create(name: "refused", size: layout.pages, seals: .shrink)
      let dmabuf = try stage.udmabuf.create(MemfdRange(memfd: memfd, offset: 0, length: layout.pages))
      let frame = Frame(id: 1 << 33, memory: .lent(dmabuf), layout: layout)
      do throws(SinkError) {
        try stage.sink.prepare(frame, source: source ?? layout.bounds, on: ScanoutID(scanout))
        stage.sink.forget(frame)
        return nil
      } catch { return error }
    }
    #expect(try refusal { _ in } == nil)
    #expect(try refusal { $0.format = .argb8888 } == nil, "shown as XR24")
    // Larger than the card has memory for, or than any mode of the screen.
    let size = try #require(
      try refusal {
        $0.height = 6000
      })
    #expect(size.refusal == .mode)
    #expect(
      size.description.contains("has no mode \(layout.width)x6000; it has: \(layout.width)x\(layout.height)"))
    let format = try #require(try refusal { $0.format = FourCC("YU12") })
    #expect(format.refusal == .format && format.description.contains("XR24"))
    let modifier = try #require(try refusal { $0.modifier = 0x0100_0000_0000_0001 })
    #expect(modifier.refusal == .format)
    #expect(
      try refusal({ _ in }, source: Rectangle(x: 1, y: 0, width: layout.width, height: 1))?.refusal == .other)
    #expect(try refusal({ _ in }, scanout: 1)?.refusal == .noOutput)

    let memfd = try Memfd.create(name: "short", size: systemPageSize, seals: .shrink)
    let short = try stage.udmabuf.create(MemfdRange(memfd: memfd, offset: 0, length: systemPageSize))
    let frame = Frame(id: 1 << 34, memory: .lent(short), layout: layout)
    let error = #expect(throws: SinkError.self) {
      try stage.sink.prepare(frame, source: layout.bounds, on: ScanoutID(0))
    }
    #expect(error?.description.contains("its dma-buf has 4096") == true)

    // What is presented all the same is refused from the event loop, not in the middle of the call.
    for scanout in [UInt32(0), 9] {
      let sequence = UInt64(100 + scanout)
      stage.sink.present(
        Presentation(frame: frame, source: layout.bounds, damage: layout.bounds, sequence: sequence),
        on: ScanoutID(scanout))
      #expect(stage.recorder.failed.last?.sequence != sequence)
      try stage.wait { stage.recorder.failed.last?.sequence == sequence }
    }
    #expect(stage.recorder.presented.isEmpty && frame.uses == 0)
  }

  @Test("at the end the screen shows what it showed before") func putsBackWhatWasShown() throws {
    // Somebody who is master, shows a picture, and lets another be master for a while.
    let other = try Stage()
    let console = try other.picture(7)
    try other.show(console)
    let before = try Witness().crtc
    other.sink.card.dropMaster()
    do {
      let stage = try Stage()
      #expect(try Witness().shownInode() == console.dmabuf.inode, "untouched until the first present")
      let picture = try stage.picture(1)
      try stage.show(picture)
      #expect(try Screenshot().wrongRows(1) == 0)
      stage.present(picture)
      stage.sink.close()
      stage.sink.close()
      #expect(picture.frame.uses == 0)
      #expect(throws: SinkError.self) { try stage.prepare(picture) }
      #expect(!stage.sink.card.isMaster)
    }
    let after = try Witness().crtc
    #expect(after.buffer_id == before.buffer_id && after.mode_valid == 1)
    #expect(after.mode.hdisplay == before.mode.hdisplay && after.mode.vdisplay == before.mode.vdisplay)
    #expect(try Screenshot().wrongRows(7) == 0)
    try other.sink.card.becomeMaster()
  }

  @Test("a sink that is dropped puts the screen back too") func endOfTheSinkPutsBackToo() throws {
    let other = try Stage()
    let console = try other.picture(7)
    try other.show(console)
    other.sink.card.dropMaster()
    do {
      let stage = try Stage()
      try stage.show(stage.picture(1))
    }
    #expect(try Witness().shownInode() == console.dmabuf.inode)
    try other.sink.card.becomeMaster()
  }

  @Test("a card whose DRM master is another process is refused, by its name") func masterHeldByAnother()
    throws
  {
    let master = try KMSCard(Stage.path)
    try master.becomeMaster()
    let error = #expect(throws: KMSError.self) { _ = try Stage() }
    guard case .masterHeld(let card, let holder) = try #require(error) else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect(card == "/dev/dri/card0")
    #expect(holder?.hasSuffix(", process \(getpid())") == true, "\(holder ?? "nobody")")
    #expect(error?.description.contains("end it or switch to another virtual terminal") == true)
  }

  @Test("frames fail while another process is DRM master") func masterLostWhileShowing() throws {
    let stage = try Stage()
    let picture = try stage.picture(1)
    try stage.show(picture)
    stage.sink.card.dropMaster()
    let sequence = stage.present(picture)
    try stage.wait { stage.recorder.failed.last?.sequence == sequence }
    #expect(stage.recorder.failed.last?.error.refusal == .busy)
    #expect(picture.frame.uses == 1, "it is still on the screen")
    try stage.sink.card.becomeMaster()
    let again = stage.present(picture)
    try stage.wait { stage.recorder.presented.last == again }
  }

  /// A descriptor that is master already, as a session manager hands it over.
  @Test("a descriptor that is DRM master already is used") func inheritedDescriptor() throws {
    let number = try FD.open("/dev/dri/card0", writable: true).relinquish()
    let stage = try Stage(KMSCard(KMSTarget("fd:\(number)")))
    #expect(stage.sink.card.name == "fd:\(number)")
    let picture = try stage.picture(1)
    try stage.show(picture)
    #expect(try Witness().shownInode() == picture.dmabuf.inode)
  }

  /// A lease: another process stays master of the card and has given one connector away.
  @Test("a lease of a connector is used") func lease() throws {
    let master = try KMSCard(Stage.path)
    try master.becomeMaster()
    let plane = try #require(master.planes.first { $0.kind == .primary })
    let objects = [master.connectors[0].id, master.crtcs[0], plane.id]
    var lessee: UInt32 = 0
    let number = try master.file.call {
      unsafe drmModeCreateLease($0, objects, CInt(objects.count), O_CLOEXEC, &lessee)
    }
    let stage = try Stage(KMSCard(KMSTarget(.descriptor(number))))
    let picture = try stage.picture(1)
    try stage.show(picture)
    #expect(try Screenshot().wrongRows(1) == 0)
  }

  /// Memory of the card's own, for pictures that are copied.
  @Test("a picture in the card's own memory is shown") func ownMemory() throws {
    let stage = try Stage()
    let wanted = try stage.layout
    let canvas = try stage.sink.allocate(
      width: wanted.width, height: wanted.height, format: .argb8888, on: ScanoutID(0))
    #expect(canvas.layout.stride >= wanted.width * 4 && canvas.layout.format == .xrgb8888)
    #expect(canvas.area == canvas.layout.bounds)
    #expect(canvas.memory.mapping.bytes(at: 0, count: 4096) == [UInt8](repeating: 0, count: 4096))
    let picture = Picture(canvas)
    picture.paint(5)
    try stage.prepare(picture)
    try stage.show(picture)
    #expect(try Screenshot().wrongRows(5) == 0)
  }

  @Test("connectors are chosen by their names") func connectorsByName() throws {
    let card = try KMSCard(Stage.path)
    let name = connectorName(card)
    func pipes(_ names: [String]) throws -> [String] {
      try KMSPipe.choose(names, of: card, limit: 2).map(\.connector.name)
    }
    #expect(try pipes([]) == [name] && pipes([name]) == [name])
    #expect(throws: KMSError.noSuchConnector("DP-1", card: card.name, has: [name])) { try pipes(["DP-1"]) }
    #expect(throws: KMSError.connectorTwice(name)) { try pipes([name, name]) }
    #expect(throws: KMSError.tooManyConnectors(count: 3, limit: 2)) { try pipes(["a", "b", "c"]) }
  }
}

extension Picture {
  /// Prepared once more, after it was forgotten or not.
  fileprivate func prepared(again stage: Stage) throws -> Picture {
    try stage.prepare(self)
    return self
  }
}
