internal import Guest
internal import Linux
internal import SystemPackage

/// QEMU's layout of a machine's RAM: the first part from address 0, with the VGA window in it, the rest from 4 GiB on. With
/// an AMD processor the rest is from 1 TiB on, if it would otherwise reach the addresses of HyperTransport.
package struct MachineShape: Equatable, Sendable {
  /// QEMU's machines for PCs.
  package enum Machine: String, CaseIterable, Sendable { case q35, pc }
  /// Which machine.
  package let machine: Machine
  /// In bytes.
  package let memory: UInt64
  /// Whether the guest's processor is AMD's.
  package let isAMD: Bool

  /// A machine with this many bytes of RAM.
  package init(_ machine: Machine, memory: UInt64, isAMD: Bool = false) {
    (self.machine, self.memory, self.isAMD) = (machine, memory, isAMD)
  }

  fileprivate static let fourGiB: UInt64 = 1 << 32
  /// The memory of a VGA card, which hides the RAM at these addresses.
  private static let window: Range<UInt64> = 0xa0000..<0xc0000
  /// AMD's processors have HyperTransport from here to 1 TiB (QEMU: AMD_HT_START).
  private static let hyperTransport: UInt64 = 0xfd_0000_0000

  /// The bytes below 4 GiB (QEMU: pc_q35_init, pc_init1).
  package var low: UInt64 {
    let bound: UInt64 =
      switch machine {
      case .q35: memory >= 0xb000_0000 ? 0x8000_0000 : 0xb000_0000
      case .pc: memory >= 0xe000_0000 ? 0xc000_0000 : 0xe000_0000
      }
    return min(memory, bound)
  }

  /// With an AMD processor the machines of QEMU 7.1 and later put the RAM above 4 GiB elsewhere: it and the window for
  /// PCI behind it, of its default size, would reach HyperTransport (QEMU: pc_max_used_gpa).
  package var dependsOnProcessor: Bool {
    let window: UInt64 = machine == .q35 ? 32 << 30 : 2 << 30
    let room = Self.hyperTransport - window - Self.fourGiB
    let high = memory - low
    // The window begins at a whole GiB, as the room ends.
    return high > room
  }

  /// The parts with their offsets in the RAM, as parts of one memory.
  package var parts: [LayoutPart] {
    let start = isAMD && dependsOnProcessor ? 1 << 40 : Self.fourGiB
    return [
      (address: 0, offsets: 0..<min(low, Self.window.lowerBound)),
      (Self.window.upperBound, min(low, Self.window.upperBound)..<low), (start, low..<memory),
    ].filter { !$0.offsets.isEmpty }.map { (address: UInt64, offsets: Range<UInt64>) in
      LayoutPart(
        address: GuestAddress(address), length: offsets.upperBound - offsets.lowerBound, backing: 0,
        offset: offsets.lowerBound)
    }
  }
}

extension RunningQEMU {
  /// The layout of a guest without a monitor, if the command line leaves only one.
  ///
  /// It leaves out the addresses that devices and the firmware may cover: video memory and ROMs from 640 KiB to 1 MiB, and
  /// up to 16 MiB for system management below the end of low RAM.
  func provenLayout() throws(QEMUError) -> GuestLayout {
    func unproven(_ why: String) -> QEMUError { .unproven(process.pid, why) }
    let (arguments, files): ([String], [OpenFile])
    do throws(ProcessError) { (arguments, files) = (try process.arguments(), try process.openFiles()) } catch
    {
      throw .process(error)
    }
    let (shape, id): (MachineShape, String)
    switch QEMUCommandLine(arguments).shape() {
    case .success(let found): (shape, id) = found
    case .failure(let reason): throw unproven(reason.why)
    }
    if shape.dependsOnProcessor {
      throw unproven("the place of so much RAM depends on the processor, which may be AMD's")
    }
    let backends = files.filter { $0.target.hasPrefix("/memfd:memory-backend-memfd") }
    guard backends.count == 1, let file = backends.first else {
      throw unproven("it has \(backends.count) memfds of memory backends open, instead of one")
    }
    let fd: FD
    do throws(ProcessError) { fd = try process.descriptor(file.number) } catch { throw .process(error) }
    guard let memfd = try? Memfd(adopting: fd), memfd.status.size == shape.memory else {
      throw unproven("the size of its memfd is not that of its RAM, \(shape.memory) bytes")
    }
    let hole: Range<UInt64> = 0xa0000..<0x100000
    let parts = [
      LayoutPart(address: GuestAddress(0), length: hole.lowerBound, backing: 0, offset: 0),
      LayoutPart(
        address: GuestAddress(hole.upperBound), length: shape.low - hole.upperBound - (16 << 20), backing: 0,
        offset: hole.upperBound),
    ]
    return GuestLayout(
      backings: [GuestBacking(name: id, kind: .memfd(memfd, descriptor: file.number))],
      parts: parts + shape.parts.filter { $0.address.rawValue >= MachineShape.fourGiB }, source: .commandLine)
  }
}
