import Foundation
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd {
  /// A guest with a desktop: a compositor that nobody wrote for this, and windows.
  @Suite
  struct Desktop {
    private let width = 1920
    private let height = 1080

    /// The screen's SHA-256, as sha256sum prints it: of red, green and blue, row by row.
    private func digestOfScreen(_ guest: RunningGuest) throws -> String {
      let file = guest.directory.appending("screen")
      try Data(Screenshot.take().rgb).write(to: URL(filePath: file.string))
      return try digest(run("/usr/bin/sha256sum", [file.string]).output)
    }

    private func digest(_ line: String) throws -> String {
      try #require(line.split(separator: " ").first.map(String.init))
    }

    /// The compositor draws what moves into pages that the host's screen shows.
    @Test("windows that move are on the screen as the compositor has them, pixel by pixel, and lent")
    func windows() throws {
      // The pages of a guest that has run for a while lie apart, and are more than the kernel takes by itself.
      try TestHost.withUdmabufLimits(items: 16384) { try expectWindows() }
    }

    private func expectWindows() throws {
      let guest = try RunningGuest(
        memory: "1G", resolution: "\(width)x\(height)", options: ["--desktop", "--kernel", "distribution"])
      #expect(try guest.shell("desktop") == "blue\ngreen\nred\n")
      var pictures: Set<String> = []
      for steps in [3, 8] {
        try guest.shell("wander \(steps)")
        // The compositor may still be drawing.
        var (inGuest, onScreen) = ("", "nothing")
        try? waitUntil("the screen shows what the compositor has drawn") {
          inGuest = try digest(guest.shell("digest \(width * height * 3)"))
          onScreen = try digestOfScreen(guest)
          return inGuest == onScreen
        }
        #expect(inGuest == onScreen)
        pictures.insert(onScreen)
        let shown = try #require(try ShownFramebuffer.current())
        #expect(try shown.dmabuf.exporter() == "udmabuf")
      }
      #expect(pictures.count == 2, "the windows have moved")
      let statistics = try guest.settledStatistics()
      #expect(statistics.bytesCopied == 0 && statistics.shadows.isEmpty && statistics.protocolErrors.isEmpty)
      #expect(statistics.framesShown > 2)
      guest.end()
    }
  }
}
