import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd {
  /// QEMU's own displays, whose OpenGL is Mesa's on the processor: the guest's pages are what they show.
  @Suite
  final class Displays {
    private static let (width, height) = (800, 600)
    private static let mode = "800x600"
    private let directory: FilePath
    /// Pictures that the listener may see, by the names of their files.
    private var pictures: FilePath { directory.appending("pictures") }

    init() throws {
      directory = try makeTemporaryDirectory()
      try FileManager.default.createDirectory(atPath: pictures.string, withIntermediateDirectories: false)
    }

    deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

    private func guest(_ display: String, _ mode: String = Displays.mode) throws -> RunningGuest {
      try RunningGuest(resolution: mode, kms: nil, options: ["--display", display])
    }

    /// - Parameter pixel: one that has another value.
    private func picture(_ seed: UInt32, pixel: (x: Int, y: Int, value: UInt32)? = nil) -> Picture {
      let plain = Picture.positions(Self.width, Self.height, seed: seed)
      guard let pixel else { return plain }
      return Picture(width: Self.width, height: Self.height) { y in
        var row = plain.row(y)
        if y == pixel.y { row[pixel.x] = pixel.value }
        return row
      }
    }

    /// What is the same under every display: lent, not copied but for cursors, and every flush accounted for.
    private func expectLent(_ guest: RunningGuest, cursors: UInt64 = 0) throws {
      let all = try guest.settledStatistics()
      #expect(all.bytesCopied == cursors * 64 * 64 * 4 && all.shadows.isEmpty && all.buffersLent > 0)
      #expect(all.framesFailed == 0 && all.releasedLate == 0 && all.protocolErrors.isEmpty, "\(all)")
    }

    /// QEMU and whatever draws for it have let go of the guest's pages. Mesa makes small udmabufs of its own.
    private func expectFree(_ guest: RunningGuest) throws {
      try waitUntil("the guest's buffers are free") {
        try guest.statistics().liveDMABufs == 0 && !isPinned(Self.width, Self.height)
      }
    }

    /// There is a dma-buf of a picture of this size.
    private func isPinned(_ width: Int, _ height: Int) throws -> Bool {
      let size = "\((width * height * 4 + 4095) / 4096 * 4096)"
      let padded = String(repeating: "0", count: 8 - size.count) + size
      return try readText("/sys/kernel/debug/dma_buf/bufinfo").split(separator: "\n").contains {
        $0.hasPrefix(padded)
      }
    }

    private func end(_ guest: RunningGuest) throws {
      guest.end()
      try waitUntil("nothing is pinned") { liveUdmabufs() == 0 }
    }

    /// Stop, cont and reset, with a look at the display after each.
    private func stopContReset(
      _ guest: RunningGuest, _ expect: (Picture, String) throws -> Void
    ) throws {
      #expect(try guest.shell("hold p draw pattern \(Self.mode) XR24 5 hold") == "shown\n")
      try expect(picture(5), "the first picture")
      let poked = picture(5, pixel: (3, 4, 0x123456))
      #expect(try guest.shell("tell p poke 3 4 0x123456; tell p dirty 0 0 8 8") == "poked\ndirtied\n")
      try expect(poked, "a pixel")

      try guest.monitor("stop")
      try guest.monitor("cont")
      let after = picture(5, pixel: (3, 4, 0xabcdef))
      #expect(try guest.shell("tell p poke 3 4 0xabcdef; tell p dirty 0 0 8 8") == "poked\ndirtied\n")
      try expect(after, "a pixel after stop and cont")

      try guest.monitor("set-action", ["reboot": "reset"])
      try guest.monitor("system_reset")
      #expect(try guest.shell("hold q draw pattern \(Self.mode) XR24 9 hold") == "shown\n")
      try expect(picture(9), "a picture after system_reset")
      try expectLent(guest)
      #expect(try guest.statistics().liveResources == 1)
      try guest.shell("tell q quit; drop q; true")
      try expectFree(guest)
    }

    // MARK: D-Bus

    private struct Seen: Equatable {
      let size, format, picture, kind, exporter: String
    }

    /// What the listener has seen.
    private func seen() -> [Seen] {
      ((try? readText(directory.appending("seen"))) ?? "").split(separator: "\n").compactMap { line in
        let words = line.split(separator: " ").map(String.init)
        return words.count == 5
          ? Seen(size: words[0], format: words[1], picture: words[2], kind: words[3], exporter: words[4])
          : nil
      }
    }

    /// Gives the listener a picture to recognise.
    private func write(_ picture: Picture, _ name: String) throws {
      var bytes: [UInt8] = []
      bytes.reserveCapacity(picture.width * picture.height * 4)
      for y in 0..<picture.height {
        for pixel in picture.row(y) {
          for shift in [0, 8, 16, 24] as [UInt32] { bytes.append(UInt8(truncatingIfNeeded: pixel >> shift)) }
        }
      }
      // It is there as a whole or not at all.
      let file = directory.appending(name)
      unsafe try FD.create(file).write(bytes.span.bytes)
      try FileManager.default.moveItem(atPath: file.string, toPath: pictures.appending(name).string)
    }

    /// What the listener was told of the cursor last.
    private func seenOfCursor(_ kind: String) -> String? {
      ((try? readText(directory.appending("seen"))) ?? "").split(separator: "\n").last {
        $0.hasPrefix("\(kind) ")
      }.map(String.init)
    }

    private func startListener(_ guest: RunningGuest) throws -> Child {
      let listener = try Child(
        "/bin/sh",
        [
          "-c", "exec \"$@\" >\(directory.appending("seen")) 2>&1", "sh",
          testCache.appending("venv/bin/python3").string,
          repository.appending("qemu/lib/display-listener").string, guest.directory.appending("qmp").string,
          pictures.string,
        ])
      try waitUntil("it listens") {
        (try? readText(self.directory.appending("seen")))?.contains("listening") ?? false
      }
      return listener
    }

    @Test("on D-Bus a listener has the guest's own pages, also after stop, cont and system_reset")
    func dbus() throws {
      let guest = try guest("dbus")
      let listener = try startListener(guest)
      for seed: UInt32 in [1, 2] { try write(picture(seed), "flip-\(seed)") }
      var number = 0
      try stopContReset(guest) { picture, what in
        number += 1
        try write(picture, "still-\(number)")
        let wanted = Seen(
          size: Self.mode, format: "XR24", picture: "still-\(number)", kind: "dma-buf", exporter: "udmabuf")
        // It may have been seen before its file was there: a change of nothing brings it again.
        try waitUntil(what) {
          try guest.shell("tell \(number == 4 ? "q" : "p") dirty 700 500 1 1")
          return seen().last == wanted
        }
      }

      let before = seen().count
      // Its driver waits for nobody: of what it draws the listener sees as much as it can read. It has a descriptor of its
      // own, and may look later than QEMU says: only while the guest still has the buffers it is known what is in them.
      try guest.shell("draw flip \(Self.mode) 100000 >/dev/null 2>&1 & flipper=$!")
      try waitUntil("it has seen some") { seen().count > before + 9 }
      let flips = seen().dropFirst(before)
      // Until now the guest has both buffers.
      try guest.shell("kill $flipper; wait $flipper; true")
      #expect(flips.allSatisfy { $0.kind == "dma-buf" && $0.exporter == "udmabuf" })
      #expect(
        Set(flips.map(\.picture)) == ["flip-1", "flip-2"],
        "each is one of the two as a whole: \(flips.map(\.picture))")
      try expectFree(guest)
      try expectLent(guest)
      try end(guest)
      listener.wait()
    }

    // MARK: A window

    @Test("a window shows the guest's picture, pixel by pixel, also after stop, cont and system_reset")
    func gtk() throws {
      let guest = try guest("gtk")
      try stopContReset(guest) { picture, what in
        #expect(guest.differenceInWindow(picture) == nil, "\(what)")
      }
      try end(guest)
    }

    // MARK: What a display has to bear

    enum Display: String, CaseIterable, Sendable { case gtk, dbus }

    @Test(
      "a display bears other modes and a killed process, and then nothing is pinned",
      arguments: zip([Display.gtk, .dbus], Killed.allCases))
    func killed(_ display: Display, _ first: Killed) throws {
      try TestHost.write("16384", to: UdmabufLimits.directory.appending("list_limit"))
      let guest = try guest(display.rawValue, "1920x1080")
      let listener = display == .dbus ? try startListener(guest) : nil
      func show(_ command: String, _ width: Int, _ height: Int, seed: UInt32) throws {
        let (picture, name) = (Picture.positions(width, height, seed: seed), "seed-\(seed)")
        if display == .dbus { try write(picture, name) }
        #expect(try guest.shell(command) == "shown\n")
        if display == .dbus {
          let wanted = Seen(
            size: "\(width)x\(height)", format: "XR24", picture: name, kind: "dma-buf", exporter: "udmabuf")
          try waitUntil("\(width)x\(height) on D-Bus") { seen().last == wanted }
        } else if (width, height) == (1920, 1080) {
          // Of other sizes the window makes as much as fills it.
          #expect(guest.differenceInWindow(picture) == nil, "\(width)x\(height) in the window")
        }
      }
      try show("hold p draw pattern 1920x1080 XR24 1 hold", 1920, 1080, seed: 1)
      // Not 640x480, of which QEMU has a picture of its own.
      try show("tell p show 1024x768 2", 1024, 768, seed: 2)
      try show("tell p show 1920x1080 3", 1920, 1080, seed: 3)
      try waitUntil("those before are free") { try !isPinned(1024, 768) }
      try expectLent(guest)
      if display == .dbus { try cursor(guest) }

      try guest.expectEnd(killing: first) {
        let isShown = try isPinned(1920, 1080)
        #expect(isShown, "QEMU has its descriptor until it ends")
        if display == .gtk {
          #expect(guest.differenceInWindow(.positions(1920, 1080, seed: 3)) == nil, "the last picture")
        }
      }
      listener?.wait()
      try waitUntil("nothing is pinned") { liveUdmabufs() == 0 }
    }

    /// The cursor's image as it is, and its place; nothing of it in the picture.
    private func cursor(_ guest: RunningGuest) throws {
      let image = Picture(width: 64, height: 64) { y in
        (0..<64).map { x in
          x < 16 ? 0xffff_0000 : x < 32 ? 0x8000_8000 : y % 4 != 0 ? 0 : 0xff00_00ff
        }
      }
      try write(image, "cursor")
      func expect(_ image: String?, _ pointer: String, _ what: String) throws {
        try waitUntil(what) {
          (image == nil || seenOfCursor("cursor") == image) && seenOfCursor("pointer") == pointer
        }
      }
      let wanted = "cursor 64x64 0,0 cursor"
      #expect(try guest.shell("tell p cursor 100 50") == "cursor\n")
      try expect(wanted, "pointer 100,50 1", "the cursor")
      #expect(try guest.shell("tell p move 1900 1060") == "moved\n")
      try expect(nil, "pointer 1900,1060 1", "the cursor moved")
      #expect(try guest.shell("tell p nocursor") == "no cursor\n")
      try waitUntil("the cursor is hidden") { seenOfCursor("pointer")?.hasSuffix(" 0") == true }
      #expect(try guest.shell("tell p cursor 7 8; tell p dirty 0 0 64 64") == "cursor\ndirtied\n")
      try expect(wanted, "pointer 7,8 1", "the cursor is shown again")
      #expect(seen().last?.picture == "seed-3")
      try expectLent(guest, cursors: 2)
    }
  }
}
