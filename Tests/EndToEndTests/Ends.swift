import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd {
  /// How it ends, whoever ends first, and guests of other sizes.
  @Suite
  struct Ends {
    enum First: String, CaseIterable, Sendable { case helper, qemu }

    @Test(
      "when QEMU and the helper are killed in either order, no process, dma-buf or memory is left",
      arguments: First.allCases)
    func killed(_ first: First) throws {
      let before = try sharedMemory()
      let guest = try RunningGuest(resolution: "1024x768")
      #expect(try guest.shell("hold p draw pattern 1024x768 XR24 5 hold") == "shown\n")
      try waitUntil("a udmabuf is on the screen") {
        try ShownFramebuffer.current()?.dmabuf.exporter() == "udmabuf"
      }
      let helper = try #require(guest.helperPID)
      let qemu = try #require(guest.qemuPID)
      kill(first == .helper ? helper : qemu, SIGKILL)
      try waitUntil("the first is gone") { isGone(first == .helper ? helper : qemu) }
      kill(first == .helper ? qemu : helper, SIGKILL)
      guest.waitForEnd()
      try waitUntil("both processes are gone") { isGone(helper) && isGone(qemu) }
      try waitUntil("no dma-buf is left") { liveUdmabufs() == 0 }
      #expect(try ShownFramebuffer.current()?.dmabuf.exporter() != "udmabuf")
      // The guest's RAM was shared memory of this kernel: none of it is pinned.
      try waitUntil("the guest's memory is free again") { try sharedMemory() < before + (8 << 20) }
    }

    @Test("QEMU that quits ends the helper, and no dma-buf is left")
    func quit() throws {
      let guest = try RunningGuest(resolution: "1024x768")
      try guest.shell("hold p draw pattern 1024x768 XR24 6 hold")
      let helper = try #require(guest.helperPID)
      try guest.monitor("quit")
      guest.waitForEnd()
      try waitUntil("the helper is gone") { isGone(helper) }
      try waitUntil("no dma-buf is left") { liveUdmabufs() == 0 }
    }

    /// The kernel writes its memory to a disk and turns the machine off. The next one boots, and takes that memory for its own.
    @Test("a hibernated guest comes back with its picture, lent anew")
    func hibernation() throws {
      let directory = try makeTemporaryDirectory()
      defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
      let disk = directory.appending("disk")
      try Data().write(to: URL(filePath: disk.string))
      #expect(unsafe disk.withPlatformString { unsafe truncate($0, 400 << 20) } == 0)
      func boot() throws -> RunningGuest {
        try RunningGuest(
          memory: "256M", resolution: "1024x768", options: ["--kernel", "newest", "--disk", disk.string])
      }
      let picture = Picture.positions(1024, 768, seed: 13)
      let place = "cat /sys/class/block/vda/dev >/sys/power/resume"

      let first = try boot()
      try first.shell("mkswap /dev/vda && swapon /dev/vda && echo shutdown >/sys/power/disk && \(place)")
      #expect(try first.shell("hold p draw pattern 1024x768 XR24 13 hold") == "shown\n")
      try first.expectLent(picture)
      // Its answer comes from the next machine, if at all.
      _ = try? first.shell("echo disk >/sys/power/state; echo back >/run/back")
      first.waitForEnd()

      let second = try boot()
      #expect(try second.shell("ls /run") == "", "another system until it takes the memory over")
      _ = try? second.shell(place, within: .seconds(10))
      // The guest loses what is sent to it meanwhile.
      try waitUntil("the guest is back") {
        (try? second.shell("cat /run/back", within: .seconds(10))) == "back\n"
      }
      #expect(try second.shell("tell p dirty 0 0 8 8") == "dirtied\n")
      try second.expectLent(picture)
      let statistics = try second.settledStatistics()
      #expect(statistics.bytesCopied == 0 && statistics.buffersLent > 0)
      // Its driver of 7.3 shows what it showed before it has made that again.
      #expect(Set(statistics.protocolErrors.keys).isSubset(of: ["invalidResource"]))
      try second.shell("tell p quit; drop p; true")
      second.end()
    }

    @Test("the picture of a guest with RAM above 4 GiB is on the screen, pixel by pixel")
    func split() throws {
      let guest = try RunningGuest(memory: "3G", resolution: "1024x768")
      #expect(try guest.shell("hold p draw pattern 1024x768 XR24 11 hold") == "shown\n")
      let picture = Picture.positions(1024, 768, seed: 11)
      try waitUntil("the picture is on the screen") {
        picture.firstDifference(in: try Screenshot.take()) == nil
      }
      let shown = try #require(try ShownFramebuffer.current())
      #expect(picture.firstDifference(inXRGB: try shown.bytes(), stride: shown.stride) == nil)
      try guest.shell("tell p quit; drop p; true")
      guest.end()
    }

    /// Bytes of shared memory, which memfds are made of, in this kernel.
    private func sharedMemory() throws -> UInt64 {
      for line in try readText("/proc/meminfo").split(separator: "\n") where line.hasPrefix("Shmem:") {
        return (UInt64(line.split(separator: " ")[1]) ?? 0) << 10
      }
      throw TroubleInTest("no Shmem in /proc/meminfo")
    }
  }
}
