import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd {
  /// The helper as a user's process.
  @Suite
  struct Unprivileged {
    @Test("the helper lends as nobody in the groups kvm and video, without capabilities, in the sandbox")
    func groups() throws {
      // As udev does on an installed system; here none runs.
      try give("/dev/udmabuf", to: "kvm")
      let card = try #require(directoryEntries("/dev/dri").first { $0.hasPrefix("card") })
      try give(FilePath("/dev/dri").appending(card), to: "video")
      // The way to our own may be closed to others.
      let program = try makeTemporaryDirectory().appending("vhost-user-udmabuf")
      defer { _ = try? FileManager.default.removeItem(atPath: program.removingLastComponent().string) }
      let built = repository.appending(".build/release/vhost-user-udmabuf").string
      try FileManager.default.copyItem(atPath: built, toPath: program.string)
      #expect(unsafe chmod(program.removingLastComponent().string, 0o755) == 0)

      let guest = try RunningGuest(
        resolution: "1024x768",
        options: ["--helper", program.string, "--helper-user", "nobody:kvm,video"])
      #expect(try guest.shell("hold p draw pattern 1024x768 XR24 12 hold") == "shown\n")
      let picture = Picture.positions(1024, 768, seed: 12)
      try waitUntil("the picture is on the screen") {
        picture.firstDifference(in: try Screenshot.take()) == nil
      }
      #expect(try ShownFramebuffer.current()?.dmabuf.exporter() == "udmabuf")

      let helper = try #require(guest.helperPID)
      let status = try readText(FilePath("/proc/\(helper)/status")).split(separator: "\n")
      let entry = unsafe try #require(getpwnam("nobody"))
      let nobody = unsafe entry.pointee.pw_uid
      for line in [
        "Uid:" + String(repeating: "\t\(nobody)", count: 4),
        "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
      ] { #expect(status.contains(line[...]), "\(line)") }
      let statistics = try guest.settledStatistics()
      #expect(statistics.bytesCopied == 0)
      #expect(statistics.buffersLent > 0)

      try guest.shell("tell p quit; drop p; true")
      guest.end()
      try waitUntil("no dma-buf is left") { liveUdmabufs() == 0 }
      #expect(!guest.helperLog.contains("denied"))
    }

    private func give(_ device: FilePath, to group: String) throws {
      try run("/usr/sbin/groupadd", ["--force", "--system", group])
      let entry = unsafe try #require(getgrnam(group))
      let id = unsafe entry.pointee.gr_gid
      #expect(unsafe chown(device.string, 0, id) == 0)
      #expect(unsafe chmod(device.string, 0o660) == 0)
    }
  }
}
