import Foundation
import Glibc
import SystemPackage
import TestSupport
import Testing

extension EndToEnd {
  /// Guests of the kernels and QEMUs of each role of `qemu/setup`, each device, and a disk that boots by itself.
  @Suite
  struct Guests {
    struct Combination: Sendable, CustomTestStringConvertible {
      let kernel, qemu: String
      var device = "gpu"
      var testDescription: String { "kernel \(kernel), QEMU \(qemu), \(device)" }
    }

    static let kernels = ["oldest", "distribution", "oldest-udmabuf", "newest"]
    static let qemus = ["distribution", "stable", "oldest-generic", "newest"]

    /// The whole matrix costs minutes; the kernel oldest-udmabuf with the installed QEMU is what all other tests run.
    static let combinations: [Combination] = {
      let wanted =
        unsafe getenv("UDMABRIDGE_ALL_GUESTS") != nil
        ? kernels.flatMap { kernel in
          qemus.map { Combination(kernel: kernel, qemu: $0) }
            + [Combination(kernel: kernel, qemu: "oldest-generic", device: "blob")]
        }
        : [
          Combination(kernel: "oldest", qemu: "distribution"),
          Combination(kernel: "distribution", qemu: "distribution"),
          Combination(kernel: "oldest-udmabuf", qemu: "stable"),
          Combination(kernel: "newest", qemu: "newest"),
          Combination(kernel: "newest", qemu: "oldest-generic", device: "blob"),
        ]
      // Two roles may have one version.
      var seen: Set<[String]> = []
      return wanted.filter {
        seen.insert([version("kernels", $0.kernel), version("qemu", $0.qemu), $0.device]).inserted
      }
    }()

    /// The version that has taken a role, as `qemu/setup` names its tree. The installed QEMU has none.
    private static func version(_ kind: String, _ role: String) -> String {
      let link = testCache.appending("\(kind)/\(role)").string
      return (try? FileManager.default.destinationOfSymbolicLink(atPath: link)) ?? role
    }

    @Test(
      "modetest's pattern is on the screen with each kernel, QEMU and device, pixel by pixel",
      arguments: combinations)
    func modetest(_ combination: Combination) throws {
      let guest = try RunningGuest(
        resolution: "1024x768",
        options: ["--kernel", combination.kernel, "--qemu", combination.qemu, "--device", combination.device])
      // They are the ones that were asked for.
      #expect(try guest.shell("uname -r") == Self.version("kernels", combination.kernel) + "\n")
      let package = try #require(try guest.monitor("query-version")["package"] as? String)
      if combination.qemu == "distribution" {
        #expect(try run("/usr/bin/qemu-system-x86_64", ["--version"]).output.contains("(\(package))"))
      } else {
        #expect(package.hasSuffix(":" + Self.version("qemu", combination.qemu)))
      }
      try guest.expectModetest(1024, 768)
      guest.end()
    }

    enum Card: String, CaseIterable, Sendable {
      case plain
      case vga
      var options: [String] { self == .vga ? ["--vga"] : [] }
    }

    @Test("a guest that its firmware boots from a disk shows modetest's pattern", arguments: Card.allCases)
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
