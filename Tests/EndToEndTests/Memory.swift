import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd {
  /// What QEMU does with the guest's memory while the helper has it.
  @Suite
  struct Memory {
    private func expectShown(_ guest: RunningGuest, seed: UInt32) throws {
      #expect(try guest.shell("hold p\(seed) draw pattern 1024x768 XR24 \(seed) hold") == "shown\n")
      var difference: String? = "nothing was compared"
      try? waitUntil("the picture is on the screen") {
        difference = Picture.positions(1024, 768, seed: seed).firstDifference(in: try Screenshot.take())
        return difference == nil
      }
      #expect(difference == nil)
      try guest.shell("tell p\(seed) quit; drop p\(seed); true")
    }

    @Test(
      "QEMU measures how fast the guest writes, and the guest keeps its screen",
      arguments: ["distribution", "newest"])
    func dirtyRate(_ version: String) throws {
      let guest = try RunningGuest(
        resolution: "1024x768", options: ["--qemu", version])
      defer { guest.end() }
      try expectShown(guest, seed: 31)
      for seed: UInt32 in [32, 33] {
        try guest.monitor("calc-dirty-rate", ["calc-time": 1, "mode": "dirty-bitmap"])
        try waitUntil("it is measured") {
          try guest.monitor("query-dirty-rate")["status"] as? String == "measured"
        }
        #expect(try guest.monitor("query-dirty-rate")["mode"] as? String == "dirty-bitmap")
        try expectShown(guest, seed: seed)
      }
      #expect(try guest.monitor("query-status")["status"] as? String == "running")
      let statistics = try guest.settledStatistics()
      #expect(statistics.bytesCopied == 0 && statistics.protocolErrors.isEmpty)
    }

    /// QEMU keeps no state of a vhost-user-gpu: if the log were offered, it would migrate and leave the screen behind.
    @Test(
      "QEMU refuses to migrate, and the guest keeps its screen",
      arguments: ["distribution", "newest"])
    func migration(_ version: String) throws {
      let guest = try RunningGuest(
        resolution: "1024x768", options: ["--qemu", version])
      defer { guest.end() }
      let error = #expect(throws: TroubleInTest.self) {
        try guest.monitor("migrate", ["uri": "exec:cat >/dev/null"])
      }
      #expect("\(error.map { "\($0)" } ?? "")".contains("VHOST_USER_PROTOCOL_F_LOG_SHMFD"))
      try expectShown(guest, seed: 34)
    }

    /// The processes that have a file open or mapped.
    private func holders(of inode: UInt64) -> [String] {
      directoryEntries("/proc").compactMap { pid_t($0) }.flatMap { pid -> [String] in
        let maps = (try? readText(FilePath("/proc/\(pid)/maps"), upTo: 1 << 24)) ?? ""
        let isMapped = maps.split(separator: "\n").contains {
          let words = $0.split(separator: " ", omittingEmptySubsequences: true)
          return words.count > 5 && words[4] == "\(inode)" && words[5].hasPrefix("/memfd:")
        }
        let isOpen = directoryEntries(FilePath("/proc/\(pid)/fd")).contains { number in
          var status = stat()
          guard unsafe stat("/proc/\(pid)/fd/\(number)", &status) == 0 else { return false }
          let target = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(pid)/fd/\(number)")
          return status.st_ino == inode && target?.hasPrefix("/memfd:") == true
        }
        return (isMapped ? ["\(pid) maps it"] : []) + (isOpen ? ["\(pid) has it open"] : [])
      }
    }

    /// The memory of the host that is in memfds and the like, in MiB.
    private func sharedMemory() throws -> Int {
      let line = try readText("/proc/meminfo").split(separator: "\n").first { $0.hasPrefix("Shmem:") }
      return try #require(line?.split(separator: " ").dropFirst().first.flatMap { Int($0) }) / 1024
    }

    @Test("the memory of a DIMM that is unplugged is free, while a picture from elsewhere is shown")
    func unplugged() throws {
      let guest = try RunningGuest(
        resolution: "1024x768", options: ["--room", "2G", "--append", "memhp_default_state=online_movable"])
      defer { guest.end() }
      let qemu = try #require(guest.qemuPID)
      func memfds() throws -> Set<UInt64> {
        Set(
          try RunningProcess(qemu).openFiles().filter(\.isMemfd).map {
            try RunningProcess(qemu).descriptor($0.number).status().inode
          })
      }
      let before = (files: try memfds(), shared: try sharedMemory())
      try guest.plugDIMM(options: ["prealloc": true])
      let added = try memfds().subtracting(before.files)
      let inode = try #require(added.first)
      #expect(added.count == 1)
      // The guest gives it up first, so that no picture can lie there. It moves what does, and may have to be asked twice.
      try guest.shell(
        "for block in /sys/devices/system/memory/memory3[2-3]; do "
          + "until echo offline >$block/state; do usleep 200000; done; done")
      // A buffer of the table with the DIMM, but not in it.
      #expect(try guest.shell("hold p draw pattern 1024x768 XR24 41 hold") == "shown\n")
      try guest.expectLent(.positions(1024, 768, seed: 41))
      #expect(holders(of: inode).contains { $0.hasPrefix("\(guest.helperPID ?? 0) ") })
      #expect(try sharedMemory() - before.shared >= 250)

      let monitor = try Monitor(guest.directory.appending("qmp"))
      let plugged = try sharedMemory()
      try monitor.execute("device_del", ["id": "dimm"])
      try waitUntil("the guest has let go of it") {
        (try monitor.execute("query-memory-devices") as? [Any])?.isEmpty == true
      }
      try monitor.execute("object-del", ["id": "later"])
      try waitUntil("nobody has its memory") { holders(of: inode) == [] }
      // 256 MiB, and what the guest has used of its other memory meanwhile.
      try waitUntil("its memory is free") { try plugged - sharedMemory() >= 200 }
      try guest.expectLent(.positions(1024, 768, seed: 41))
    }
  }
}
