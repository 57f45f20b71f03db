import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd {
  /// Memory of the host in a guest: QEMU's generic vhost-user device with a shared memory region.
  ///
  /// The first tests share one guest, in this order.
  @Suite
  final class Shares {
    private static let mebibyte = 1 << 20

    nonisolated(unsafe) private static var shared: RunningGuest?

    private func guest() throws -> RunningGuest {
      if let guest = unsafe Self.shared { return guest }
      let offers = ["5=memfd:1M", "6=memfd:64K,ro", "7=memfd:64K,uses=200"]
      let guest = try RunningGuest(
        resolution: "1024x768", kms: nil,
        options: ["--device", "share", "--host-memory", "64M"] + offers.flatMap { ["--offer", $0] })
      unsafe Self.shared = guest
      return guest
    }

    private func tell(_ guest: RunningGuest, by name: String = "b", _ words: (String, String)...) throws {
      for (command, answer) in words { #expect(try guest.shell("tell \(name) \(command)") == answer + "\n") }
    }

    /// The memory of an offer, by way of the helper that has it.
    private func offer(_ id: Int, of guest: RunningGuest) throws -> Mapping {
      let helper = try #require(guest.helperPID)
      for number in directoryEntries(FilePath("/proc/\(helper)/fd")) {
        let path = FilePath("/proc/\(helper)/fd/\(number)")
        let target = try? FileManager.default.destinationOfSymbolicLink(atPath: path.string)
        guard target?.contains("udmabridge-offer-\(id)") == true else { continue }
        let fd = try FD.open(path, writable: true)
        return try Mapping(fd, offset: 0, length: Int(fd.status().size), writable: true)
      }
      throw TroubleInTest("the helper has no offer \(id)")
    }

    @Test("bytes of an offered memfd arrive both ways, and a read-only one is not mapped")
    func memfd() throws {
      let guest = try guest()
      let line = try guest.shell("dmesg | grep 'drm. features'")
      #expect(line.contains("+virgl") && line.contains("+host_visible"), "\(line)")
      let host = try offer(5, of: guest)
      #expect(try guest.shell("hold b draw blob host \(Self.mebibyte) 5") == "open\n")
      try tell(guest, ("create", "created"), ("map", "mapped"))
      for (place, value): (Int, UInt32) in [(0, 0x0102_0304), (0x12344, 0xcafe_babe), (0xffffc, 7)] {
        try tell(guest, ("poke \(place) \(value)", "poked"))
        #expect(host.load(UInt32.self, at: place) == value)
        host.store(value ^ 0xffff, at: place)
        let hexadecimal = String(value ^ 0xffff, radix: 16)
        try tell(
          guest, ("peek \(place)", "0x" + String(repeating: "0", count: 8 - hexadecimal.count) + hexadecimal))
      }
      try tell(guest, ("unmap", "unmapped"), ("close", "closed"))
      try guest.shell("tell b quit; drop b; true")

      // QEMU 11.1 maps for writing, or not at all.
      let readOnly = try offer(6, of: guest)
      #expect(try guest.shell("hold b draw blob host 65536 6") == "open\n")
      try tell(guest, ("create", "created"), ("map", "refused: Invalid argument"), ("close", "closed"))
      #expect(readOnly.bytes(at: 0, count: 65536).allSatisfy { $0 == 0 })
      try guest.shell("tell b quit; drop b; true")
    }

    @Test("one offer is mapped two hundred times, twice, and all mappings go")
    func twoHundred() throws {
      let guest = try guest()
      let before = try guest.statistics()
      #expect(try guest.shell("draw blobs 200 65536 7 </dev/null") == "mapped 200\nmapped 200\n")
      try waitUntil("all of them are gone") { try guest.statistics().liveResources == before.liveResources }
      #expect(try guest.statistics().protocolErrors == before.protocolErrors)
    }

    @Test("a guest that asks for what is not offered sees an error, and goes on")
    func refused() throws {
      let guest = try guest()
      for (bytes, id) in [(65536, 9), (4096, 5), (2 * Self.mebibyte, 5)] {
        #expect(try guest.shell("hold b draw blob host \(bytes) \(id)") == "open\n")
        // The driver learns of it when it maps, since it does not wait for the answer to what creates the blob.
        _ = try guest.shell("tell b create")
        #expect(try guest.shell("tell b map").hasPrefix("refused"))
        try guest.shell("tell b quit; drop b; true")
      }
      #expect(try guest.shell("hold b draw blob host \(Self.mebibyte) 5") == "open\n")
      try tell(guest, ("create", "created"), ("map", "mapped"))
      // A second use is one too many.
      #expect(try guest.shell("hold c draw blob host \(Self.mebibyte) 5") == "open\n")
      _ = try guest.shell("tell c create")
      #expect(try guest.shell("tell c map").hasPrefix("refused"))
      #expect(try guest.statistics().protocolErrors["offer"] ?? 0 >= 4)
      try endShared()
    }

    /// What follows has guests of its own.
    private func endShared() throws {
      unsafe Self.shared?.end()
      unsafe Self.shared = nil
      try waitUntil("no dma-buf is left") { liveUdmabufs() == 0 }
    }

    enum Source: String, CaseIterable, Sendable { case memfd, dumb }

    /// Since Linux 7 the CPU's first write to a page of such a dumb buffer is noted by the driver, and KVM does not
    /// let a guest make it.
    static let sources = kernelRelease.hasPrefix("6.") ? Source.allCases : [.memfd]

    @Test(
      "memory of the host or of its card, drawn by the guest, is on the screen without a copy",
      arguments: sources)
    func onTheScreen(_ source: Source) throws {
      try TestHost.write("16384", to: UdmabufLimits.directory.appending("list_limit"))
      let size = kernelRelease.hasPrefix("6.") ? (1024, 768) : (1920, 1080)
      let name = "\(size.0)x\(size.1)"
      let bytes = (size.0 * size.1 * 4 + 4095) & ~4095
      let offer = source == .dumb ? "8=dumb:\(name)@/dev/dri/card0" : "8=memfd:\(bytes)"
      let guest = try RunningGuest(resolution: name, options: ["--device", "share", "--offer", offer])
      #expect(try guest.shell("hold b draw blob host \(bytes) 8") == "open\n")
      try tell(
        guest, ("create", "created"), ("map", "mapped"), ("show \(name) \(size.0 * 4) 0 21", "shown"))
      let picture = Picture.positions(size.0, size.1, seed: 21)
      var difference: String? = "nothing was compared"
      try? waitUntil("the picture is on the screen") {
        difference = picture.firstDifference(in: try Screenshot.take())
        return difference == nil
      }
      #expect(difference == nil, "screenshot")
      // It is the memory of the offer: the card's own, or that which udmabuf made a dma-buf of.
      let shown = try #require(try ShownFramebuffer.current())
      #expect(try (shown.dmabuf.exporter() == "udmabuf") == (source == .memfd))
      let statistics = try guest.settledStatistics()
      #expect(statistics.bytesCopied == 0 && statistics.pinnedBytes == 0 && statistics.framesFailed == 0)
      #expect(statistics.protocolErrors.isEmpty && statistics.framesShown > 0)
      try guest.shell("tell b close; tell b quit; drop b; true")
      guest.end()
    }

    @Test("bytes of one guest's pages in another guest arrive both ways")
    func guestToGuest() throws {
      try TestHost.write("16384", to: UdmabufLimits.directory.appending("list_limit"))
      let lender = try RunningGuest(resolution: "1024x768", options: ["--device", "blob"])
      #expect(try lender.shell("hold p draw pattern 1024x768 XR24 5 hold") == "shown\n")
      try lender.expectLent(.positions(1024, 768, seed: 5))
      let shown = try #require(try ShownFramebuffer.current())
      #expect(shown.dmabuf.size == 1024 * 768 * 4)

      let borrower = try shown.dmabuf.withDescriptor { fd in
        try fd.withRaw { number in
          try RunningGuest(
            resolution: "1024x768", kms: nil,
            options: ["--device", "share", "--offer", "7=fd:60"], descriptors: [60: number])
        }
      }
      #expect(try borrower.shell("hold b draw blob host \(1024 * 768 * 4) 7") == "open\n")
      try tell(borrower, ("create", "created"), ("map", "mapped"))
      // What one writes the other reads: a pixel by its place in the image, a word by its place in the buffer.
      let place = (33 * 1024 + 77) * 4
      #expect(try lender.shell("tell p poke 77 33 0x0055aa11") == "poked\n")
      try tell(borrower, ("peek \(place)", "0x0055aa11"), ("poke \(place) 0x00112233", "poked"))
      #expect(try lender.shell("tell p peek 77 33") == "0x00112233\n")
      // It is on the lender's screen with its next flush.
      #expect(try lender.shell("tell p dirty 77 33 1 1") == "dirtied\n")
      try waitUntil("the pixel is on the screen") {
        let screen = try Screenshot.take()
        let first = (33 * screen.width + 77) * 3
        return Array(screen.rgb[first..<first + 3]) == [0x11, 0x22, 0x33]
      }
      try tell(borrower, ("unmap", "unmapped"), ("close", "closed"))
      try borrower.shell("tell b quit; drop b; true")
      borrower.end()
      try lender.shell("tell p quit; drop p; true")
      lender.end()
    }

    enum Point: String, CaseIterable, Sendable { case created, mapped, shown, unmapped, closed }
    enum Killed: String, CaseIterable, Sendable { case helper, qemu }

    @Test(
      "if a process is killed with mappings at all points of their lives, no dma-buf is left",
      arguments: Killed.allCases)
    func killed(_ first: Killed) throws {
      try endShared()
      let guest = try RunningGuest(
        resolution: "1024x768", options: ["--device", "share", "--offer", "5=memfd:4M,uses=5"])
      let life: [(Point, String, String)] = [
        (.created, "create", "created"), (.mapped, "map", "mapped"),
        (.shown, "show 1024x768 4096 0 3", "shown"), (.unmapped, "unmap", "unmapped"),
        (.closed, "close", "closed"),
      ]
      // The screen is that of the first program that opens the card.
      for point in [Point.shown, .created, .mapped, .unmapped, .closed] {
        #expect(try guest.shell("hold \(point) draw blob host \(4 * Self.mebibyte) 5") == "open\n")
        for (reached, command, answer) in life where reached != .shown || point == .shown {
          try tell(guest, by: "\(point)", (command, answer))
          if reached == point { break }
        }
      }
      let (helper, qemu) = (try #require(guest.helperPID), try #require(guest.qemuPID))
      kill(first == .helper ? helper : qemu, SIGKILL)
      guest.waitForEnd()
      try waitUntil("both processes are gone") { isGone(helper) && isGone(qemu) }
      try waitUntil("no dma-buf is left") { liveUdmabufs() == 0 }
    }

    @Test("one helper serves two devices of one guest, with one memory table")
    func twoDevices() throws {
      try endShared()
      let guest = try RunningGuest(
        resolution: "1024x768", options: ["--device", "blob", "--device", "share", "--offer", "5=memfd:1M"])
      // Both drivers are there; the second card has no screen.
      let cards = try guest.shell(
        "ls /sys/class/drm | grep -c '^card[0-9]$'; cat /sys/class/drm/card*/status")
      #expect(cards.hasPrefix("2\n"), "\(cards)")
      // Each block of the guest's memory is mapped once.
      let helper = try #require(guest.helperPID)
      let blocks = try readText(FilePath("/proc/\(helper)/maps")).split(separator: "\n")
        .filter { $0.contains("memfd:memory-backend-memfd") }.map { $0.split(separator: " ")[2] }
      #expect(!blocks.isEmpty && Set(blocks).count == blocks.count, "\(blocks)")
      // One line of each card, in the order of their numbers.
      let cardLines = try guest.shell("dmesg | grep 'drm. features: .virgl'")
      let sharing = cardLines.split(separator: "\n").firstIndex { $0.contains("+virgl") } ?? 0
      #expect(try guest.shell("hold p draw -c \(1 - sharing) pattern 1024x768 XR24 6 hold") == "shown\n")
      try guest.expectLent(.positions(1024, 768, seed: 6))
      #expect(try guest.shell("hold b draw -c \(sharing) blob host \(Self.mebibyte) 5") == "open\n")
      try tell(guest, ("create", "created"), ("map", "mapped"), ("fill 4", "filled"), ("check 4", "equal"))
      try guest.shell("tell b quit; drop b; tell p quit; drop p; true")
      #expect(try guest.settledStatistics().protocolErrors.isEmpty)
      guest.end()
      try waitUntil("no dma-buf is left") { liveUdmabufs() == 0 }
    }
  }
}
