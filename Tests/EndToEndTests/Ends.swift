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
      "killed in either order, nothing is left: no process, no dma-buf, no memory", arguments: First.allCases)
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

    @Test("QEMU that ends by itself ends the helper, with status 0 and the console as it was")
    func quit() throws {
      let guest = try RunningGuest(resolution: "1024x768")
      try guest.shell("hold p draw pattern 1024x768 XR24 6 hold")
      let helper = try #require(guest.helperPID)
      try guest.monitor("quit")
      guest.waitForEnd()
      try waitUntil("the helper is gone") { isGone(helper) }
      try waitUntil("no dma-buf is left") { liveUdmabufs() == 0 }
    }

    @Test("3 GiB of RAM, of which a part stands above 4 GiB")
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
