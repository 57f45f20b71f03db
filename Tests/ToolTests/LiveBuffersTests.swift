import Testing

@testable import udmabridge

/// What `list` reads of dma-bufs, whose names are anybody's.
@Suite struct LiveBuffersTests {
  private static let before =
    "pos:\t0\nflags:\t02000002\nmnt_id:\t16\nino:\t7\nsize:\t8192\ncount:\t2\nexp_name:\tudmabuf\n"

  @Test(
    "size, exporter and name are read from fdinfo, whatever the name contains",
    arguments: [
      nil, "spam", "a\nsize:\t18446744073709551615", "a\nname:\tb", "\nexp_name:\tspam", "a\r", "a\n",
    ] as [String?])
  func fdinfo(_ name: String?) {
    var buffer = LiveBuffer(inode: 7)
    buffer.take(fdinfo: Self.before + (name.map { "name:\t\($0)\n" } ?? ""))
    #expect(buffer.size == 8192)
    #expect(buffer.exporter == "udmabuf")
    #expect(buffer.name == name)
  }

  @Test(
    "each buffer's facts are read from the kernel's list, whatever a name contains",
    arguments: [
      "a", "a\n18446744073709551615\t\t\t1\tx\t8", "a\n1\t0\t0\t1\tx\t7", "a\n\tAttached Devices:\n\tspam",
      "a\r",
    ])
  func bufinfo(_ name: String) {
    let kernel = KernelBuffers(
      """

      Dma-buf Objects:
      size    \tflags   \tmode    \tcount   \texp_name\tino     \tname
      00008192\t00000002\t00080007\t00000002\tudmabuf\t00000007\t\(name)
      \twrite fence:drm_sched gfx seq 1 signalled
      \tAttached Devices:
      \tcard0
      \tcard1
      Total 2 devices attached

      00004096\t00000002\t00080007\t00000001\tsystem\t00000009\t<none>
      \tAttached Devices:
      Total 0 devices attached


      Total 2 objects, 12288 bytes

      """)
    #expect(kernel.buffers.map(\.inode) == [7, 9])
    #expect(kernel.buffers.map(\.size) == [8192, 4096])
    #expect(kernel.buffers.map(\.devices) == [["card0", "card1"], []])
    #expect(kernel.buffers.map(\.references) == [2, 1])
    #expect(kernel.buffers[0].name?.hasPrefix("a") == true && kernel.buffers[1].name == nil)
  }

  @Test("a sum of sizes that cannot be counted is the largest number")
  func sum() {
    let sizes: [UInt64?] = [.max, nil, 4096]
    #expect(LiveBuffer.size(of: sizes.map { LiveBuffer(inode: 1, size: $0) }) == .max)
    #expect(LiveBuffer.size(of: sizes.dropFirst().map { LiveBuffer(inode: 1, size: $0) }) == 4096)
  }

  @Test(
    "a name is shown in one line, without control characters",
    arguments: [
      ("held here", "held here"), ("Bär", "Bär"), ("a\r\n", "a\\u{d}\\u{a}"), ("\u{1b}[2J", "\\u{1b}[2J"),
      ("\\u{a}", "\\\\u{a}"), ("\u{202e}x", "\\u{202e}x"),
    ])
  func names(_ name: String, _ shown: String) { #expect(printable(name) == shown) }
}
