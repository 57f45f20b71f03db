import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd {
  /// What breaks under a guest at work, and what is left then: the cases of docs/faults.md that need a real guest.
  @Suite
  struct Faults {
    private func expectShown(_ picture: Picture) throws {
      var difference: String? = "nothing was compared"
      try? waitUntil("the picture is on the screen") {
        difference = picture.firstDifference(in: try Screenshot.take())
        return difference == nil
      }
      #expect(difference == nil)
    }

    /// A guest that shows a picture of its own pages.
    private func guestThatShows(_ seed: UInt32, _ options: [String] = []) throws -> RunningGuest {
      let guest = try RunningGuest(resolution: "1024x768", options: options)
      #expect(try guest.shell("hold p draw pattern 1024x768 XR24 \(seed) hold") == "shown\n")
      try expectShown(.positions(1024, 768, seed: seed))
      return guest
    }

    private func expectNothingLeft(_ guest: RunningGuest) throws {
      let (helper, qemu) = (guest.helperPID, guest.qemuPID)
      guest.end()
      for pid in [helper, qemu].compactMap(\.self) { #expect(kill(pid, 0) == -1, "\(pid) is left") }
      try waitUntil("no dma-buf is left") { liveUdmabufs() == 0 }
    }

    @Test("the guest's driver can let go of a card that shows something, and take it again")
    func driverUnbound() throws {
      let guest = try guestThatShows(21)
      let driver = "/sys/bus/virtio/drivers/virtio_gpu"
      try guest.shell("cd \(driver); card=$(ls -d virtio*); cd /; echo $card >\(driver)/unbind")
      // The program that drew has the card open still; its buffers go with it.
      try guest.shell("drop p; true")
      #expect(try guest.statistics().liveResources <= 1)
      for seed: UInt32 in [22, 23] {
        try guest.shell("echo $card >\(driver)/bind")
        #expect(try guest.shell("hold q draw pattern 1024x768 XR24 \(seed) hold") == "shown\n")
        try expectShown(.positions(1024, 768, seed: seed))
        let statistics = try guest.settledStatistics()
        // What the driver before left is gone.
        #expect(statistics.liveResources == 1 && statistics.liveDMABufs == 1)
        #expect(statistics.protocolErrors.isEmpty)
        #expect(liveUdmabufs() == 1)
        try guest.shell("tell q quit; drop q; true")
        try waitUntil("its buffer is gone") {
          try guest.statistics().liveResources == 0 && liveUdmabufs() == 0
        }
        try guest.shell("echo $card >\(driver)/unbind")
      }
      try expectNothingLeft(guest)
    }

    /// Takes the card from the helper as a session manager does: by a descriptor of the same open file.
    private static let takeMaster = """
      import ctypes, fcntl, os, sys, time
      pid, directory = int(sys.argv[1]), sys.argv[2]
      SET_MASTER, DROP_MASTER = 0x641e, 0x641f
      links = {n: os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")}
      number, path = next((int(n), p) for n, p in links.items() if p.startswith("/dev/dri/card"))
      libc = ctypes.CDLL(None, use_errno=True)
      process = os.pidfd_open(pid)
      theirs = libc.syscall(438, process, number, 0)  # pidfd_getfd
      if theirs < 0: sys.exit(os.strerror(ctypes.get_errno()))
      fcntl.ioctl(theirs, DROP_MASTER)
      ours = os.open(path, os.O_RDWR)
      fcntl.ioctl(ours, SET_MASTER)
      open(f"{directory}/taken", "w").close()
      while not os.path.exists(f"{directory}/return"): time.sleep(0.05)
      os.close(ours)
      fcntl.ioctl(theirs, SET_MASTER)
      """

    @Test("frames fail while another process is DRM master, and the next one after that is shown")
    func masterTaken() throws {
      let guest = try guestThatShows(24)
      let helper = try #require(guest.helperPID)
      let directory = guest.directory
      let before = try guest.settledStatistics()
      let thief = try Child("/usr/bin/python3", ["-c", Self.takeMaster, "\(helper)", directory.string])
      try waitUntil("the card is taken") {
        try #require(thief.isRunning)
        return FileManager.default.fileExists(atPath: directory.appending("taken").string)
      }
      // The guest is answered, and draws on.
      for _ in 0..<3 { #expect(try guest.shell("tell p dirty 0 0 8 8") == "dirtied\n") }
      try waitUntil("the frames have failed") {
        try guest.settledStatistics().framesFailed > before.framesFailed
      }
      #expect(guest.helperLog.contains("another process is DRM master now"))
      #expect(FileManager.default.createFile(atPath: directory.appending("return").string, contents: nil))
      #expect(thief.wait() == 0)
      #expect(try guest.shell("tell p poke 3 4 255; tell p dirty 0 0 1024 768") == "poked\ndirtied\n")
      try waitUntil("the guest's pages are on the screen again") {
        let screen = try Screenshot.take()
        let first = (4 * screen.width + 3) * 3
        return Array(screen.rgb[first..<first + 3]) == [0, 0, 255]
      }
      let after = try guest.settledStatistics()
      #expect(after.framesShown > before.framesShown && after.bytesCopied == 0)
      #expect(after.liveDMABufs == 1 && after.releasedLate == 0)
      try guest.shell("tell p quit; drop p; true")
      try waitUntil("its buffer is gone") { try guest.statistics().liveDMABufs == 0 }
      try expectNothingLeft(guest)
    }

    @Test("when the card is unplugged, the guest is still answered, and its pages go back")
    func cardUnplugged() throws {
      let device = resolvingLinks("/sys/class/drm/card0/device")
      let driver = resolvingLinks(device.appending("driver"))
      let name = try #require(device.lastComponent?.string)
      let guest = try guestThatShows(25)
      let before = try guest.settledStatistics()
      try tell(driver, "unbind", name)
      // Whatever fails below, the next test has its card. It is there already if nothing does.
      defer { _ = try? write(driver, "bind", name) }
      for _ in 0..<3 { #expect(try guest.shell("tell p dirty 0 0 8 8") == "dirtied\n") }
      try waitUntil("the frames have failed") {
        try guest.settledStatistics().framesFailed > before.framesFailed
      }
      // A buffer that is made now is refused or not shown; its pages go back as those that were shown.
      try guest.shell("tell p quit; drop p; true")
      try waitUntil("its buffer is gone") {
        let statistics = try guest.statistics()
        return statistics.liveResources == 0 && statistics.liveDMABufs == 0
      }
      #expect(try guest.statistics().releasedLate == 0)
      // A card that is gone takes no command: that its file was closed lets go of what it had imported.
      try waitUntil("the kernel has let go of its pages") { liveUdmabufs() == 0 }
      // Neither has ended because of it.
      #expect(try guest.shell("echo alive") == "alive\n")
      try expectNothingLeft(guest)
      try tell(driver, "bind", name)
      try waitUntil("the card is there") {
        directoryEntries("/dev/dri").contains { $0.hasPrefix("card") }
      }
      let next = try guestThatShows(26)
      try next.shell("tell p quit; drop p; true")
      try expectNothingLeft(next)
    }

    /// Has a driver let go of a device, or take it: files that can only be written.
    private func tell(_ driver: FilePath, _ what: String, _ device: String) throws {
      try #require(write(driver, what, device) == 0)
    }

    private func write(_ driver: FilePath, _ what: String, _ device: String) throws -> Int32 {
      try run("/bin/sh", ["-c", "echo \(device) 2>/dev/null >\(driver)/\(what)"]).status
    }

    @Test("buffers that no descriptor is left for are copied, the log has the remedy, and QEMU's still fit")
    func descriptorLimit() throws {
      let wrapper = try makeTemporaryDirectory().appending("helper")
      defer { _ = try? FileManager.default.removeItem(atPath: wrapper.removingLastComponent().string) }
      let program = repository.appending(".build/release/vhost-user-udmabuf")
      let script = "#!/bin/sh\nulimit -n 64\nexec \(program) \"$@\"\n"
      try Data(script.utf8).write(to: URL(fileURLWithPath: wrapper.string))
      #expect(unsafe chmod(wrapper.string, 0o755) == 0)

      let guest = try guestThatShows(27, ["--helper", wrapper.string])
      #expect(try guest.shell("hold m draw many 60 256x256") == "made 60\n")
      let full = try guest.settledStatistics()
      #expect(full.liveResources == 61 && full.liveDMABufs > 1 && full.liveDMABufs < 33, "\(full)")
      #expect(liveUdmabufs() == Int(full.liveDMABufs))
      for words in ["(descriptorLimit)", "may have 64 open (RLIMIT_NOFILE)", "ulimit -Hn"] {
        #expect(guest.helperLog.contains(words))
      }
      // New eventfds for each ring, and a new display socket.
      try guest.monitor("stop")
      try guest.monitor("cont")
      #expect(try guest.shell("tell p poke 3 4 255; tell p dirty 0 0 8 8") == "poked\ndirtied\n")
      try waitUntil("what was there works on") {
        let screen = try Screenshot.take()
        let first = (4 * screen.width + 3) * 3
        return Array(screen.rgb[first..<first + 3]) == [0, 0, 255]
      }
      #expect(try guest.shell("drop m") == "destroyed 60\n")
      try waitUntil("the descriptors are free again") { try guest.statistics().liveDMABufs == 1 }
      #expect(try guest.settledStatistics().bytesCopied == 0)
      try guest.shell("tell p quit; drop p; true")
      try expectNothingLeft(guest)
    }
  }
}
