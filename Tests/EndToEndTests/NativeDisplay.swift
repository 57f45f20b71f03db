import Foundation
import SystemPackage
import TestSupport
import Testing

/// A real guest, emulated on this machine, whose pictures are on QEMU's own display. Without `/dev/udmabuf` they go there
/// as pixels.
@Suite(.serialized, .enabled(if: !TestHost.isActive, "runs on the machine itself"))
struct NativeDisplayTests {
  private func start(
    _ qemu: String? = nil, display: String, kernel: String = "oldest-udmabuf", helperOptions: [String] = []
  ) throws -> RunningGuest {
    try RunningGuest(
      memory: "256M", resolution: "800x600", kms: nil,
      helperOptions: ["--backing", "shadow"] + helperOptions,
      options: [
        "--accel", "tcg", "--display", display, "--kernel", kernel,
        "--helper", builtPrograms.appending("vhost-user-udmabuf").string,
      ] + (qemu.map { ["--qemu", $0] } ?? []))
  }

  private func screen(_ guest: RunningGuest) throws -> Screenshot {
    let file = guest.directory.appending("screen.ppm")
    try guest.monitor("screendump", ["filename": file.string])
    return try Screenshot(file)
  }

  private func expect(
    _ picture: Picture, on guest: RunningGuest, _ location: SourceLocation = #_sourceLocation
  ) {
    var difference: String? = "nothing was compared"
    try? waitUntil("the picture is on QEMU's display") {
      difference = picture.firstDifference(in: try screen(guest))
      return difference == nil
    }
    #expect(difference == nil, sourceLocation: location)
  }

  // QEMU 7.2 wants KVM for a vhost-user-gpu.
  @Test(
    "QEMU's screendump is the guest's picture, pixel by pixel, after stop, cont and system_reset too",
    arguments: ["stable", "newest"])
  func showsPixels(_ qemu: String) throws {
    let guest = try start(qemu, display: "none")
    // The size that QEMU's display prefers, and its EDID.
    #expect(try guest.shell("modetest -M virtio_gpu -c").contains("#0 800x600 "))
    #expect(try guest.shell("grep -c 'QEMU Monitor' /sys/class/drm/card0-Virtual-1/edid") == "1\n")

    #expect(try guest.shell("hold p draw pattern 800x600 XR24 5 hold") == "shown\n")
    expect(.positions(800, 600, seed: 5), on: guest)
    // A pixel, and what has changed of the picture.
    #expect(try guest.shell("tell p poke 3 4 0x123456; tell p dirty 0 0 8 8") == "poked\ndirtied\n")
    func pixel(_ screen: Screenshot, _ x: Int, _ y: Int) -> [UInt8] {
      let first = (y * screen.width + x) * 3
      return Array(screen.rgb[first..<first + 3])
    }
    try waitUntil("the pixel is on QEMU's display") { try pixel(screen(guest), 3, 4) == [0x12, 0x34, 0x56] }

    try guest.monitor("stop")
    #expect(try pixel(screen(guest), 3, 4) == [0x12, 0x34, 0x56])
    try guest.monitor("cont")
    #expect(try guest.shell("tell p poke 799 599 0xabcdef; tell p dirty 796 596 4 4") == "poked\ndirtied\n")
    try waitUntil("the guest draws on after cont") {
      let screen = try screen(guest)
      return pixel(screen, 799, 599) == [0xab, 0xcd, 0xef] && pixel(screen, 3, 4) == [0x12, 0x34, 0x56]
    }
    let before = try guest.settledStatistics()
    #expect(before.shadows["chosen", default: 0] > 0 && before.framesFailed == 0)
    #expect(before.protocolErrors.isEmpty && before.releasedLate == 0)

    try guest.monitor("set-action", ["reboot": "reset"])
    try guest.monitor("system_reset")
    #expect(try guest.shell("hold q draw pattern 640x480 XR24 9 hold") == "shown\n")
    expect(.positions(640, 480, seed: 9), on: guest)
    let after = try guest.settledStatistics()
    #expect(after.liveResources == 1 && after.protocolErrors.isEmpty && after.framesFailed == 0)
    guest.end()
  }

  /// An EDID's detailed timing cannot say its size; the helper's EDID has it as DisplayID.
  @Test("a screen of more than 4095 pixels is the one that the guest prefers, and shows its picture")
  func largeScreen() throws {
    let guest = try start("stable", display: "none", helperOptions: ["--resolution", "5120x1440"])
    #expect(try guest.shell("modetest -M virtio_gpu -c").contains("#0 5120x1440 "))
    #expect(try guest.shell("grep -c QEMU /sys/class/drm/card0-Virtual-1/edid") == "1\n")
    #expect(try guest.shell("hold p draw pattern 5120x1440 XR24 5 hold") == "shown\n")
    expect(.positions(5120, 1440, seed: 5), on: guest)
    guest.end()
  }

  /// From Linux 6.12 on, the drivers say each time that all has changed.
  private static let kernelThatTells = "oldest"
  private static let hasKernelThatTells: Bool = {
    let build = repository.appending("qemu/guest/build")
    let (status, output) = (try? run(build, ["--kernel", kernelThatTells, "--where"])) ?? (1, "")
    let image = output.trimmingCharacters(in: .newlines)
    // The image's name begins with the kernel's version.
    let version = FilePath(image).lastComponent?.string.split(separator: ".").prefix(2).compactMap { Int($0) }
    return status == 0 && version?.lexicographicallyPrecedes([6, 12]) == true
      && FileManager.default.fileExists(atPath: image + "/initrd")
  }()

  @Test(
    "the changes that the guest reports are copied and shown, and nothing else is",
    .enabled(if: hasKernelThatTells, "qemu/setup --all, and an archive with a kernel before 6.12"),
    arguments: ["stable", "newest"])
  func showsDamage(_ qemu: String) throws {
    let guest = try start(qemu, display: "none", kernel: Self.kernelThatTells)
    #expect(try guest.shell("hold p draw pattern 800x600 XR24 5 hold") == "shown\n")
    let picture = Picture.positions(800, 600, seed: 5)
    expect(picture, on: guest)
    let before = try guest.settledStatistics()
    let pokes = [(3, 4), (300, 4), (798, 599)].map { "tell p poke \($0.0) \($0.1) 0x123456;" }
    try guest.shell(pokes.joined() + "tell p dirty 0 0 8 8; tell p dirty 797 597 3 3")
    let changed = Picture(width: 800, height: 600) { y in
      var row = picture.row(y)
      if y == 4 { row[3] = 0x123456 }
      if y == 599 { row[798] = 0x123456 }
      return row
    }
    expect(changed, on: guest)
    let copied = try guest.settledStatistics().bytesCopied - before.bytesCopied
    #expect(copied == (8 * 8 + 3 * 3) * 4)
    guest.end()
  }

  private static let hasDisplays = FileManager.default.fileExists(
    atPath: testCache.appending("displays/usr/.done-1").string)

  @Test(
    "QEMU's window has the guest's picture, pixel by pixel, until one process is killed",
    .enabled(if: hasDisplays, "qemu/setup --displays"), arguments: EndToEnd.Killed.allCases)
  func window(_ first: EndToEnd.Killed) throws {
    let guest = try start(display: "gtk")
    #expect(try guest.shell("hold p draw pattern 800x600 XR24 5 hold") == "shown\n")
    #expect(guest.differenceInWindow(.positions(800, 600, seed: 5)) == nil)
    #expect(try guest.shell("tell p show 640x480 6; tell p show 800x600 7") == "shown\nshown\n")
    #expect(guest.differenceInWindow(.positions(800, 600, seed: 7)) == nil)
    let before = try guest.settledStatistics()
    // QEMU draws it, where the pointer is; here there is none.
    #expect(try guest.shell("tell p cursor 100 50; tell p move 300 200") == "cursor\nmoved\n")
    #expect(try guest.shell("tell p poke 3 4 0x123456; tell p dirty 0 0 8 8") == "poked\ndirtied\n")
    let poked = Picture(width: 800, height: 600) { y in
      var row = Picture.positions(800, 600, seed: 7).row(y)
      if y == 4 { row[3] = 0x123456 }
      return row
    }
    #expect(guest.differenceInWindow(poked) == nil)
    let after = try guest.settledStatistics()
    #expect(after.flushes == before.flushes + 1, "the cursor is in no picture")
    #expect(after.framesFailed == 0 && after.protocolErrors.isEmpty && after.releasedLate == 0)

    try guest.expectEnd(killing: first) {
      #expect(guest.differenceInWindow(poked) == nil, "the last picture stays")
    }
  }

  /// EDK II has a driver of its own for this card. Its shell's last words are on the serial line, too.
  @Test("a UEFI firmware draws the same as on QEMU's own card, pixel by pixel")
  func firmware() throws {
    let guests = try [[], ["--card", "virtio-gpu-pci,xres=800,yres=600"]].map { card in
      try RunningGuest(
        memory: "256M", resolution: "800x600", kms: nil, helperOptions: ["--backing", "shadow"],
        options: [
          "--accel", "tcg", "--display", "none", "--qemu", "stable", "--firmware", "/usr/share/ovmf/OVMF.fd",
        ]
          + card, hasShell: false)
    }
    try waitUntil("the firmware's shell is there") { guests.allSatisfy { $0.console.contains("Shell>") } }
    var screens: [Screenshot] = []
    try? waitUntil("the screens are equal") {
      screens = try guests.map(screen)
      return screens[0].rgb == screens[1].rgb
    }
    #expect(screens[0].rgb == screens[1].rgb && screens[0].width == screens[1].width)
    #expect(screens[0].rgb.count { $0 > 0 } > 1000, "there is something to be seen")
    #expect(try guests[0].settledStatistics().protocolErrors.isEmpty)
  }
}
