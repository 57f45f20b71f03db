import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd {
  /// Other processes that get a real guest's frames on the control socket.
  @Suite
  final class Consumers {
    private static let program = repository.appending(".build/release/udmabridge")
    private let directory: FilePath
    private var control: String { directory.appending("control").string }
    private var consumer: FilePath { directory.appending("consumer") }

    init() throws {
      directory = try makeTemporaryDirectory()
      let (status, output) = try run(
        "/usr/bin/cc",
        [
          "-O2", "-Wall", "-Werror", "-o", consumer.string,
          repository.appending("examples/consumer.c").string,
        ],
        withErrors: true)
      guard status == 0 else { throw TroubleInTest(output) }
    }

    deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

    private func guest(kms: String? = nil, device: String = "gpu") throws -> RunningGuest {
      try RunningGuest(
        resolution: "1024x768", kms: kms, helperOptions: ["--control", control],
        options: ["--device", device])
    }

    /// Standard output goes to a file of this name, so that nobody has to read it.
    private func start(_ name: String, _ words: String...) throws -> Child {
      let script = "exec \"$@\" >\(directory.appending(name)) 2>&1"
      return try Child("/bin/sh", ["-c", script, "sh"] + words)
    }

    private func output(_ name: String) -> String { (try? readText(directory.appending(name))) ?? "" }

    private func startC(_ name: String = "c", frames: Int = 1_000_000) throws -> Child {
      try start(name, consumer.string, control, "\(frames)")
    }

    private func startPython(_ name: String = "python", frames: Int = 1_000_000) throws -> Child {
      try start(
        name, "/usr/bin/python3", repository.appending("examples/consumer.py").string, control, "\(frames)")
    }

    private func startPresent(_ name: String = "present") throws -> Child {
      try start(name, Self.program.string, "present", "--control", control, "--kms", "auto")
    }

    private func statistics() throws -> [String: Int] {
      let (status, text) = try run(
        Self.program, ["stats", "--json", "--control", control], withErrors: true)
      guard status == 0 else { throw TroubleInTest(text) }
      let object = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any]
      return object?["control"] as? [String: Int] ?? [:]
    }

    private func waitUntilNobodyIsLeft() throws {
      try waitUntil("who was killed is forgotten") {
        let now = try statistics()
        return now["holds"] == 0 && now["watchers"] == 0 && now["connections"] == 1
      }
    }

    /// Page flips in a second.
    private func pace(_ guest: RunningGuest) throws -> Double {
      let text = try guest.shell("draw pace 640x480 6")
      guard let rate = Double(text.split(whereSeparator: \.isWhitespace).last ?? "") else {
        throw TroubleInTest(text)
      }
      return rate
    }

    /// The hash that the examples print of a picture of the guest's.
    private func hash(_ picture: Picture) -> String {
      fnv1a(
        (0..<picture.height).flatMap { y in
          picture.row(y).flatMap { pixel in
            [0, 8, 16].map { UInt8(truncatingIfNeeded: pixel >> $0) } + [0]
          }
        })
    }

    private func expectShown(_ picture: Picture) throws {
      var difference: String? = "nothing was compared"
      try? waitUntil("the picture is on the screen") {
        difference = picture.firstDifference(in: try Screenshot.take())
        return difference == nil
      }
      #expect(difference == nil)
    }

    @Test("consumers in C, in Python and on a screen, one of them stopped, leave the guest its frame rate")
    func allAtOnce() throws {
      let guest = try guest(device: "blob")
      let present = try startPresent()
      #expect(try guest.shell("hold p draw pattern 640x480 XR24 5 hold") == "shown\n")
      let picture = Picture.positions(640, 480, seed: 5)
      try expectShown(picture)
      // What is on the screen are the guest's own pages.
      #expect(try ShownFramebuffer.current()?.dmabuf.exporter() == "udmabuf")
      let wanted = "640x480, fnv1a \(hash(picture))\n"
      for (child, name) in [
        (try startC("one-c", frames: 1), "one-c"), (try startPython("one-python", frames: 1), "one-python"),
      ] {
        #expect(child.wait() == 0)
        #expect(output(name).hasSuffix(wanted), "\(name): \(output(name))")
      }
      try guest.shell("tell p quit; drop p; true")

      let (c, python) = (try startC(), try startPython())
      let fourth = try startC("fourth")
      try waitUntil("all watch") { try statistics()["watchers"] == 4 }
      // As often as all of them let it.
      let before = try pace(guest)
      try fourth.stop()
      // One that was waited for would make each of them slow; a machine that is busy for a while does not.
      var beside = try pace(guest)
      for _ in 0..<5 where beside < before * 0.6 { beside = try pace(guest) }
      // Where all of them share a busy processor, any of them may be late.
      let late = try statistics()["overdue", default: 0]
      print(
        "consumers: \(before) flips in a second with four of them, \(beside) with one of them stopped; late: \(late)"
      )
      #expect(beside >= before * 0.6)
      for name in ["c", "python", "fourth"] { #expect(output(name).contains("frame "), "\(name)") }
      // Each is killed while frames come.
      try guest.shell("draw flip 640x480 100000 >/dev/null 2>&1 & flipper=$!")
      for child in [c, python, present, fourth] {
        let count = try statistics()["frames", default: 0]
        try waitUntil("frames come") { try statistics()["frames", default: 0] > count + 10 }
        child.signal(SIGCONT)
        child.signal(SIGKILL)
        child.wait()
      }
      try waitUntilNobodyIsLeft()
      try guest.shell("kill $flipper; wait $flipper; true")
      try waitUntil("its buffers are free") {
        try guest.statistics().liveDMABufs == 0 && liveUdmabufs() == 0
      }
      let last = try guest.settledStatistics()
      #expect(last.bytesCopied == 0 && last.framesFailed == 0)
      // The one that was stopped had a buffer in its hands, or not; the guest waited a second for that one.
      #expect(
        last.releasedLate <= 1 && last.protocolErrors.allSatisfy { $0.key == "releasedLate" }, "\(last)")
      guest.end()
    }

    @Test("consumers that are killed again and again leave nothing pinned")
    func killed() throws {
      let guest = try guest()
      try guest.shell("(while true; do draw flip 640x480 1; done) >/dev/null 2>&1 & flipper=$!")
      for turn in 0..<6 {
        let children = [
          try startC("c-\(turn)"), try startPython("python-\(turn)"), try startPresent("present-\(turn)"),
        ]
        usleep(UInt32(200_000 + turn * 350_000))
        for child in children.shuffled() {
          child.signal(SIGKILL)
          child.wait()
        }
        try waitUntilNobodyIsLeft()
      }
      try guest.shell("kill $flipper; wait $flipper; true")
      try waitUntil("nothing is pinned") { try guest.statistics().liveDMABufs == 0 && liveUdmabufs() == 0 }
      #expect(try guest.statistics().protocolErrors.isEmpty)
      guest.end()
    }

    @Test("beside the helper's own card consumers get the picture that is on the screen, without a copy")
    func besideCard() throws {
      let guest = try guest(kms: "auto")
      let (c, python) = (try startC(), try startPython())
      try waitUntil("both watch") { try statistics()["watchers"] == 2 }
      #expect(try guest.shell("hold p draw pattern 640x480 XR24 6 hold") == "shown\n")
      let picture = Picture.positions(640, 480, seed: 6)
      try guest.expectLent(picture)
      let wanted = "640x480, fnv1a \(hash(picture))\n"
      try waitUntil("both have seen it") { output("c").contains(wanted) && output("python").contains(wanted) }
      for child in [c, python] {
        child.signal(SIGKILL)
        child.wait()
      }
      try waitUntilNobodyIsLeft()
      try guest.shell("tell p quit; drop p; true")
      try waitUntil("nothing is pinned") { try guest.statistics().liveDMABufs == 0 && liveUdmabufs() == 0 }
      #expect(try guest.statistics().bytesCopied == 0)
      guest.end()
    }
  }
}
