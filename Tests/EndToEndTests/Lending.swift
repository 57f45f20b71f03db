import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd {
  /// Buffers of real guests that are lent by the agent, and imported by other processes of the host.
  @Suite
  struct Lending {
    typealias Machine = LendingGuest.Machine
    typealias Part = LendingGuest.Part
    static let tool = repository.appending(".build/release/udmabridge")

    /// A whole page, and parts that begin and end somewhere in pages.
    static let parts = [
      Part(offset: 0, size: 4096), Part(offset: 4095, size: 2), Part(offset: 123, size: 4567),
      Part(offset: 8193, size: 300_001),
    ]

    /// The lent bytes as a program gets them that the tool gives a buffer to, in hexadecimal digits.
    private func bytes(of id: String, in lender: LendingGuest) throws -> String {
      let script = """
        import mmap, os
        fd, offset, size = (int(os.environ["UDMABRIDGE_" + name]) for name in ("FD", "OFFSET", "SIZE"))
        whole = mmap.mmap(fd, os.lseek(fd, 0, os.SEEK_END), prot=mmap.PROT_READ)
        print(whole[offset:offset + size].hex(), end="")
        """
      let (status, output) = try run(
        Self.tool,
        ["buffers", "import", "--control", lender.control, id, "--", "/usr/bin/python3", "-c", script],
        withErrors: true)
      #expect(status == 0, "\(output)")
      return output
    }

    /// What an importer reads.
    private func expect(_ importer: Conversation, _ bytes: [UInt8]) throws {
      #expect(try importer.tell("read 0 \(bytes.count)") == hexadecimal(bytes))
    }

    /// Lends a buffer of an exporter, compares it on the host, changes it there and in the guest, and takes it back.
    private func expectLent(_ exporter: String, _ part: Part, by lender: LendingGuest, seed: UInt32) throws {
      let (id, notes) = try lender.lend(exporter, part, seed: seed, as: "b")
      #expect(notes.isEmpty, "nothing was copied")
      #expect(try bytes(of: id, in: lender) == hexadecimal(part.bytes(seed: seed)), "\(exporter), \(part)")
      let importer = try lender.startImporter(of: id)
      #expect(importer.greeting == "imported \(part.offset) \(part.size) lent")
      try expect(importer, part.bytes(seed: seed))
      // No word of anybody stands between what one writes and the other reads; first and last byte.
      for (place, value) in [(0, "a5"), (part.size - 1, "5a")] {
        #expect(try importer.tell("write \(place) \(value)") == "written")
        try lender.tell("b", "read \(part.offset + place) 1", value)
      }
      try lender.tell("b", "fill \(seed + 1)", "filled")
      try expect(importer, part.bytes(seed: seed + 1))
      #expect(try importer.tell("release") == "done")
      try lender.drop("b")
      try waitUntil("the lender has it back") { try lender.agentList().buffers.isEmpty }
    }

    /// One guest for all of it: its boot takes longer than any of the three.
    @Test(
      "the host has a guest's lent buffers byte by byte, and fills one; a kernel's refusal names its release",
      arguments: [Machine.oldest, .flat, .blobs, .imports])
    func lent(_ machine: Machine) throws {
      let lender = try LendingGuest(machine)
      // How a part lies in pages is the same to all exporters: one has them all.
      let parts = machine.foreign.isEmpty ? [Self.parts[1], Self.parts[3]] : Self.parts
      for (index, part) in parts.enumerated() {
        try expectLent("card", part, by: lender, seed: UInt32(11 + index))
      }
      for exporter in machine.foreign { try expectLent(exporter, Self.parts[3], by: lender, seed: 21) }
      try expectNothingIsLeft(of: lender)
      try expectFilled(machine.foreign.first ?? "card", by: lender)
      let strangers = [Machine.oldest.testDescription: "vgem", Machine.flat.testDescription: "heap"]
      if machine.foreign.isEmpty {
        try expectRefused(strangers[machine.testDescription] ?? "udmabuf", by: lender)
      }
    }

    @Test("a part of one buffer of the newest guest's card is lent and comes back")
    func oneBuffer() throws {
      let lender = try LendingGuest(.imports)
      try expectLent("card", Self.parts[2], by: lender, seed: 3)
      try expectNothingIsLeft(of: lender)
    }

    func expectNothingIsLeft(of lender: LendingGuest) throws {
      try waitUntil("nothing is pinned") { liveUdmabufs() == 0 }
      let statistics = try lender.guest.statistics()
      #expect(statistics.pinnedBytes == 0 && statistics.protocolErrors.isEmpty, "\(statistics)")
      #expect(statistics.bytesCopied == 0)
    }

    /// A buffer that the guest's kernel cannot give its card is refused, or copied on request.
    private func expectRefused(_ exporter: String, by lender: LendingGuest) throws {
      if exporter == "vgem" { try lender.guest.shell("load vgem") }
      let release = try lender.guest.shell("uname -r").dropLast()
      let part = Self.parts[2]
      let error = #expect(throws: TroubleInTest.self) {
        try lender.lend(exporter, part, seed: 5, as: "refused")
      }
      let told = error.map { "\($0)" } ?? "nothing"
      #expect(told.contains(release), "\(told)")
      try lender.drop("refused")
      #expect(try lender.agentList().copies == 0)

      let (id, notes) = try lender.lend(exporter, part, seed: 5, as: "copied", options: "--copy")
      #expect(notes.count == 1 && notes[0].contains("copy"), "\(notes)")
      #expect(try bytes(of: id, in: lender) == hexadecimal(part.bytes(seed: 5)))
      try lender.tell("copied", "fill 6", "filled")
      #expect(try bytes(of: id, in: lender) == hexadecimal(part.bytes(seed: 5)), "it was copied once")
      let list = try lender.agentList()
      #expect(list.copies == 1 && list.buffers.map(\.copied) == [true])
      try lender.drop("copied")
      try expectNothingIsLeft(of: lender)
    }

    @Test(
      "a buffer can be lent and shown at once, and stays on the screen after its return",
      arguments: [Machine.flat, .imports])
    func shown(_ machine: Machine) throws {
      try TestHost.write("16384", to: UdmabufLimits.directory.appending("list_limit"))
      let lender = try LendingGuest(machine, kms: "auto")
      // The card makes an image of 4096 bytes in each row where its buffers are images.
      let size = 1024 * 768 * 4
      let command = "'echo $UDMABRIDGE_BUFFER; exec draw blob fd:{} \(size)'"
      let id = try lender.guest.shell(
        "hold b as user udmabridge-guest lend --socket /run/agent/lender --size \(size) -- sh -c \(command)"
      ).dropLast()
      #expect(try lender.guest.shell("next b") == "open\n")
      for (words, answer) in [
        ("create", "created"), ("map", "mapped"), ("show 1024x768 4096 0 9", "shown"),
      ] { try lender.tell("b", words, answer) }
      let picture = Picture.positions(1024, 768, seed: 9)
      try lender.guest.expectLent(picture)
      let importer = try lender.startImporter(of: String(id))
      for y in [0, 767] {
        let row = picture.row(y).flatMap { pixel in
          (0..<4).map { UInt8(truncatingIfNeeded: pixel >> (8 * $0)) }
        }
        #expect(try importer.tell("read \(y * 4096) 4096") == hexadecimal(row))
      }
      #expect(try importer.tell("write 4096 44332211") == "written")
      try lender.tell("b", "peek 4096", "0x11223344")
      try lender.tell("b", "poke 4096 0x00abcdef", "poked")
      #expect(try importer.tell("read 4096 4") == "efcdab00")
      try lender.tell("b", "show 1024x768 4096 0 10", "shown")
      #expect(try importer.tell("release") == "done")
      #expect(try lender.ask("return \(id)") == "returned, importers cut off: 0\n")
      try lender.guest.expectLent(.positions(1024, 768, seed: 10))
      for (words, answer) in [("unmap", "unmapped"), ("close", "closed")] {
        try lender.tell("b", words, answer)
      }
      try lender.drop("b")
      try waitUntil("nothing is pinned") { liveUdmabufs() == 0 }
    }

    @Test("the example in C lends a dma-heap's picture, and the tool shows it on the host's card")
    func example() throws {
      try TestHost.write("16384", to: UdmabufLimits.directory.appending("list_limit"))
      let directory = try makeTemporaryDirectory()
      defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
      let program = directory.appending("lend-example")
      let source = repository.appending("examples/lend.c").string
      let (status, output) = try run(
        "/usr/bin/cc", ["-static", "-O2", "-Wall", "-Werror", "-o", program.string, source], withErrors: true)
      #expect(status == 0, "\(output)")
      let lender = try LendingGuest(.imports, programs: [program])
      let words = try lender.guest.shell("hold e as user lend-example /run/agent/lender")
      let id = try #require(
        words.firstMatch(of: /^lent ([0-9a-f]{32})$/.anchorsMatchLineEndings()), "\(words)"
      ).1
      let (show, told) = try startReading(
        Self.tool, ["show", "--control", lender.control, "--buffer", String(id)], withErrors: true)
      defer { show.signal(SIGKILL) }
      let picture = Picture(width: 640, height: 480) { y in
        (0..<640).map { x in UInt32((x & 255) << 16 | (y & 255) << 8 | (x ^ y) & 255) }
      }
      var difference: String? = "nothing was compared"
      try? waitUntil("the picture is on the screen") {
        difference = picture.firstDifference(in: try Screenshot.take())
        return difference == nil || !show.isRunning
      }
      #expect(difference == nil)
      #expect(try ShownFramebuffer.current()?.dmabuf.exporter() == "udmabuf")
      show.signal(SIGTERM)
      #expect(show.wait() == 0)
      #expect(try told.readToEnd().hasPrefix("shown on "))
      #expect(try lender.guest.shell("drop e") == "returned \(id)\n")
      try expectNothingIsLeft(of: lender)
    }

    /// The host fills a buffer of the guest's, and the guest reads it.
    private func expectFilled(_ exporter: String, by lender: LendingGuest) throws {
      let part = Self.parts[2]
      let (id, _) = try lender.lend(exporter, part, seed: 1, as: "b", options: "--use fill")
      #expect(
        try lender.guest.shell("hold w as user udmabridge-guest watch --socket /run/agent/lender")
          .contains(#""event":"ready""#))
      let file = try makeTemporaryDirectory().appending("content")
      defer { _ = try? FileManager.default.removeItem(atPath: file.removingLastComponent().string) }
      let content = (0..<part.size - 7).map { UInt8(truncatingIfNeeded: $0 &* 31 ^ $0 >> 8) }
      try Data(content).write(to: URL(filePath: file.string))
      let (status, output) = try run(
        Self.tool, ["buffers", "fill", "--control", lender.control, id, file.string], withErrors: true)
      #expect(status == 0, "\(output)")
      try waitUntil("the guest is told") {
        try lender.guest.shell("cat /run/w.out").contains(#""event":"filled""#)
      }
      #expect(try lender.guest.shell("grep filled /run/w.out").contains(#""bytesUsed":\#(content.count)"#))
      // What was not filled is as it was.
      let expected = content + part.bytes(seed: 1).suffix(7)
      for start in stride(from: 0, to: part.size, by: 2000) {
        let piece = expected[start..<min(start + 2000, part.size)]
        try lender.tell("b", "read \(part.offset + start) \(piece.count)", hexadecimal(piece))
      }

      // One filler at a time; the guest is told of one that dies.
      let importers = try (0..<2).map { _ in try lender.startImporter(of: id) }
      #expect(try importers[0].tell("fill") == "done")
      #expect(try importers[1].tell("fill") == "io.udmabridge.Buffers.FilledByAnother")
      importers[0].kill()
      try waitUntil("the guest is told") {
        try lender.guest.shell("cat /run/w.out").contains(#""event":"fillAborted""#)
      }
      #expect(try importers[1].tell("fill") == "done")
      #expect(try importers[1].tell("filled \(part.size)") == "done")
      importers[1].kill()
      try lender.drop("b")
      try expectNothingIsLeft(of: lender)
    }

    @Test("PyPI's varlink lists a guest's buffers and tells their facts")
    func peer() throws {
      let lender = try LendingGuest(.imports)
      let (camera, _) = try lender.lend(
        "heap", Part(offset: 5000, size: 7000), seed: 1, as: "camera",
        options: "--metadata '{\"values\": {\"name\": \"camera\"}}'")
      let (page, _) = try lender.lend("card", Self.parts[0], seed: 2, as: "page", options: "--use write")
      let script = """
        import sys, varlink
        control, camera, page = sys.argv[1:]
        with varlink.Client.new_with_address("unix:" + control) as client:
            with client.open("org.varlink.service") as service:
                print(service.GetInfo()["interfaces"])
            with client.open("io.udmabridge.Buffers") as buffers:
                listed = buffers.List()["buffers"]
                print([b["id"] for b in listed] == [camera, page])
                print([(b["state"], b["use"], b["offset"], b["size"], b["users"]) for b in listed])
                facts = buffers.Query(id=camera)
                print(facts["metadata"]["values"], facts["pages"], facts["firstOffset"], facts["lastLength"])
                try: buffers.Query(id="0" * 32)
                except varlink.VarlinkError as error: print(error.error(), error.parameters())
        """
      let (status, output) = try run(
        testCache.appending("venv/bin/python3"), ["-c", script, lender.control, camera, page],
        withErrors: true)
      // 5000 to 12000 lie in the second and the third page.
      #expect(
        output == """
          ['org.varlink.service', 'io.udmabridge.Display', 'io.udmabridge.Buffers']
          True
          [('lent', 'read', 5000, 7000, 0), ('lent', 'write', 0, 4096, 0)]
          {'name': 'camera'} 2 904 3808
          io.udmabridge.Buffers.NoSuchBuffer {}

          """)
      #expect(status == 0)
      for name in ["camera", "page"] { try lender.drop(name) }
      try expectNothingIsLeft(of: lender)
    }

    @Test("a user outside the audience gets the same bytes for a buffer as for a wrong id")
    func audience() throws {
      let lender = try LendingGuest(
        .imports,
        helperOptions: [
          "--audience", "some=uid:65534", "--control-allow", "65533", "--control-allow", "65534",
        ])
      let (id, _) = try lender.lend("card", Self.parts[0], seed: 2, as: "b", options: "--to some")
      // Of each method what comes for the buffer, and for one that is not there.
      let script = """
        import json, socket, sys
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(sys.argv[1])
            for method in "Query", "Import", "BeginAccess":
                answers = []
                for buffer in sys.argv[2], "0" * 32:
                    parameters = {"id": buffer} | ({"mode": "read"} if method == "BeginAccess" else {})
                    call = {"method": "io.udmabridge.Buffers." + method, "parameters": parameters}
                    connection.sendall(json.dumps(call).encode() + b"\\0")
                    answer = b""
                    while not answer.endswith(b"\\0"): answer += connection.recv(65536)
                    answers.append(answer)
                print(method, answers[0] == answers[1], b"NoSuchBuffer" in answers[0], b"NoSuchBuffer" in answers[1])
        """
      func answers(asUser user: Int) throws -> String {
        try run(
          "/usr/bin/setpriv",
          [
            "--reuid=\(user)", "--regid=\(user)", "--clear-groups", "/usr/bin/python3", "-c", script,
            lender.control, id,
          ], withErrors: true
        ).output
      }
      #expect(
        try answers(asUser: 65533)
          == "Query True True True\nImport True True True\nBeginAccess True True True\n")
      #expect(
        try answers(asUser: 65534)
          == "Query False False True\nImport False False True\nBeginAccess False False True\n")
      try lender.drop("b")
      try expectNothingIsLeft(of: lender)
    }
  }
}

/// Two digits for each byte.
func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
  bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}
