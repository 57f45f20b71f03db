import CDRM
import Scanout
import SystemPackage
import Testing

@testable import KMS

@Suite struct SettingTests {
  private static func mode(_ width: UInt32, _ height: UInt32) -> KMSMode {
    KMSMode(generated: DisplayMode.reducedBlanking(width: width, height: height)!)
  }
  private let modes = [mode(1920, 1080), mode(1280, 1024), mode(1024, 768), mode(800, 600)]

  private func tried(_ width: UInt32, _ height: UInt32, canTest: Bool = true) -> [String] {
    Setting.candidates(for: PixelSize(width: width, height: height), in: modes, canTest: canTest).map {
      "\($0.mode.size)+\($0.x)+\($0.y)"
    }
  }

  @Test("the settings for a picture are tried in order: its own mode, a made one, the middle of a larger one")
  func whatIsTried() {
    #expect(tried(1024, 768).first == "1024x768+0+0")
    #expect(tried(1000, 700) == ["1000x700+0+0", "1024x768+12+34", "1920x1080+460+190"])
    // The smallest mode that holds it is the preferred one.
    #expect(tried(1900, 1000) == ["1900x1000+0+0", "1920x1080+10+40"])
    // Wider than any mode of the screen; higher; and larger than what any of them clocks.
    #expect(tried(1921, 64) == [])
    #expect(tried(64, 1081) == [])
    #expect(tried(1920, 1080).count == 2)
    #expect(tried(10, 10) == ["800x600+395+295", "1920x1080+955+535"], "no timing is made for so little")
    // Without tests.
    #expect(tried(1024, 768, canTest: false) == ["1024x768+0+0"])
    #expect(tried(1000, 700, canTest: false) == [])
  }

  @Test("no made mode is faster than the screen's own") func nothingIsFasterThanTheScreen() {
    let modes = [Self.mode(640, 2000), Self.mode(2000, 480)]
    let settings = Setting.candidates(for: PixelSize(width: 2000, height: 2000), in: modes, canTest: true)
    #expect(settings.isEmpty)
  }

  @Test("the canvases for a picture are tried in order: the smallest that hold it come first") func canvases()
  {
    func sizes(_ width: UInt32, _ height: UInt32) -> [String] {
      Setting.canvases(for: PixelSize(width: width, height: height), in: modes.map(\.mode)).map(\.description)
    }
    #expect(sizes(700, 500) == ["800x600", "1024x768", "1280x1024", "1920x1080"])
    #expect(sizes(1100, 900) == ["1280x1024", "1920x1080", "1024x768", "800x600"])
    #expect(sizes(4000, 100) == ["1920x1080", "1280x1024", "1024x768", "800x600"])
  }

  @Test(
    "a picture stands in the middle of its canvas, or is cut off",
    arguments: [
      (700, 500, Rectangle(x: 50, y: 50, width: 700, height: 500)),
      (801, 599, Rectangle(x: 0, y: 0, width: 800, height: 599)),
      (16000, 64, Rectangle(x: 0, y: 268, width: 800, height: 64)),
      (UInt32.max, UInt32.max, Rectangle(x: 0, y: 0, width: 800, height: 600)),
    ] as [(UInt32, UInt32, Rectangle)])
  func area(_ width: UInt32, _ height: UInt32, _ area: Rectangle) {
    let canvas = PixelSize(width: 800, height: 600)
    #expect(Setting.area(of: PixelSize(width: width, height: height), in: canvas) == area)
  }

  /// What the kernel is handed is what was calculated.
  @Test("the kernel gets the timing that was calculated") func generatedMode() throws {
    let timing = try #require(DisplayMode.reducedBlanking(width: 1366, height: 768))
    let mode = KMSMode(generated: timing)
    #expect(mode.mode == timing && mode.isUsable && !mode.isPreferred)
    #expect(mode.raw.hdisplay == 1366 && mode.raw.vtotal == timing.vtotal && mode.raw.vrefresh == 60)
    #expect(mode.raw.flags == UInt32(DRM_MODE_FLAG_PHSYNC | DRM_MODE_FLAG_NVSYNC))
  }
}

@Suite struct KMSPlanTests {
  struct Case: CustomTestStringConvertible {
    let testDescription: String
    let targets: [String]
    let cards: [String]
    let outputs: [Int]
    /// "card.output" for each scanout.
    let routes: [String]
  }

  @Test(
    "several targets become one plan, with each card once",
    arguments: [
      Case(testDescription: "none", targets: [], cards: [], outputs: [], routes: []),
      Case(
        testDescription: "all of one", targets: ["auto"], cards: ["auto"], outputs: [3],
        routes: ["0.0", "0.1", "0.2"]),
      Case(
        testDescription: "one card, twice", targets: ["/a/card0:DP-1", "/a/card0:DP-3,DP-2"],
        cards: ["/a/card0:DP-1,DP-3,DP-2"], outputs: [3], routes: ["0.0", "0.1", "0.2"]),
      Case(
        testDescription: "two cards", targets: ["/a/card0:DP-1", "/a/card1", "/a/card0:DP-2"],
        cards: ["/a/card0:DP-1,DP-2", "/a/card1"], outputs: [2, 2], routes: ["0.0", "1.0", "1.1", "0.1"]),
      Case(
        testDescription: "leases", targets: ["fd:7", "fd:8"], cards: ["fd:7", "fd:8"], outputs: [1, 1],
        routes: ["0.0", "1.0"]),
    ])
  func joins(_ one: Case) throws {
    let plan = try KMSPlan(one.targets.map { try KMSTarget($0) })
    #expect(plan.cards.map(\.description) == one.cards)
    #expect(plan.routes(outputs: one.outputs).map { "\($0.sink).\($0.scanout)" } == one.routes)
  }

  /// One card by two paths, and named without connectors.
  @Test(
    "a card that is named twice without connectors is refused",
    arguments: [["/dev/null", "/dev/null"], ["/dev/null:DP-1", "/dev/../dev/null"], ["auto", "auto"]])
  func refuses(_ targets: [String]) {
    #expect(throws: KMSError.cardTwice(targets[1])) { try KMSPlan(targets.map { try KMSTarget($0) }) }
  }
}
