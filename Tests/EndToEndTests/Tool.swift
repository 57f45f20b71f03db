import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd {
  /// The tool on the memory of running guests, with no helper in between.
  @Suite
  struct Tool {
    static let program = repository.appending(".build/release/udmabridge")
    static let (kib, gib): (UInt64, UInt64) = (1 << 10, 1 << 30)

    struct Machine: Sendable, CustomTestStringConvertible {
      let name: String
      var memory = "512M"
      var ram = "memfd"
      var options: [String] = []
      /// Where the guest writes: pieces of its RAM.
      let places: [ClosedRange<UInt64>]
      /// Addresses without memory, and part of what is said about them.
      let holes: [(UInt64, String)]
      var plugs = false
      var testDescription: String { name }
    }

    static let machines = [
      Machine(
        name: "512 MiB", places: [0x100_0000...0x1fff_ffff],
        holes: [(gib / 2, "in the hole from 0x20000000"), (16 * gib, "past the end of the guest's memory")]),
      Machine(
        name: "3 GiB, of which one stands at 4 GiB", memory: "3G",
        places: [4 * gib...5 * gib - 1, 0x100_0000...0x7fff_ffff],
        holes: [(2 * gib, "in the hole from 0x80000000"), (5 * gib, "past the end of the guest's memory")]),
      Machine(
        name: "two nodes", memory: "1G", options: ["--nodes", "2"],
        places: [gib / 2...gib - 1, 0x100_0000...gib / 2 - 1], holes: [(gib, "in the hole from 0x40000000")]),
      Machine(
        name: "a DIMM that was plugged in", options: ["--room", "2G"],
        places: [4 * gib...4 * gib + gib / 4 - 1],
        holes: [(4 * gib + gib / 4, "past the end of the guest's memory")], plugs: true),
      Machine(
        name: "huge pages", ram: "hugepages", places: [0x100_0000...0x1fff_ffff],
        holes: [(gib / 2, "in the hole from 0x20000000")]),
    ]

    private func start(_ machine: Machine) throws -> RunningGuest {
      if machine.ram == "hugepages" { try TestHost.write("320", to: "/proc/sys/vm/nr_hugepages") }
      return try RunningGuest(
        memory: machine.memory, ram: machine.ram, resolution: "1024x768", kms: nil,
        options: ["--card", "virtio-gpu-pci"] + machine.options)
    }

    /// The words that the guest's program `memory` writes into its pages.
    private func written(_ pages: Int, seed: UInt32) -> [UInt8] {
      var bytes: [UInt8] = []
      bytes.reserveCapacity(pages * 4096)
      for index in 0..<UInt32(pages * 1024) {
        let word = index &* 0x0100_0193 ^ seed &* 0x9e37_79b9
        for shift in stride(from: 0 as UInt32, to: 32, by: 8) {
          bytes.append(UInt8(truncatingIfNeeded: word >> shift))
        }
      }
      return bytes
    }

    /// A dma-buf that the tool makes and holds.
    private final class Held {
      let child: Child
      let dmabuf: DMABuf
      /// Without a reader the tool would end at its first word.
      private let output: PipeEnd

      init(_ arguments: [String]) throws {
        let (child, output) = try startReading(Tool.program, arguments + ["--hold"], withErrors: true)
        (self.child, self.output) = (child, output)
        var number: CInt?
        try waitUntil("the tool holds a dma-buf") {
          number = (try? RunningProcess(child.pid).openFiles().first(where: \.isDMABuf))?.number
          return number != nil || !child.isRunning
        }
        guard let number else { throw TroubleInTest("udmabridge \(arguments): \(try output.readToEnd())") }
        dmabuf = try DMABuf(adopting: RunningProcess(child.pid).descriptor(number))
      }

      func bytes() throws -> [UInt8] {
        try dmabuf.beginCPUAccess(.read)
        defer { try? dmabuf.endCPUAccess(.read) }
        return try dmabuf.map().bytes(at: 0, count: Int(dmabuf.size))
      }

      deinit {
        child.signal(SIGTERM)
        child.wait()
      }
    }

    @Test(
      "a dma-buf of a guest's pages has what the guest wrote, and what it writes later", arguments: machines)
    func create(_ machine: Machine) throws {
      let guest = try start(machine)
      defer {
        guest.end()
        if machine.ram == "hugepages" { try? TestHost.write("0", to: "/proc/sys/vm/nr_hugepages") }
      }
      if machine.plugs { try guest.plugDIMM() }
      let qemu = try #require(guest.qemuPID)
      let inputs = [["--guest", "\(qemu)"], ["--qmp", guest.directory.appending("qmp").string]]
      let pages = 40
      for (turn, place) in machine.places.enumerated() {
        let name = "m\(turn)"
        let list = try guest.shell(
          "hold \(name) memory pages \(pages) 7 \(place.lowerBound) \(place.upperBound)")
        let ranges = list.split(whereSeparator: \.isWhitespace).map(String.init)
        try #require(ranges.count == pages, "\(list)")
        for (index, input) in inputs.enumerated() {
          let held = try Held(["create"] + input + ranges)
          #expect(held.dmabuf.size == UInt64(pages) * 4096)
          #expect(try held.bytes() == written(pages, seed: UInt32(7 + index)))
          #expect(try guest.shell("tell \(name) write \(8 + index)") == "written\n")
          #expect(try held.bytes() == written(pages, seed: UInt32(8 + index)), "nothing is a copy")
        }
        try guest.shell("drop \(name); true")
      }
      for (address, words) in machine.holes { try refused(guest, ["\(address):4K"], words) }
      let last = machine.places[0].upperBound + 1
      try refused(guest, ["\(last - 4096):8K"], machine.holes.first { $0.0 == last }?.1 ?? "")
      try refused(guest, ["0x200001:4K"], "does not begin at a multiple of the page size")
      try refused(guest, ["2M:4K", "4M:4097"], "(2 of 2) has a length that is no multiple of the page size")
    }

    private func refused(_ guest: RunningGuest, _ ranges: [String], _ words: String) throws {
      let (status, output) = try run(
        Self.program, ["create", "--qmp", guest.directory.appending("qmp").string, "--hold"] + ranges,
        withErrors: true)
      #expect(status == 1)
      #expect(output.contains(words), "\(output)")
    }

    @Test("one memfd is the ivshmem of two guests, and a range of it is on the screen as they draw it")
    func ivshmem() throws {
      let (holder, words) = try startReading(
        Self.program, ["memfd", "--size", "16M", "--name", "between", "--hold"], withErrors: true)
      defer {
        holder.signal(SIGTERM)
        holder.wait()
        withExtendedLifetime(words) {}
      }
      var number: CInt?
      let process = try RunningProcess(holder.pid)
      try waitUntil("the memfd is there") {
        number = try process.openFiles().first(where: \.isMemfd)?.number
        return number != nil
      }
      let path = "/proc/\(holder.pid)/fd/\(number!)"
      func start() throws -> RunningGuest {
        try RunningGuest(
          memory: "256M", resolution: "1024x768", kms: nil,
          options: [
            "--card", "virtio-gpu-pci", "--", "-object",
            "memory-backend-file,id=between,size=16M,share=on,mem-path=\(path)",
            "-device", "ivshmem-plain,memdev=between",
          ])
      }
      let guests = [try start(), try start()]
      defer { for guest in guests { guest.end() } }
      let resources = try guests.map { guest in
        try guest.shell(
          "for d in /sys/bus/pci/devices/*; do [ $(cat $d/device) = 0x1110 ] && echo 1 >$d/enable && echo $d/resource2; done; true"
        ).trimmingCharacters(in: .newlines)
      }
      // The second MiB of it on.
      func draw(_ guest: Int, seed: Int) throws {
        #expect(
          try guests[guest].shell("memory image \(resources[guest]) 0x100000 1024x768 \(seed)") == "drawn\n")
      }
      func expect(seed: UInt32) throws {
        let picture = Picture.positions(1024, 768, seed: seed)
        var difference: String?
        try? waitUntil("the picture is on the screen") {
          difference = picture.firstDifference(in: try Screenshot.take())
          return difference == nil
        }
        #expect(difference == nil)
      }
      try draw(0, seed: 21)
      let (show, output) = try startReading(
        Self.program, ["show", "--path", path, "1M:3M", "--size", "1024x768", "--json"], withErrors: true)
      try expect(seed: 21)
      let shown = try #require(try ShownFramebuffer.current())
      #expect(try shown.dmabuf.exporter() == "udmabuf")
      // The other guest draws on the same memory, and nobody tells the host.
      try draw(1, seed: 22)
      try expect(seed: 22)
      show.signal(SIGTERM)
      #expect(show.wait() == 0)
      let facts = try JSONSerialization.jsonObject(with: Data(try output.readToEnd().utf8)) as? [String: Any]
      #expect(facts?["inode"] as? UInt64 == shown.dmabuf.inode)
      #expect(facts?["format"] as? String == "XR24")
    }

    @Test("the tool shows a guest's own pages on the screen, without the helper")
    func show() throws {
      let guest = try RunningGuest(
        memory: "512M", resolution: "1024x768", kms: nil, options: ["--card", "virtio-gpu-pci"])
      defer { guest.end() }
      let list = try guest.shell("hold m memory pages 768 5")
      let file = guest.directory.appending("pages")
      try list.replacing(" ", with: "\n").write(toFile: file.string, atomically: false, encoding: .utf8)
      let (show, output) = try startReading(
        Self.program,
        ["show", "--qmp", guest.directory.appending("qmp").string, "@\(file)", "--size", "1024x768"],
        withErrors: true)
      defer { show.signal(SIGKILL) }
      let picture = Picture(width: 1024, height: 768) { y in
        (0..<1024).map { x in (UInt32(y * 1024 + x) &* 0x0100_0193 ^ 5 &* 0x9e37_79b9) & 0xff_ffff }
      }
      var difference: String?
      try? waitUntil("the picture is on the screen") {
        difference = picture.firstDifference(in: try Screenshot.take())
        return difference == nil
      }
      #expect(difference == nil)
      show.signal(SIGTERM)
      #expect(show.wait() == 0)
      let words = try output.readToEnd()
      #expect(words.hasPrefix("shown on "), "\(words)")
    }
  }
}
