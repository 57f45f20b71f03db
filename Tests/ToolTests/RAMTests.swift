import Foundation
import Linux
import QEMU
import SystemPackage
import TestSupport
import Testing

/// The memory of real QEMUs under emulation, which every machine with a QEMU can run: what the tool reads at a
/// guest-physical address is what QEMU itself says is there.
@Suite(.enabled(if: !BareQEMU.programs.isEmpty, "no QEMU is installed"))
struct RAMTests {
  struct Machine: Sendable, CustomTestStringConvertible {
    let name: String
    let options: [String]
    /// Where 64 KiB of RAM are compared: at the ends of its pieces, and across two of them.
    let places: [UInt64]
    /// Addresses that are no RAM.
    let holes: [UInt64]
    var plugs = false
    var testDescription: String { name }
  }

  static let backend = "memory-backend-memfd,share=on"
  static let gib: UInt64 = 1 << 30
  static let length: UInt64 = 65536
  static let machines = [
    Machine(
      name: "q35 with 512 MiB",
      options: ["-machine", "q35,memory-backend=m", "-m", "512M", "-object", "\(backend),id=m,size=512M"],
      places: [0, gib / 2 - length], holes: [gib / 2, 4 * gib]),
    Machine(
      name: "q35 with 3 GiB",
      options: ["-machine", "q35,memory-backend=m", "-m", "3G", "-object", "\(backend),id=m,size=3G"],
      places: [0, 2 * gib - length, 4 * gib, 5 * gib - length],
      holes: [2 * gib, 4 * gib - (1 << 20), 5 * gib]),
    Machine(
      name: "pc with 4 GiB and a VGA card",
      options: [
        "-machine", "pc,memory-backend=m", "-m", "4G", "-object", "\(backend),id=m,size=4G", "-vga", "std",
      ],
      places: [0, 3 * gib - length, 4 * gib, 5 * gib - length], holes: [0xa0000, 3 * gib, 5 * gib]),
    Machine(
      name: "two nodes",
      options: [
        "-machine", "q35", "-m", "3G", "-smp", "2", "-object", "\(backend),id=a,size=1G", "-object",
        "\(backend),id=b,size=2G", "-numa", "node,memdev=a,cpus=0", "-numa", "node,memdev=b,cpus=1",
      ], places: [0, gib - length / 2, 2 * gib - length, 4 * gib, 5 * gib - length],
      holes: [2 * gib, 5 * gib]),
    Machine(
      name: "a DIMM that was plugged in",
      options: [
        "-machine", "q35,memory-backend=m", "-m", "1G,slots=2,maxmem=4G", "-object",
        "\(backend),id=m,size=1G",
      ],
      places: [0, gib - length, 4 * gib, 4 * gib + gib / 2 - length], holes: [gib, 4 * gib + gib / 2],
      plugs: true),
  ]

  /// Writes into each memfd of a process, near the given places, words that say which memfd and where.
  private func mark(_ pid: Int32) throws {
    let process = try RunningProcess(pid)
    var marked: Set<UInt64> = []
    for file in try process.openFiles() where file.target.hasPrefix("/memfd:memory-backend-memfd") {
      let memfd = try Memfd(adopting: process.descriptor(file.number))
      guard marked.insert(memfd.status.inode).inserted else { continue }
      let mapping = try memfd.withDescriptor {
        try Mapping($0, offset: 0, length: Int(memfd.status.size), writable: true)
      }
      // A multiple of every place where RAM is split.
      for place in stride(from: 2 << 20, to: mapping.length, by: 1 << 25) {
        for word in [place - 16384, place, place + 4096] where word + 8 <= mapping.length && word >= 2 << 20 {
          mapping.store(UInt64(marked.count) << 48 | UInt64(word), at: word)
        }
      }
      mapping.store(UInt64(marked.count) << 48 | 1, at: mapping.length - 8)
      mapping.store(UInt64(marked.count) << 48 | 2, at: 4096)
    }
  }

  @Test(
    "dump gives the bytes that QEMU has at an address, and a hole is refused", arguments: machines,
    BareQEMU.programs.keys.sorted())
  func bytes(_ machine: Machine, _ qemu: String) throws {
    let guest = try BareQEMU(BareQEMU.programs[qemu]!, machine.options)
    if machine.plugs {
      try guest.monitor.execute(
        "object-add", ["qom-type": "memory-backend-memfd", "id": "later", "size": 512 << 20, "share": true])
      try guest.monitor.execute("device_add", ["driver": "pc-dimm", "id": "d", "memdev": "later"])
    }
    try mark(guest.pid)
    let length = Self.length
    for address in machine.places {
      let file = guest.directory.appending("saved")
      try guest.monitor.execute("pmemsave", ["val": address, "size": length, "filename": file.string])
      let expected = try Data(contentsOf: URL(fileURLWithPath: file.string))
      try #require(expected.count == Int(length))
      for input in ["--qmp \(guest.qmp)", "--guest \(guest.pid)"] {
        let written = guest.directory.appending("dumped")
        let (status, output) = try Tool.shell(
          "udmabridge dump \(input) \(address):\(length) --output \(written)")
        #expect(status == 0, "\(output)")
        let dumped = try Data(contentsOf: URL(fileURLWithPath: written.string))
        #expect(dumped == expected, "\(hex(address)) by \(input)")
      }
    }
    for hole in machine.holes {
      let (status, output) = try Tool.shell("udmabridge create --qmp \(guest.qmp) \(hole):4K --hold")
      #expect(status == 1)
      #expect(output.contains("\(hex(hole)):0x1000 is not the guest's memory"), "\(output)")
    }
  }

  @Test("the marks are found, so that what is compared is not all zero")
  func marks() throws {
    let guest = try BareQEMU(BareQEMU.programs.values.first!, Self.machines[1].options)
    try mark(guest.pid)
    let (status, output) = try Tool.shell("udmabridge dump --qmp \(guest.qmp) 0x102000000:8 --as hex")
    #expect(status == 0)
    // 4 GiB + 32 MiB is 2 GiB + 32 MiB in the memfd; the marks begin at 2 MiB.
    let (_, mark) = try Tool.shell("udmabridge dump --qmp \(guest.qmp) 0x102200000:8 --as hex")
    #expect(mark.hasPrefix("0000000000  00 00 20 82 00 00 01 00"), "\(output)\(mark)")
  }

  @Test(
    "ram prints the layout, the memfds and the blocks, as text, as JSON and for plan",
    arguments: BareQEMU.programs.keys.sorted())
  func ram(_ qemu: String) throws {
    let guest = try BareQEMU(BareQEMU.programs[qemu]!, Self.machines[1].options)
    let facts = try Tool.json("udmabridge ram --json --qmp \(guest.qmp)")
    #expect(facts["pid"] as? Int32 == guest.pid)
    #expect(facts["source"] as? String == "monitor")
    let memories = try #require(facts["memories"] as? [[String: Any]])
    let memory = try #require(memories.first { $0["name"] as? String == "m" })
    let file = try #require(memory["file"] as? [String: Any])
    #expect(file["size"] as? Int == 3 << 30)
    #expect(file["usable"] as? Bool == true)
    let number = try #require(memory["descriptor"] as? Int)
    #expect(
      linkTarget(FilePath("/proc/\(guest.pid)/fd/\(number)"))?.hasPrefix("/memfd:memory-backend-memfd")
        == true)
    let parts = try #require(facts["layout"] as? [[String: Any]])
    // Without a gap, holes included.
    var next: UInt64 = 0
    for part in parts {
      #expect(part["address"] as? UInt64 == next)
      next += try #require(part["length"] as? UInt64)
    }
    #expect(parts.contains { $0["memory"] == nil && $0["address"] as? UInt64 == 2 << 30 })
    let blocks = try #require(facts["blocks"] as? [[String: Any]])
    #expect(blocks.contains { $0["name"] as? String == "m" && $0["size"] as? Int == 3 << 30 })

    let (_, text) = try Tool.shell("udmabridge ram --qmp \(guest.qmp)")
    for word in ["can be lent", "hole", "m at 0x80000000", "pc.bios"] {
      #expect(text.contains(word), "\(text)")
    }

    // What `plan` makes of the layout is what the real guest would give.
    let plan = try Tool.json(
      "udmabridge plan --json --items --layout <(udmabridge ram --layout --qmp \(guest.qmp)) 0x7ffff000:4K 0x100000000:4K"
    )
    let items = try #require(plan["items"] as? [[String: Any]])
    #expect(
      items.count == 1 && items[0]["offset"] as? Int == 0x7fff_f000 && items[0]["length"] as? Int == 8192)
  }

  @Test("without a monitor a layout that follows from the command line is used, and another one refused")
  func withoutMonitor() throws {
    let (program, options) = (BareQEMU.programs.values.first!, Self.machines[1].options)
    let plain = try Child(program, ["-accel", "tcg", "-nodefaults", "-display", "none", "-S"] + options)
    defer {
      plain.signal(SIGKILL)
      plain.wait()
    }
    func hasMemory(_ qemu: Child) -> Bool {
      // It is there, sealed and of its size before it is mapped.
      (try? RunningProcess(qemu.pid).mappings().contains {
        $0.path.hasPrefix("/memfd:memory-backend") && $0.end - $0.start >= 3 << 30
      }) ?? false
    }
    try waitUntil("QEMU has its memory") { hasMemory(plain) }
    try mark(plain.pid)
    let facts = try Tool.json("udmabridge ram --json --guest \(plain.pid)")
    #expect(facts["source"] as? String == "commandLine")
    let (_, bytes) = try Tool.shell("udmabridge dump --guest \(plain.pid) 0x102200000:8 --as hex")
    #expect(bytes.hasPrefix("0000000000  00 00 20 82 00 00 01 00"), "\(bytes)")
    // What a ROM or system management may cover is not taken for RAM.
    for address in [0xa0000, 0xffff_f000 as UInt64, 0x7fff_f000] {
      #expect(try Tool.shell("udmabridge dump --guest \(plain.pid) \(address):16").status == 1)
    }

    let odd = try Child(
      program,
      ["-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-global", "mch.extended-tseg-mbytes=8"]
        + options)
    defer {
      odd.signal(SIGKILL)
      odd.wait()
    }
    try waitUntil("QEMU has its memory") { hasMemory(odd) }
    let (status, output) = try Tool.shell("udmabridge ram --guest \(odd.pid)")
    #expect(status == 1)
    #expect(output.contains("cannot be proven") && output.contains("-global"), "\(output)")
  }

  @Test(
    "a taken monitor and another process' monitor are refused, and a free one is found"
  )
  func monitors() throws {
    let program = BareQEMU.programs.values.first!
    let first = try BareQEMU(program, Self.machines[0].options)
    let second = try BareQEMU(program, Self.machines[0].options)
    let foreign = try Tool.shell("udmabridge ram --qmp \(first.qmp) --guest \(second.pid)")
    #expect(foreign.status == 1)
    #expect(foreign.output.contains("not the monitor of process \(second.pid)"), "\(foreign.output)")

    _ = try Monitor(first.qmp)  // Ends at once.
    let holder = try Monitor(second.qmp)
    // The tool would wait for seconds.
    func expectTaken(_ body: () throws(QEMUError) -> Void) {
      let error = #expect(throws: QEMUError.self) { try body() }
      #expect(error?.description.contains("one at a time") == true, "\(error?.description ?? "")")
    }
    expectTaken { () throws(QEMUError) in _ = try QMPClient(second.qmp, patience: .milliseconds(100)) }
    // Both are taken now; once one is free, it is found by the process alone.
    expectTaken { () throws(QEMUError) in _ = try RunningQEMU(pid: second.pid, patience: .milliseconds(200)) }
    withExtendedLifetime(holder) {}
    try waitUntil("QEMU serves the next one") {
      try Tool.shell("udmabridge ram --guest \(first.pid)").status == 0
    }
  }

  @Test("an inherited memfd is the ivshmem of two QEMUs, and is found at each guest's address")
  func ivshmem() throws {
    let directory = try makeTemporaryDirectory()
    let program = BareQEMU.programs.values.first!
    let options =
      "-accel \(TestHost.isActive ? "kvm" : "tcg") -nodefaults -display none -machine q35 -m 128M "
      + "-object memory-backend-file,id=between,size=16M,share=on,mem-path=/proc/self/fd/9 "
      + "-device ivshmem-plain,memdev=between"
    let start = ["a", "b"].map { "\(program) \(options) -qmp unix:\(directory)/\($0),server=on,wait=off" }
    let (both, output) = try startReading(
      Tool.program,
      [
        "memfd", "--size", "16M", "--name", "between", "--as-fd", "9", "--", "/bin/bash", "-c",
        "trap 'kill $(jobs -p)' TERM; \(start[0]) & \(start[1]) & wait",
      ], withErrors: true)
    defer {
      both.signal(SIGTERM)
      both.wait()
      withExtendedLifetime(output) {}
      _ = try? FileManager.default.removeItem(atPath: directory.string)
    }
    // Its firmware gives the device its address.
    var places: [(address: UInt64, inode: Int)] = []
    for name in ["a", "b"] {
      try waitUntil("the guest \(name) has its device") {
        guard let facts = try? Tool.json("udmabridge ram --json --qmp \(directory)/\(name)"),
          let part = (facts["layout"] as? [[String: Any]])?.first(where: {
            $0["memory"] as? String == "between"
          }),
          let memory = (facts["memories"] as? [[String: Any]])?.first(where: {
            $0["name"] as? String == "between"
          }),
          let address = part["address"] as? UInt64,
          let inode = (memory["file"] as? [String: Any])?["inode"] as? Int
        else { return false }
        places.append((address, inode))
        return true
      }
    }
    #expect(places[0].inode == places[1].inode)
    let memfd = try Memfd(adopting: FD.open(FilePath("/proc/\(both.pid)/fd/9"), writable: true))
    let mapping = try memfd.withDescriptor { try Mapping($0, offset: 0, length: 16 << 20, writable: true) }
    mapping.store(UInt64(0x1122_3344_5566_7788), at: 0x12340)
    for (name, place) in zip(["a", "b"], places) {
      let (_, bytes) = try Tool.shell(
        "udmabridge dump --qmp \(directory)/\(name) \(place.address + 0x12340):8 --as hex")
      #expect(bytes.hasPrefix("0000000000  88 77 66 55 44 33 22 11"), "\(bytes)")
    }
  }

  @Test("a process that has ended is not taken for a running one")
  func ended() throws {
    let child = try Child("/bin/sleep", ["100"])
    let process = try RunningProcess(child.pid)
    #expect(process.isRunning)
    child.signal(SIGKILL)
    child.wait()
    #expect(!process.isRunning)
    #expect(throws: ProcessError.ended(child.pid)) { try process.text("comm") }
    #expect(throws: ProcessError.none(child.pid)) { try RunningProcess(child.pid) }
  }
}
