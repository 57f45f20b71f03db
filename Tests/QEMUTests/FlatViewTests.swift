import Foundation
import Guest
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import QEMU

/// What QEMU's monitor printed for machines of several shapes (`Tests/QEMUTests/record`).
@Suite struct FlatViewTests {
  struct Machine: Sendable, CustomTestStringConvertible {
    let name: String
    /// The pieces of RAM: which backend, and address, length and offset, as QEMU's sources lay them out.
    let parts: [Part]
    /// The blocks that are RAM, and their sizes.
    let blocks: [String: UInt64]
    var testDescription: String { name }
  }
  struct Part: Equatable, Sendable {
    let name: String
    let address, length, offset: UInt64
    init(_ name: String, _ address: UInt64, _ length: UInt64, _ offset: UInt64) {
      (self.name, self.address, self.length, self.offset) = (name, address, length, offset)
    }
  }

  static let (kib, mib, gib): (UInt64, UInt64, UInt64) = (1 << 10, 1 << 20, 1 << 30)

  static let machines = [
    // A VGA card covers 128 KiB from 640 KiB on.
    Machine(
      name: "q35",
      parts: [Part("mem", 0, 640 * kib, 0), Part("mem", 768 * kib, 512 * mib - 768 * kib, 768 * kib)],
      blocks: ["mem": 512 * mib]),
    // From 2.75 GiB on, 2 GiB below 4 GiB.
    Machine(
      name: "q35-split", parts: [Part("mem", 0, 2 * gib, 0), Part("mem", 4 * gib, gib, 2 * gib)],
      blocks: ["mem": 3 * gib]),
    Machine(name: "pc", parts: [Part("mem", 0, 3 * gib, 0)], blocks: ["mem": 3 * gib]),
    Machine(
      name: "pc-split",
      parts: [
        Part("mem", 0, 640 * kib, 0), Part("mem", 768 * kib, 3 * gib - 768 * kib, 768 * kib),
        Part("mem", 4 * gib, gib, 3 * gib),
      ], blocks: ["mem": 4 * gib]),
    // The second node is split, not the first.
    Machine(
      name: "numa",
      parts: [Part("node0", 0, gib, 0), Part("node1", gib, gib, 0), Part("node1", 4 * gib, gib, gib)],
      blocks: ["node0": gib, "node1": 2 * gib]),
    Machine(
      name: "hotplug", parts: [Part("mem", 0, gib, 0), Part("later", 4 * gib, 512 * mib, 0)],
      blocks: ["mem": gib, "later": 512 * mib]),
  ]
  static let versions = ["7.2", "10.0", "11.1"]

  private func recorded(_ machine: Machine, _ version: String) throws -> (views: String, blocks: String) {
    let text = try readText(repository.appending("Tests/QEMUTests/layouts/\(machine.name).\(version)"))
    let cut = try #require(text.range(of: "RAM blocks\n"))
    return (String(text[..<cut.lowerBound]), String(text[cut.upperBound...]))
  }

  /// The pieces of the memories in `wanted`, neighbours joined: ROM shadows are pieces of RAM of their own.
  private func joined(_ view: FlatView, _ wanted: Set<String>) -> [Part] {
    var parts: [Part] = []
    for range in view.ranges where wanted.contains(range.name) {
      let next = Part(range.name, range.address.rawValue, range.length, range.offset)
      if let last = parts.last, last.name == next.name, last.address + last.length == next.address,
        last.offset + last.length == next.offset
      {
        parts[parts.count - 1] = Part(last.name, last.address, last.length + next.length, last.offset)
      } else {
        parts.append(next)
      }
    }
    return parts
  }

  @Test("RAM stands where QEMU's sources put it", arguments: machines, versions)
  func layout(_ machine: Machine, _ version: String) throws {
    let view = try FlatView(try recorded(machine, version).views)
    #expect(joined(view, Set(machine.blocks.keys)) == machine.parts)
    // The firmware is there too, and it is read only.
    let firmware = try #require(view.ranges.first { $0.name == "pc.bios" })
    #expect(firmware.isReadOnly && firmware.address.rawValue + firmware.length == 4 << 30)
    // ROM shadows are RAM that the guest cannot write to.
    #expect(view.ranges.contains { $0.isReadOnly && $0.name == machine.parts[0].name })
  }

  @Test(
    "a machine's computed layout agrees with the recorded one",
    arguments: ["q35", "q35-split", "pc", "pc-split"])
  func shape(_ name: String) throws {
    let machine = try #require(Self.machines.first { $0.name == name })
    let shape = MachineShape(name.hasPrefix("pc") ? .pc : .q35, memory: machine.blocks["mem"]!)
    // Video memory and ROMs apart.
    let real = machine.parts.filter { $0.address != 0 || machine.parts.count == 1 }
    for part in real {
      // Without a VGA card there is RAM in its window too, which counts on no card.
      let start = max(part.address, 0xc0000)
      #expect(
        shape.parts.contains {
          $0.address.rawValue <= start && part.address + part.length == $0.address.rawValue + $0.length
            && part.offset + $0.address.rawValue == part.address + $0.offset
        })
    }
    // The VGA window has 128 KiB.
    #expect(shape.parts.reduce(0) { $0 + $1.length } + 0x20000 == machine.blocks["mem"])
  }

  @Test(
    "RAM that would reach HyperTransport stands at 1 TiB with an AMD processor, and only then",
    arguments: [
      // 4 GiB, the RAM above 2 or 3 GiB, and 32 or 2 GiB for PCI, up to 0xfd00000000, which are 1012 GiB.
      (MachineShape.Machine.q35, UInt64(2 + 976)), (.pc, 3 + 1006),
    ])
  func hyperTransport(_ machine: MachineShape.Machine, _ most: UInt64) throws {
    for (memory, moves) in [(most << 30, false), (most << 30 + 4096, true)] {
      let (intel, amd) = (
        MachineShape(machine, memory: memory), MachineShape(machine, memory: memory, isAMD: true)
      )
      #expect(intel.dependsOnProcessor == moves && amd.dependsOnProcessor == moves)
      #expect(intel.parts.last?.address.rawValue == 4 << 30)
      #expect(amd.parts.last?.address.rawValue == (moves ? 1 << 40 : 4 << 30))
      #expect(intel.parts.dropLast() == amd.parts.dropLast())
      #expect(intel.parts.last?.length == amd.parts.last?.length)
    }
  }

  @Test(
    "the VGA window is no RAM, of machines with less than it either",
    arguments: [0x10000, 0xa0000, 0xb0000, 0xc1000])
  func window(_ memory: UInt64) {
    let parts = MachineShape(.pc, memory: memory).parts
    #expect(parts.first?.length == min(memory, 0xa0000))
    #expect(parts.dropFirst().map(\.address.rawValue) == (memory > 0xc0000 ? [0xc0000] : []))
    #expect(parts.dropFirst().allSatisfy { $0.offset == 0xc0000 && $0.length == memory - 0xc0000 })
  }

  @Test("the RAM blocks that QEMU prints are read with their sizes", arguments: machines, versions)
  func blocks(_ machine: Machine, _ version: String) throws {
    let blocks = try RAMBlock.list(try recorded(machine, version).blocks)
    for (name, size) in machine.blocks {
      let block = try #require(blocks.first { $0.name == name })
      #expect((block.used, block.pageSize) == (size, 4096))
    }
    // What can grow has a used part.
    #expect(blocks.first { $0.name == "/rom@etc/acpi/tables" }?.used == 128 << 10)
  }

  struct Line: Sendable, CustomTestStringConvertible {
    let name, line: String
    let range: FlatRange?
    var testDescription: String { name }
  }

  private static func ram(
    _ address: UInt64, _ length: UInt64, _ name: String, _ offset: UInt64 = 0, isReadOnly: Bool = false
  ) -> FlatRange {
    FlatRange(
      address: GuestAddress(address), length: length, isReadOnly: isReadOnly, name: name, offset: offset)
  }

  @Test(
    "a line of the view is read with its name, kind and offset",
    arguments: [
      Line(
        name: "with an accelerator", line: "0000000000000000-0000000000000fff (prio 0, ram): mem KVM",
        range: ram(0, 4096, "mem")),
      Line(
        name: "with both", line: "0000000000100000-0000000000100fff (prio 0, ram): mem @0000000000100000 KVM",
        range: ram(0x100000, 4096, "mem", 0x100000)),
      Line(
        name: "an at sign in the name",
        line: "0000000000000000-0000000000000fff (prio 0, rom): /rom@etc/acpi/tables",
        range: ram(0, 4096, "/rom@etc/acpi/tables", isReadOnly: true)),
      Line(
        name: "blanks in the name",
        line: "0000000000000000-0000000000000fff (prio -1, nv-ram): my dimm @0000000000000010",
        range: ram(0, 4096, "my dimm", 16)),
      Line(
        name: "parentheses in the name",
        line: "0000000000000000-0000000000000fff (prio 0, ram): odd (name): x",
        range: ram(0, 4096, "odd (name): x")),
      Line(name: "registers", line: "00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic", range: nil),
      Line(
        name: "the last page", line: "fffffffffffff000-ffffffffffffffff (prio 0, ram): top",
        range: ram(0xffff_ffff_ffff_f000, 4096, "top")),
    ])
  func lines(_ line: Line) throws {
    let view = try FlatView(
      "FlatView #0\n AS \"cpu-memory-0\", root: system\n Root memory region: system\n  \(line.line)\n")
    #expect(view.ranges == (line.range.map { [$0] } ?? []))
  }

  @Test(
    "a line that is not understood is refused",
    arguments: [
      "0000000000000000-zzz (prio 0, ram): mem", "0000000000001000-0000000000000fff (prio 0, ram): mem",
      "0000000000000000-0000000000000fff ram", "0000000000000000-ffffffffffffffff (prio 0, ram): all",
    ])
  func unknown(_ line: String) {
    #expect(throws: QEMUError.self) {
      try FlatView("FlatView #0\n AS \"cpu-memory-0\", root: system\n  \(line)\n")
    }
  }

  @Test("without the view of the first CPU there is no layout")
  func missing() {
    #expect(throws: QEMUError.self) { try FlatView("FlatView #0\n AS \"I/O\", root: io\n") }
  }

  @Test(
    "parts whose numbers cannot be are not joined",
    arguments: [
      [
        "0000000000000000-0000000000000fff (prio 0, ram): mem @ffffffffffffffff",
        "0000000000001000-0000000000001fff (prio 0, ram): mem @0000000000000fff",
      ],
      [
        "0000000000000000-7fffffffffffffff (prio 0, ram): mem",
        "8000000000000000-ffffffffffffffff (prio 0, ram): mem @8000000000000000",
      ],
    ])
  func impossible(_ lines: [String]) throws {
    let view = try FlatView(
      "FlatView #0\n AS \"cpu-memory-0\", root: system\n  \(lines.joined(separator: "\n  "))\n")
    let layout = GuestLayout(
      backings: [GuestBacking(name: "mem", kind: .anonymous)],
      parts: view.ranges.map {
        LayoutPart(address: $0.address, length: $0.length, backing: 0, offset: $0.offset)
      }, source: .monitor)
    #expect(layout.joined == layout.parts)
  }
}
