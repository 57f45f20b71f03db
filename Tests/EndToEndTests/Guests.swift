import Foundation
import Glibc
import SystemPackage
import TestSupport
import Testing

extension EndToEnd {
  /// Guests of each of Debian's kernels, each QEMU and device, and a disk that boots by itself.
  @Suite
  struct Guests {
    struct Combination: Sendable, CustomTestStringConvertible {
      let kernel, qemu: String
      var device = "gpu"
      var testDescription: String { "Linux \(kernel), QEMU \(qemu), \(device)" }
    }

    static let kernels = ["5.10", "6.1", "6.12", "7.3"]
    static let qemus = ["7.2", "10.0", "11.1"]

    /// The whole matrix costs minutes; Linux 6.12 with QEMU 7.2 is what all other tests run.
    static let combinations: [Combination] =
      unsafe getenv("UDMABRIDGE_ALL_GUESTS") != nil
      ? kernels.flatMap { kernel in
        qemus.map { Combination(kernel: kernel, qemu: $0) }
          + [Combination(kernel: kernel, qemu: "11.1", device: "blob")]
      }
      : [
        Combination(kernel: "5.10", qemu: "7.2"), Combination(kernel: "6.1", qemu: "7.2"),
        Combination(kernel: "7.3", qemu: "7.2"), Combination(kernel: "6.12", qemu: "10.0"),
        Combination(kernel: "7.3", qemu: "11.1"), Combination(kernel: "6.12", qemu: "11.1", device: "blob"),
        Combination(kernel: "7.3", qemu: "11.1", device: "blob"),
      ]

    @Test("modetest's pattern is on the screen, pixel by pixel", arguments: combinations)
    func modetest(_ combination: Combination) throws {
      let guest = try RunningGuest(
        resolution: "1024x768",
        options: ["--kernel", combination.kernel, "--qemu", combination.qemu, "--device", combination.device])
      // They are the ones that were asked for.
      #expect(try guest.shell("uname -r").hasPrefix("\(combination.kernel)."))
      let version = try #require(try guest.monitor("query-version")["qemu"] as? [String: Int])
      #expect("\(version["major", default: 0]).\(version["minor", default: 0])" == combination.qemu)
      try guest.expectModetest(1024, 768)
      guest.end()
    }

    enum Card: String, CaseIterable, Sendable {
      case plain
      case vga
      var options: [String] { self == .vga ? ["--vga"] : [] }
    }

    @Test("a guest that its firmware boots from a disk", arguments: Card.allCases)
    func disk(_ card: Card) throws {
      let directory = try makeTemporaryDirectory()
      defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
      let image = directory.appending("disk")
      let (status, output) = try run(
        repository.appending("qemu/guest-disk"), [image.string], withErrors: true)
      #expect(status == 0, "\(output)")
      let guest = try RunningGuest(resolution: "1024x768", options: ["--disk", image.string] + card.options)
      // Nothing but the boot loader of the disk says this.
      #expect(try guest.shell("cat /proc/cmdline").contains("BOOT_IMAGE=vmlinuz"))
      try guest.expectModetest(1024, 768)
      guest.end()
    }
  }
}
