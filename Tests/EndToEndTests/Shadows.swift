import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd {
  /// What cannot be lent is copied: the same picture, the cause named with its remedy.
  @Suite
  struct Shadows {
    private func expectShown(_ picture: Picture) throws {
      var difference: String? = "nothing was compared"
      try? waitUntil("the picture is on the screen") {
        difference = picture.firstDifference(in: try Screenshot.take())
        return difference == nil
      }
      #expect(difference == nil)
    }

    struct Case: Sendable, CustomTestStringConvertible {
      let testDescription: String
      let cause: String
      /// What the log says to do about it.
      let remedy: String
      var ram = "memfd"
      var options: [String] = []
      var limit: (name: String, value: String)?
    }

    static let cases = [
      Case(
        testDescription: "a list that the kernel finds too long", cause: "listLimit",
        remedy: "/parameters/list_limit", limit: ("list_limit", "16")),
      Case(
        testDescription: "more bytes than the kernel allows", cause: "sizeLimit",
        remedy: "/parameters/size_limit_mb", limit: ("size_limit_mb", "2")),
      Case(
        testDescription: "a memfd that is not sealed", cause: "notSealedMemfd", remedy: "seal=on",
        ram: "memfd-unsealed"),
      Case(
        testDescription: "a file in /dev/shm", cause: "notSealedMemfd", remedy: "memory-backend-memfd",
        ram: "file"),
      Case(
        testDescription: "copies that the user wants", cause: "chosen", remedy: "--backing auto",
        options: ["--backing", "shadow"]),
    ]

    @Test(
      "what cannot be lent is copied, pixel by pixel the same, with the cause and the remedy",
      arguments: cases)
    func copied(_ item: Case) throws {
      let path = item.limit.map { UdmabufLimits.directory.appending($0.name) }
      let before = try path.map { try readText($0) }
      if let path, let limit = item.limit { try TestHost.write(limit.value, to: path) }
      defer { if let path, let before { try? TestHost.write(before, to: path) } }
      let guest = try RunningGuest(ram: item.ram, resolution: "1024x768", helperOptions: item.options)
      if item.cause == "listLimit" { try guest.shell("draw scatter 128") }
      #expect(try guest.shell("hold p draw pattern 1024x768 XR24 5 hold") == "shown\n")
      try expectShown(.positions(1024, 768, seed: 5))
      // Drawn without a command: it comes with the next flush of its place.
      #expect(try guest.shell("tell p poke 3 4 255; tell p dirty 0 0 8 8") == "poked\ndirtied\n")
      try waitUntil("the pixel is on the screen") {
        let screen = try Screenshot.take()
        let first = (4 * screen.width + 3) * 3
        return Array(screen.rgb[first..<first + 3]) == [0, 0, 255]
      }
      let statistics = try guest.settledStatistics()
      #expect(statistics.shadows[item.cause, default: 0] > 0, "\(statistics.shadows)")
      #expect(statistics.bytesCopied >= 1024 * 768 * 4 && statistics.shadowBytes > 0)
      #expect(statistics.buffersLent == 0 && statistics.liveDMABufs == 0)
      #expect(statistics.protocolErrors.isEmpty)
      #expect(guest.helperLog.contains("(\(item.cause))") && guest.helperLog.contains(item.remedy))

      if let path, let before {
        // Root raises the limit: it is lent with one of the next frames.
        try TestHost.write(before, to: path)
        try waitUntil("it is lent") {
          try guest.shell("tell p dirty 0 0 8 8")
          return try guest.settledStatistics().buffersLent > 0
        }
        #expect(try ShownFramebuffer.current()?.dmabuf.exporter() == "udmabuf")
        let lent = try guest.settledStatistics()
        #expect(lent.shadowBytes == 0 && lent.liveDMABufs == 1)
      }
      try guest.shell("tell p quit; drop p; true")
      guest.end()
    }

    @Test("with --backing lent a list beyond the limit is an error, and the log has the remedy")
    func lentOrNothing() throws {
      let path = UdmabufLimits.directory.appending("list_limit")
      let before = try readText(path)
      try TestHost.write("16", to: path)
      defer { try? TestHost.write(before, to: path) }
      let guest = try RunningGuest(resolution: "1024x768", helperOptions: ["--backing", "lent"])
      try guest.shell("draw scatter 128")
      _ = try? guest.shell("hold p draw pattern 1024x768 XR24 5 hold")
      let statistics = try guest.statistics()
      #expect(statistics.protocolErrors["listLimit", default: 0] > 0)
      #expect(statistics.liveDMABufs == 0 && statistics.bytesCopied == 0)
      #expect(guest.helperLog.contains("more than the kernel's list_limit 16"))
      #expect(guest.helperLog.contains("/list_limit"))
      guest.end()
    }

    /// The pixels of the program `draw`'s cursor: red, green and blue, and how much shows through, of 255.
    private func cursor(_ x: Int, _ y: Int) -> (rgb: [Int], through: Int) {
      x < 16
        ? ([255, 0, 0], 0) : x < 32 ? ([0, 128, 0], 127) : y % 4 == 0 ? ([0, 0, 255], 0) : ([0, 0, 0], 255)
    }

    private func withCursor(_ picture: Picture, _ left: Int, _ top: Int) -> Picture {
      Picture(width: picture.width, height: picture.height) { y in
        var row = picture.row(y)
        guard (0..<64).contains(y - top) else { return row }
        for x in max(0, left)..<min(row.count, left + 64) {
          let (rgb, through) = cursor(x - left, y - top)
          var mixed: UInt32 = 0
          for (colour, shift) in zip(rgb, [16, 8, 0] as [UInt32]) {
            mixed |= UInt32((Int(row[x] >> shift & 0xff) * through + 127) / 255 + colour) << shift
          }
          row[x] = mixed
        }
        return row
      }
    }

    @Test("a cursor without a plane is drawn into a copy, and the pages are lent again without it")
    func cursorIsBlended() throws {
      try TestHost.write("16384", to: UdmabufLimits.directory.appending("list_limit"))
      let guest = try RunningGuest(resolution: "1024x768")
      let picture = Picture.positions(1024, 768, seed: 12)
      #expect(try guest.shell("hold p draw pattern 1024x768 XR24 12 hold") == "shown\n")
      try expectShown(picture)
      #expect(try ShownFramebuffer.current()?.dmabuf.exporter() == "udmabuf")
      #expect(try guest.shell("tell p cursor 100 200") == "cursor\n")
      try expectShown(withCursor(picture, 100, 200))
      for (x, y) in [(130, 210), (1000, 740), (0, 0)] {
        #expect(try guest.shell("tell p move \(x) \(y)") == "moved\n")
        try expectShown(withCursor(picture, x, y))
      }
      #expect(try guest.settledStatistics().shadows == ["noCursorPlane": 1])
      #expect(try guest.shell("tell p nocursor; tell p dirty 0 0 1024 768") == "no cursor\ndirtied\n")
      try expectShown(picture)
      try waitUntil("it is lent again") { try ShownFramebuffer.current()?.dmabuf.exporter() == "udmabuf" }
      try waitUntil("the copy is gone") { try guest.settledStatistics().shadowBytes == 0 }
      try guest.shell("tell p quit; drop p; true")
      guest.end()
    }

    @Test("a cursor that may not be drawn makes no copy")
    func cursorOff() throws {
      let guest = try RunningGuest(resolution: "1024x768", helperOptions: ["--cursor", "plane"])
      let picture = Picture.positions(1024, 768, seed: 13)
      try guest.shell(
        "hold p draw pattern 1024x768 XR24 13 hold; tell p cursor 10 20; tell p dirty 0 0 64 64")
      try expectShown(picture)
      #expect(try guest.settledStatistics().shadows.isEmpty)
      try guest.shell("tell p quit; drop p; true")
      guest.end()
    }
  }
}
