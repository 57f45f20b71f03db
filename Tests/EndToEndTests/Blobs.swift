import CDRM
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd {
  /// A guest whose card has blob resources: QEMU's generic vhost-user device, and the stock driver.
  ///
  /// The tests share one guest, in this order.
  @Suite
  final class Blobs {
    /// cirrus shows 1024x768 only.
    static let sizes: [MainJob.Size] =
      kernelRelease.hasPrefix("6.")
      ? [.init(width: 1024, height: 768)]
      : [.init(width: 1024, height: 768), .init(width: 1366, height: 768), .init(width: 1920, height: 1080)]

    nonisolated(unsafe) private static var shared: RunningGuest?

    private func guest() throws -> RunningGuest {
      if let guest = unsafe Self.shared { return guest }
      try TestHost.write("16384", to: UdmabufLimits.directory.appending("list_limit"))
      let guest = try RunningGuest(
        resolution: Self.sizes[Self.sizes.count - 1].name,
        options: ["--device", "blob", "--kernel", "newest"])
      unsafe Self.shared = guest
      return guest
    }

    @Test("the driver has blobs, and no 3D")
    func features() throws {
      let line = try guest().shell("dmesg | grep 'drm. features'")
      #expect(line.contains("-virgl") && line.contains("+edid") && line.contains("+resource_blob"), "\(line)")
    }

    @Test(
      "a buffer of the driver's own is a lent blob, whose pixels show without a transfer", arguments: sizes)
    func dumbBuffer(_ size: MainJob.Size) throws {
      let guest = try guest()
      let before = try guest.settledStatistics()
      #expect(try guest.shell("hold p draw pattern \(size.name) XR24 7 hold") == "shown\n")
      try guest.expectLent(.positions(size.width, size.height, seed: 7))
      // The driver gives no command to transfer: what it writes is there, and on the screen with a flush.
      #expect(try guest.shell("tell p poke 5 6 0x00fedcba") == "poked\n")
      #expect(try guest.shell("tell p dirty 5 6 1 1") == "dirtied\n")
      try waitUntil("the pixel is on the screen") {
        let screen = try Screenshot.take()
        let first = (6 * screen.width + 5) * 3
        return Array(screen.rgb[first..<first + 3]) == [0xfe, 0xdc, 0xba]
      }
      try guest.shell("tell p quit; drop p; true")
      let after = try guest.settledStatistics()
      #expect(after.bytesCopied == before.bytesCopied && after.protocolErrors.isEmpty, "\(after)")
      #expect(guest.helperLog.contains("a blob of"))
    }

    struct Import: Sendable, CustomTestStringConvertible {
      let exporter: String
      let size: MainJob.Size
      var testDescription: String { "\(exporter), \(size)" }
    }

    /// Buffers of the guest that are not its graphics card's, which Linux imports since 6.14.
    static let imports = sizes.flatMap { size in
      ["heap", "udmabuf"].map { Import(exporter: $0, size: size) }
    }

    @Test("a buffer that the guest's card imports is lent as any other", arguments: imports)
    func imported(_ wanted: Import) throws {
      let guest = try guest()
      let size = wanted.size
      let bytes = (size.width * size.height * 4 + 4095) & ~4095
      #expect(try guest.shell("hold b draw blob \(wanted.exporter) \(bytes)") == "open\n")
      for (command, answer) in [
        ("create", "created"), ("map", "mapped"),
        ("show \(size.name) \(size.width * 4) 0 9", "shown"),
      ] {
        #expect(try guest.shell("tell b \(command)") == answer + "\n")
      }
      try guest.expectLent(.positions(size.width, size.height, seed: 9))
      // Its bytes are the host's: no command of the guest stands between.
      let shown = try #require(try ShownFramebuffer.current())
      let mapping = try shown.dmabuf.map()
      for value: UInt32 in [0x0a0b_0c0d, 0x0102_0304] {
        #expect(try guest.shell("tell b poke 4096 \(value)") == "poked\n")
        #expect(mapping.load(UInt32.self, at: 4096) == value)
      }
      try guest.shell("tell b close; tell b quit; drop b; true")
      #expect(try guest.settledStatistics().protocolErrors.isEmpty)
    }

    /// How often the card has refreshed its screen.
    private func refreshes() throws -> UInt64 {
      try FD.open("/dev/dri/card0", writable: true).withRaw { fd in
        guard let resources = unsafe drmModeGetResources(fd) else { throw TroubleInTest("no resources") }
        defer { unsafe drmModeFreeResources(resources) }
        var (sequence, time): (UInt64, UInt64) = (0, 0)
        guard unsafe drmCrtcGetSequence(fd, resources.pointee.crtcs[0], &sequence, &time) == 0 else {
          throw TroubleInTest("the card counts no refreshes")
        }
        return sequence
      }
    }

    /// Has the guest flip without a pause, and counts the frames on the screen and the refreshes of that time: the screen's
    /// flips hold the guest back. How many refreshes get a frame depends on how busy the machine is, and is not asked here. A
    /// card that counts no refreshes, as cirrus of Linux 6.12, fails here.
    private func expectPace(_ guest: RunningGuest) throws {
      // A small picture: what the emulated CPU of the test host does for each byte is not what is asked here.
      try guest.shell("draw flip 640x480 100000 >/dev/null 2>&1 & flipper=$!")
      try waitUntil("it flips") {
        try guest.statistics().framesShown > 30 && ShownFramebuffer.current() != nil
      }
      let (before, first) = (try refreshes(), try guest.statistics())
      try waitUntil("300 refreshes, and frames among them") {
        try refreshes() >= before + 300 && guest.statistics().framesShown > first.framesShown + 30
      }
      let (last, after) = (try guest.statistics(), try refreshes())
      #expect(
        last.framesCoalesced == first.framesCoalesced && last.framesFailed == first.framesFailed,
        "no frame takes the place of another")
      let frames = last.framesShown - first.framesShown
      print("pacing: \(frames) frames in \(after - before) refreshes")
      #expect(frames <= after - before + 1)
      try guest.shell("kill $flipper; wait $flipper; true")
    }

    @Test("the screen paces the guest: no more frames than refreshes")
    func pacing() throws {
      try expectPace(guest())
    }

    @Test("the example shows a buffer that no graphics driver has made", arguments: ["heap", "udmabuf"])
    func example(_ exporter: String) throws {
      let guest = try guest()
      let size = Self.sizes[Self.sizes.count - 1]
      #expect(try guest.shell("hold e lend-any-buffer \(exporter)") == "shown\n")
      try guest.expectLent(.positions(size.width, size.height, seed: 0))
      try guest.shell("drop e; true")
    }

    @Test("a guest whose kernel imports nothing has blobs nevertheless, and the screen paces it")
    func olderGuest() throws {
      try guest().end()
      unsafe Self.shared = nil
      let guest = try RunningGuest(
        resolution: "1024x768", options: ["--device", "blob", "--kernel", "oldest-udmabuf"])
      #expect(try guest.shell("hold p draw pattern 1024x768 XR24 4 hold") == "shown\n")
      try guest.expectLent(.positions(1024, 768, seed: 4))
      try guest.shell("tell p quit; drop p; true")
      let statistics = try guest.settledStatistics()
      #expect(statistics.bytesCopied == 0 && statistics.protocolErrors.isEmpty)
      // This one waits for the host alone.
      try expectPace(guest)
      guest.end()
    }

    @Test("a stopped guest's picture stays on the screen, and no dma-buf outlives the guest")
    func stopContReset() throws {
      let guest = try guest()
      let size = Self.sizes[0]
      try guest.shell("hold p draw pattern \(size.name) XR24 8 hold")
      try guest.expectLent(.positions(size.width, size.height, seed: 8))
      try guest.monitor("stop")
      try guest.expectLent(.positions(size.width, size.height, seed: 8))
      try guest.monitor("cont")
      #expect(try guest.shell("tell p dirty 0 0 8 8") == "dirtied\n")
      try guest.shell("tell p quit; drop p; true")
      try waitUntil("its buffer is gone") { try guest.statistics().liveDMABufs == 0 }
      guest.end()
      unsafe Self.shared = nil
      try waitUntil("no dma-buf is left") { liveUdmabufs() == 0 }
    }
  }
}
