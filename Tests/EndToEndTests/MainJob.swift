import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

/// There is one card: one test after the other, in all of these suites.
@Suite(.testHost, .serialized)
enum EndToEnd {}

extension EndToEnd {
  /// A stock guest under real QEMU/KVM draws; its own pages are on a real KMS screen.
  ///
  /// The tests share one guest, in this order, as a guest at work sees one thing after the other.
  @Suite
  final class MainJob {
    struct Size: Sendable, CustomTestStringConvertible {
      let width, height: Int
      var testDescription: String { "\(width)x\(height)" }
      var name: String { testDescription }
    }

    /// cirrus has memory for 1024x768 only; bochs, on later kernels, must show both.
    static let sizes: [Size] =
      kernelRelease.hasPrefix("6.")
      ? [Size(width: 1024, height: 768)] : [Size(width: 1024, height: 768), Size(width: 1920, height: 1080)]
    static var largest: Size { sizes[sizes.count - 1] }

    nonisolated(unsafe) private static var shared: RunningGuest?

    private func guest() throws -> RunningGuest {
      if let guest = unsafe Self.shared { return guest }
      try TestHost.write("16384", to: UdmabufLimits.directory.appending("list_limit"))
      let guest = try RunningGuest(resolution: Self.largest.name)
      unsafe Self.shared = guest
      return guest
    }

    @Test("modetest's pattern is on the screen, pixel by pixel", arguments: sizes)
    func modetest(_ size: Size) throws {
      try guest().expectModetest(size.width, size.height)
    }

    @Test("the host's mapping has what the guest writes without any command, and a flush shows it")
    func writesAreSeen() throws {
      let guest = try guest()
      let size = Self.largest
      #expect(try guest.shell("hold p draw pattern \(size.name) XR24 7 hold") == "shown\n")
      try guest.expectLent(.positions(size.width, size.height, seed: 7))
      let shown = try #require(try ShownFramebuffer.current())
      let mapping = try shown.dmabuf.map()
      let place = 33 * shown.stride + 77 * 4
      let before = try guest.settledStatistics()
      for value: UInt32 in [0x00ab_cdef, 0x0012_3456] {
        #expect(mapping.load(UInt32.self, at: place) != value)
        #expect(try guest.shell("tell p poke 77 33 \(value)") == "poked\n")
        #expect(mapping.load(UInt32.self, at: place) == value)
      }
      #expect(try guest.statistics().flushes == before.flushes)
      // A flush brings the pixel, and no other, to the screen.
      #expect(try guest.shell("tell p dirty 77 33 1 1") == "dirtied\n")
      try waitUntil("the pixel is on the screen") {
        let screen = try Screenshot.take()
        let first = (33 * screen.width + 77) * 3
        return Array(screen.rgb[first..<first + 3]) == [0x12, 0x34, 0x56]
      }
      try guest.shell("tell p quit; drop p; true")
    }

    @Test("the guest's picture stays over stop, and the guest draws on after cont and system_reset")
    func stopContReset() throws {
      let guest = try guest()
      let size = Self.largest
      try guest.shell("hold p draw pattern \(size.name) XR24 8 hold")
      try guest.expectLent(.positions(size.width, size.height, seed: 8))
      try guest.monitor("stop")
      try guest.expectLent(.positions(size.width, size.height, seed: 8))
      try guest.monitor("cont")
      #expect(try guest.shell("tell p poke 0 0 255") == "poked\n")
      #expect(try guest.shell("tell p dirty 0 0 8 8") == "dirtied\n")
      try waitUntil("the guest draws on after cont") {
        Array(try Screenshot.take().rgb[0..<3]) == [0, 0, 255]
      }

      try guest.monitor("set-action", ["reboot": "reset"])
      try guest.monitor("system_reset")
      try guest.shell("hold q draw pattern \(size.name) XR24 9 hold")
      try guest.expectLent(.positions(size.width, size.height, seed: 9))
      // What the driver before the reset left is gone.
      #expect(try guest.settledStatistics().liveResources == 1)
      try guest.shell("tell q quit; drop q; true")
    }

    @Test("each of 300 page flips is a flush, and none fails or is copied")
    func flips() throws {
      let guest = try guest()
      try waitUntil("the guest has let go of its buffers") {
        try guest.settledStatistics().liveResources == 0
      }
      let before = try guest.settledStatistics()
      let flips: UInt64 = 300
      #expect(try guest.shell("draw flips \(Self.largest.name) \(flips)") == "flips \(flips)\n")
      let after = try guest.settledStatistics()
      // One more for the mode that was set before the first flip.
      #expect(after.flushes - before.flushes == flips + 1)
      #expect(after.framesFailed == before.framesFailed)
      #expect(after.framesShown > before.framesShown)
      #expect(after.bytesCopied == 0)
      #expect(after.releasedLate == 0)
    }

    @Test("pages that the guest has freed and filled anew are not on the screen")
    func freedPages() throws {
      let guest = try guest()
      let size = Self.largest
      let marker: UInt32 = 0x00fa_cade
      #expect(liveUdmabufs() == 0)
      #expect(try guest.shell("hold r draw reuse \(size.name) \(marker)") == "refilled\n")
      // Nothing but the second buffer's pattern; in it the marker does not occur.
      try guest.expectLent(.positions(size.width, size.height, seed: 4))
      #expect(try guest.statistics().releasedLate == 0)
      #expect(liveUdmabufs() == 1)
      try guest.shell("drop r; true")
    }

    @Test("after SIGTERM to the guest no dma-buf is left")
    func end() throws {
      let guest = try guest()
      guest.end()
      unsafe Self.shared = nil
      try waitUntil("no dma-buf is left") { liveUdmabufs() == 0 }
    }
  }
}

/// `uname -r`
let kernelRelease: String = {
  (try? readText("/proc/sys/kernel/osrelease")) ?? ""
}()

/// How many dma-bufs of udmabuf live in this kernel, by debugfs.
func liveUdmabufs() -> Int {
  guard let text = try? readText("/sys/kernel/debug/dma_buf/bufinfo") else { return -1 }
  return text.split(separator: "\n").filter { $0.contains("udmabuf") }.count
}

/// A process has ended, and its parent may have looked at it or not.
func isGone(_ pid: pid_t) -> Bool {
  guard let status = try? readText(FilePath("/proc/\(pid)/stat")) else { return true }
  return status.split(separator: ")").last?.contains(" Z ") ?? true
}
