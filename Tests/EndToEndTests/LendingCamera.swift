import Foundation
import Glibc
import SystemPackage
import TestSupport
import Testing

extension EndToEnd.Lending {
  @Test("with the example a camera of the host fills a guest's buffer with its colours")
  func camera() throws {
    // Captures alone: bars of the eight colours that three bits make.
    let loaded = try run("/usr/sbin/modprobe", ["vivid", "n_devs=1", "node_types=1"], withErrors: true)
    try #require(loaded.status == 0, "\(loaded.output)")
    try waitUntil("it is there") { FileManager.default.fileExists(atPath: "/dev/video0") }
    let lender = try LendingGuest(.imports)
    let (width, height) = (640, 480)
    let size = width * height * 4
    let image =
      #"{"image":{"width":\#(width),"height":\#(height),"fourcc":875713112,"stride":\#(width * 4),"offset":0}}"#
    let (id, _) = try lender.lend(
      "heap", LendingGuest.Part(offset: 0, size: size), seed: 5, as: "b",
      options: "--use fill --metadata '\(image)'")
    let (status, output) = try run(
      "/usr/bin/python3", [repository.appending("examples/camera.py").string, lender.control, id],
      withErrors: true)
    #expect(status == 0 && output == "filled \(size)\n", "\(output)")
    let colours = try (0..<8).map { bar in
      let pixel = (height * 3 / 4 * width + bar * width / 8 + width / 16) * 4
      let bytes = try lender.guest.shell("tell b read \(pixel) 3")
      guard let blueGreenRed = Int(bytes.dropLast(), radix: 16) else { throw TroubleInTest(bytes) }
      return [0, 8, 16].map { blueGreenRed >> $0 & 0xff > 0x60 ? "1" : "0" }.joined()
    }
    // White, yellow, cyan, green, magenta, red, blue, black: red, green and blue of each.
    #expect(colours == ["111", "110", "011", "010", "101", "100", "001", "000"])
    #expect(try lender.guest.statistics().bytesCopied == 0)
    try lender.drop("b")
  }
}
