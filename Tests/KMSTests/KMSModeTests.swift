import CDRM
import Linux
import Scanout
import SystemPackage
import TestSupport
import Testing
import Udmabuf

@testable import KMS

/// Pictures of sizes that the screen has no mode for, on the test host's card.
@Suite(.testHost, .serialized) struct KMSModeTests {
  /// The screen shows a size that it never named, straight from guest memory.
  @Test(
    "a size that no mode has is shown in a mode made for it",
    arguments: [(1000, 700), (648, 486)] as [(UInt32, UInt32)])
  func modeIsMade(width: UInt32, height: UInt32) throws {
    let stage = try Stage()
    #expect(!stage.sink.outputs[0].modes.contains { $0.hdisplay == width && $0.vdisplay == height })
    let picture = try Picture(
      FrameLayout(width: width, height: height, format: .xrgb8888, stride: width * 4), udmabuf: stage.udmabuf)
    picture.paint(6)
    try stage.prepare(picture)
    try stage.show(picture)
    let mode = try Witness().crtc.mode
    #expect(UInt32(mode.hdisplay) == width && UInt32(mode.vdisplay) == height)
    #expect((59...60).contains(mode.vrefresh), "clocks come in steps")
    #expect(try Witness().shownInode() == picture.dmabuf.inode)
    let screen = try Screenshot()
    #expect(screen.width == width && screen.height == height && screen.wrongRows(6) == 0)
    // And back.
    let usual = try stage.picture(1)
    try stage.show(usual)
    #expect(try Screenshot().wrongRows(1) == 0)
    try stage.show(picture)
    #expect(try Screenshot().wrongRows(6) == 0)
  }

  /// What is larger than any mode is cut off; the legacy calls have no test, and keep to the screen's modes.
  @Test("a canvas has the picture's size if a mode can be made for it, otherwise the screen's")
  func canvases() throws {
    func canvas(_ stage: Stage, _ width: UInt32, _ height: UInt32) throws -> Canvas {
      try stage.sink.allocate(width: width, height: height, format: .argb8888, on: ScanoutID(0))
    }
    let stage = try Stage()
    let preferred = try stage.layout
    let exact = try canvas(stage, 1000, 700)
    #expect(exact.layout.width == 1000 && exact.layout.height == 700 && exact.area == exact.layout.bounds)
    let cropped = try canvas(stage, 16000, 64)
    #expect(cropped.layout.width == preferred.width && cropped.layout.height == preferred.height)
    #expect(
      cropped.area
        == Rectangle(x: 0, y: (preferred.height - 64) / 2, width: preferred.width, height: 64))
    #expect(throws: SinkError.self) {
      try stage.sink.allocate(width: 64, height: 64, format: .xrgb8888, on: ScanoutID(1))
    }
    stage.sink.close()

    let older = try Stage(atomic: false)
    let centred = try canvas(older, 700, 500)
    #expect(centred.layout.width == 800 && centred.layout.height == 600)
    #expect(centred.area == Rectangle(x: 50, y: 50, width: 700, height: 500))
    let picture = Picture(centred)
    for row in 0..<centred.area.height {
      let pixels = Pattern.inFrame(row, 0, 700, 3)
      picture.memory.store(
        unsafe pixels.span.bytes, at: Int((row + 50) * centred.layout.stride + 50 * 4))
    }
    try older.prepare(picture)
    try older.show(picture)
    let screen = try Screenshot()
    #expect(screen.width == 800 && screen.height == 600)
    #expect(screen.isBlack(Rectangle(x: 0, y: 0, width: 800, height: 50)))
    #expect(screen.isBlack(Rectangle(x: 0, y: 550, width: 800, height: 50)))
    #expect(screen.isBlack(Rectangle(x: 750, y: 50, width: 50, height: 500)))
    #expect(screen.wrongRows(3, Rectangle(x: 50, y: 50, width: 700, height: 500), from: (50, 50)) == 0)
  }

  @Test("a size that the user wants is offered first, and refused if the screen cannot show it")
  func preferredSize() throws {
    let stage = try Stage()
    let (mine, theirs) = (try stage.layout, stage.sink.outputs[0].modes)
    try stage.sink.prefer(width: 800, height: 600, on: ScanoutID(0))
    #expect(stage.sink.outputs[0].modes.first?.hdisplay == 800)
    #expect(stage.sink.outputs[0].modes.count == theirs.count)
    try stage.sink.prefer(width: 1000, height: 700, on: ScanoutID(0))
    #expect(stage.sink.outputs[0].modes.first?.hdisplay == 1000)
    let error = #expect(throws: SinkError.self) {
      try stage.sink.prefer(width: mine.width, height: 6000, on: ScanoutID(0))
    }
    #expect(error?.refusal == .mode && stage.sink.outputs[0].modes.first?.hdisplay == 1000)
  }
}
