import DisplayProtocol
import Foundation
import Linux
import Presenting
import Scanout
import SystemPackage
import TestSupport
import Testing
import Varlink

@testable import Consumers

/// A screen that can be pulled. It takes copies alone, and remembers the first pixel of what it shows.
private final class PulledScreen: ScanoutSink {
  let outputs: [SinkOutput]
  weak var observer: (any ScanoutObserver)?
  private var isPlugged = false
  private(set) var pixel: UInt32?

  init(_ output: SinkOutput) { outputs = [output] }

  func plug(_ isPlugged: Bool) {
    (self.isPlugged, pixel) = (isPlugged, nil)
    observer?.outputsChanged()
  }

  private func check() throws(SinkError) {
    if !isPlugged { throw SinkError(.noOutput, "it has no screen now") }
  }

  func prepare(_ frame: Frame, source: Rectangle, on scanout: ScanoutID) throws(SinkError) {
    try check()
    if case .lent = frame.memory { throw SinkError(.importing, "it imports nothing") }
  }

  func allocate(
    width: UInt32, height: UInt32, format: FourCC, on scanout: ScanoutID
  ) throws(SinkError) -> Canvas {
    try check()
    return try MemfdShadow.canvas(width: width, height: height, format: format)
  }

  func present(_ presentation: Presentation, on scanout: ScanoutID) {
    if case .shadow(let memory) = presentation.frame.memory {
      pixel = memory.mapping.load(UInt32.self, at: 0)
    }
  }

  func turnOff(_ scanout: ScanoutID) { pixel = nil }
  func setCursor(_ image: CursorImage?, at position: CursorPosition, on scanout: ScanoutID) {}
  func moveCursor(to position: CursorPosition, on scanout: ScanoutID) {}
  func forget(_ frame: Frame) {}
}

/// What `present` shows of what a helper offers, all of it in this process.
@Suite final class PresentedScanoutTests {
  private let guest: OfferingGuest
  private let screen: PulledScreen
  private let presenter: Presenter
  private var loop: EventLoop { guest.loop }
  private var frames: [Frame] { guest.frames }
  private let said = Said()

  /// What people are told.
  private final class Said {
    var pictures: [PresentedPicture] = []
    var complaints: [String] = []
  }

  init() throws {
    guest = try OfferingGuest()
    screen = PulledScreen(guest.output)
    presenter = try Presenter(
      VarlinkClient(guest.control), guest.control, screen, reserve: 1, showsCursor: true, udmabuf: nil,
      loop: guest.loop,
      onPicture: { [said] in said.pictures.append($0) }, onComplaint: { [said] in said.complaints.append($0) }
    )
    try presenter.start()
    try settle()
  }

  deinit { presenter.stop() }

  private func settle() throws { try guest.settle() }

  /// The guest shows a buffer that it has not shown before.
  private func show(_ pixel: UInt32) throws {
    try offer(pixel)
    try settle()
  }

  private func offer(_ pixel: UInt32) throws {
    let layout = FrameLayout(width: 64, height: 48, format: .xrgb8888, stride: 256)
    let (frame, memory) = try guest.make(layout)
    memory.mapping.store(pixel, at: 0)
    try guest.show(frame)
  }

  private func plug(_ isPlugged: Bool) throws {
    screen.plug(isPlugged)
    try settle()
  }

  @Test("the damage that a helper tells is cut to the image, whatever its numbers are")
  func wildDamage() throws {
    let whole = Rectangle(x: 0, y: 0, width: 64, height: 48)
    let text = #"""
      {"scanout":0,"sequence":1,"buffer":1,"kind":"shadow","memory":"memfd","size":12288,"width":64,"height":48,
      "format":"XR24","fourcc":875713112,"stride":256,"offset":0,"modifier":0,
      "source":{"x":0,"y":0,"width":64,"height":48}}
      """#
    let frame = try JSONDecoder().decode(DisplayFrame.self, from: Data(text.utf8))
    for (told, part): (Rectangle, Rectangle) in [
      (whole, whole),
      (Rectangle(x: 1, y: 2, width: 3, height: 4), Rectangle(x: 1, y: 2, width: 3, height: 4)),
      (Rectangle(x: 60, y: 40, width: .max, height: 100), Rectangle(x: 60, y: 40, width: 4, height: 8)),
      (Rectangle(x: .max, y: .max, width: .max, height: .max), Rectangle(x: 64, y: 48, width: 0, height: 0)),
    ] {
      let damage = try #require(DisplayRectangle(told).clipped(to: frame))
      #expect(damage == part)
      // As it is added to another one, and cut to what is shown.
      _ = damage.union(whole).intersection(whole)
    }
    let negative = #"{"x":-1,"y":0,"width":1,"height":1}"#
    let before = try JSONDecoder().decode(DisplayRectangle.self, from: Data(negative.utf8))
    #expect(before.clipped(to: frame) == nil)
  }

  @Test("a screen that is plugged in shows what an idle guest has shown while there was none")
  func plugged() throws {
    try show(0x11)
    #expect(screen.pixel == nil)
    try plug(true)
    #expect(screen.pixel == 0x11)
    // Once more, now that there is an old picture to be mistaken for it.
    try plug(false)
    try show(0x22)
    try plug(true)
    #expect(screen.pixel == 0x22)
    // A guest that shows nothing any more is not asked for it.
    try plug(false)
    try show(0x33)
    guest.turnOff()
    try settle()
    try plug(true)
    #expect(screen.pixel == nil)
  }

  @Test("a picture that is shown, and one that is refused, are each told once and counted")
  func told() throws {
    try show(0x11)
    try show(0x12)
    #expect(said.pictures.isEmpty)
    #expect(said.complaints.count == 1 && said.complaints[0].hasSuffix("it has no screen now"))
    #expect(presenter.counts.failed == 2)
    try plug(true)
    try show(0x13)
    let copied = "it is a memfd, of which no dma-buf can be made here"
    let layout = frames[0].layout.description
    #expect(said.pictures.map(\.picture) == [layout])
    #expect(said.pictures.map(\.output) == ["Virtual-1"] && said.pictures.map(\.scanout) == [0])
    #expect(said.pictures.map(\.copied) == [copied])
    #expect(said.complaints.count == 1)
    // The last refused one again, when the screen came, and the newest.
    #expect(presenter.counts.bytesCopied == UInt64(2 * frames[0].layout.bytes))
  }

  @Test("a presenter survives the loss of its hold by its reserve, and ends at the second")
  func reserve() throws {
    try plug(true)
    for turn in 1...2 {
      #expect(presenter.failure == nil)
      try offer(UInt32(turn))
      try loop.turn(until: "it holds buffer \(turn)") { guest.sink.currentStatistics.holds == 1 }
      guest.sink.forget(frames[turn - 1])
    }
    try loop.turn(until: "it has ended") { presenter.failure != nil }
    guard case PresentingError.reserveIsUsedUp? = presenter.failure else {
      Issue.record("\(String(describing: presenter.failure))")
      return
    }
  }
}
