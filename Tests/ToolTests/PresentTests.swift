import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

/// `udmabridge present`: what another process offers, on a card's screen.
@Suite struct PresentOptionTests {
  @Test(
    "a wrong command line of present has its status, and the mistake is named",
    arguments: [
      ([], 64, "--control"), (["--control", "/nowhere"], 64, "--kms CARD"),
      (["--control", "/nowhere", "--kms", "auto", "--kms-card", "x"], 64, "--kms-card"),
      (["--control", "/nowhere", "--kms", "card0"], 1, "card0"),
      (["--control", "/nowhere", "--kms", "/dev/dri/none"], 1, "there is no control socket /nowhere"),
      (["--control", "/nowhere", "--kms", "/a:X-1", "--kms", "/a"], 1, "/a"),
    ] as [([String], Int32, String)])
  func mistakes(_ options: [String], _ status: Int32, _ named: String) throws {
    let (ended, output) = try run(
      builtPrograms.appending("udmabridge"), ["present"] + options, withErrors: true)
    #expect(ended == status)
    #expect(output.contains(named), "\(output)")
  }

  @Test("present names a card that is not there, in one line")
  func noCard() throws {
    let directory = try makeTemporaryDirectory()
    let control = directory.appending("control")
    let helper = try Listening(
      builtPrograms.appending("vhost-user-udmabuf"), options: ["--control", control.string],
      directory: directory)
    try waitUntil("it listens") {
      FileManager.default.fileExists(atPath: helper.socket.string) || !helper.child.isRunning
    }
    let (status, output) = try run(
      builtPrograms.appending("udmabridge"),
      ["present", "--control", control.string, "--kms", "/dev/dri/none"], withErrors: true)
    #expect(status == 1)
    #expect(output.contains("/dev/dri/none") && output.split(separator: "\n").count == 1, "\(output)")
  }
}

/// A helper without a card, and what is seen of it on the card of another process.
class PresentStage {
  let helper: Listening
  private var control: FilePath { helper.directory.appending("control") }

  init(_ resolutions: [String]) throws {
    let directory = try makeTemporaryDirectory()
    helper = try Listening(
      builtPrograms.appending("vhost-user-udmabuf"),
      options: ["--control", directory.appending("control").string]
        + resolutions.flatMap { ["--resolution", $0] },
      directory: directory)
  }

  func start(
    on cards: [String] = ["auto"], _ options: [String] = [], inShell script: String? = nil
  ) throws -> (child: Child, output: PipeEnd) {
    let program = builtPrograms.appending("udmabridge")
    let words = ["present", "--control", control.string] + cards.flatMap { ["--kms", $0] } + options
    guard let script else { return try startReading(program, words, withErrors: true) }
    return try startReading("/bin/sh", ["-c", script, "sh", program.string] + words, withErrors: true)
  }

  /// The first place where the screen differs from a picture whose upper left pixel stands there.
  private func difference(_ guest: DrawingGuest, frame: UInt32, middle: Bool, head: Int) throws -> String? {
    let screen = try Screenshot.take(head: head)
    if !middle, (screen.width, screen.height) != (guest.width, guest.height) {
      return "the screen is \(screen.width)x\(screen.height)"
    }
    let (left, top) = ((screen.width - guest.width) / 2, (screen.height - guest.height) / 2)
    let wanted = guest.picture(frame)
    for y in 0..<guest.height {
      let first = ((top + y) * screen.width + left) * 3
      let row = screen.rgb[first..<first + guest.width * 3]
      // Rows repeat after 64, and what is between them is not made anew.
      if y >= 64, row == screen.rgb[first - 64 * screen.width * 3..<first - 64 * screen.width * 3 + row.count]
      {
        continue
      }
      for x in 0..<guest.width {
        let (here, there) = (first + x * 3, (y * guest.width + x) * 4)
        for channel in 0..<3 where screen.rgb[here + channel] != wanted[there + 2 - channel] {
          return "(\(x), \(y)), channel \(channel): \(screen.rgb[here + channel])"
        }
      }
    }
    return nil
  }

  func expectShown(_ guest: DrawingGuest, frame: UInt32, middle: Bool = false, head: Int = 0) throws {
    var found: String? = "nothing was compared"
    try? waitUntil("frame \(frame) is on the screen") {
      found = try difference(guest, frame: frame, middle: middle, head: head)
      return found == nil
    }
    #expect(found == nil, "frame \(frame) on head \(head)")
  }

  func holds() throws -> Int {
    let (status, output) = try run(
      builtPrograms.appending("udmabridge"), ["stats", "--control", control.string], withErrors: true)
    let line = output.split(separator: "\n").first { $0.hasPrefix("control.holds") }
    guard status == 0, let count = line?.split(separator: " ").last.flatMap({ Int($0) }) else {
      throw TroubleInTest(output)
    }
    return count
  }
}

/// There is one card: one test at a time.
@Suite(.testHost, .serialized) final class PresentTests: PresentStage {
  init() throws { try super.init(["1024x768"]) }

  @Test("the guest's own pages are on the screen, nothing is copied, and each frame counts")
  func lent() throws {
    let guest = try DrawingGuest(helper, width: 1024, height: 768)
    for id: UInt32 in 1...2 { try guest.create(id) }
    try guest.show(1, frame: 1)
    let (child, output) = try start()
    try expectShown(guest, frame: 1)
    // The same buffer again, and the other one.
    for (buffer, frame) in [(1, 2), (2, 3), (1, 4)] as [(UInt32, UInt32)] {
      try guest.show(buffer, frame: frame)
      try expectShown(guest, frame: frame)
    }
    try waitUntil("it holds 1") { try holds() == 1 }
    try guest.turnOff()
    try waitUntil("it lets go") { try holds() == 0 }
    // Nobody keeps the pages.
    try guest.unref(1)
    try guest.show(2, frame: 5)
    try expectShown(guest, frame: 5)
    child.signal(SIGTERM)
    let text = try output.readToEnd()
    #expect(child.wait() == 0)
    print("present:\n\(text)")
    #expect(text.hasPrefix("scanout 0 on Virtual-1: 1024x768 XR24, stride 4096, offset 0\n"), "\(text)")
    #expect(text.contains(" frames shown, ") && text.hasSuffix(" taken in, 0 bytes copied\n"), "\(text)")
    try waitUntil("it holds 0") { try holds() == 0 }
  }

  @Test("a size that the card has no mode for is copied into the middle of one that it has")
  func copied() throws {
    let guest = try DrawingGuest(helper)
    try guest.create(1)
    try guest.show(1, frame: 1)
    let (child, output) = try start()
    for frame: UInt32 in 2...3 {
      try expectShown(guest, frame: frame - 1, middle: true)
      try guest.show(1, frame: frame)
    }
    try expectShown(guest, frame: 3, middle: true)
    try waitUntil("it holds 0") { try holds() == 0 }
    child.signal(SIGINT)
    let text = try output.readToEnd()
    #expect(child.wait() == 0)
    #expect(text.contains(", copied: ") && !text.contains(" 0 bytes copied"), "\(text)")
  }

  @Test("a cursor that the card has no plane for is drawn into a copy, and leaves no trace when hidden")
  func cursor() throws {
    let guest = try DrawingGuest(helper, width: 1024, height: 768)
    try guest.create(1)
    try guest.show(1, frame: 1)
    let (child, output) = try start()
    try expectShown(guest, frame: 1)
    try guest.showCursor(9, x: 100, y: 50, 0xff12_3456)
    try waitUntil("the cursor is there") {
      let screen = try Screenshot.take()
      let place = (60 * screen.width + 110) * 3
      return Array(screen.rgb[place..<place + 3]) == [0x12, 0x34, 0x56]
    }
    try guest.hideCursor()
    try expectShown(guest, frame: 1)
    child.signal(SIGTERM)
    let text = try output.readToEnd()
    #expect(child.wait() == 0)
    #expect(text.contains("copied: the screen has no plane for the guest's cursor"), "\(text)")
  }

  @Test("when present is killed, its hold ends, and another one takes its place")
  func killed() throws {
    let guest = try DrawingGuest(helper, width: 1024, height: 768)
    try guest.create(1)
    try guest.show(1, frame: 1)
    let (child, _) = try start()
    try expectShown(guest, frame: 1)
    try waitUntil("it holds 1") { try holds() == 1 }
    child.signal(SIGKILL)
    child.wait()
    try waitUntil("its hold ends") { try holds() == 0 }
    let (next, output) = try start()
    try guest.show(1, frame: 2)
    try expectShown(guest, frame: 2)
    // The helper ends, and so does it.
    helper.child.signal(SIGTERM)
    #expect(helper.child.wait() == 0)
    #expect(next.wait() == 0)
    #expect(try output.readToEnd().hasSuffix(" taken in, 0 bytes copied\n"))
  }

  @Test(
    "present that was stopped while the guest freed a shown buffer shows the next frame")
  func stopped() throws {
    let guest = try DrawingGuest(helper, width: 1024, height: 768)
    for id: UInt32 in 1...2 { try guest.create(id) }
    try guest.show(1, frame: 1)
    let (child, output) = try start()
    try expectShown(guest, frame: 1)
    try child.stop()
    try guest.show(2, frame: 2)
    try guest.unref(1)
    child.signal(SIGCONT)
    try expectShown(guest, frame: 2)
    child.signal(SIGTERM)
    #expect(child.wait() == 0)
    #expect(try output.readToEnd().hasSuffix(" 0 bytes copied\n"))
  }
}

extension PresentTests {
  @Test("present is in a sandbox, unless it is told not to be", arguments: ["on", "off"])
  func sandbox(_ choice: String) throws {
    let guest = try DrawingGuest(helper, width: 1024, height: 768)
    try guest.create(1)
    try guest.show(1, frame: 1)
    // Of such an output the C library would ask whether it is a terminal.
    let (child, errors) = try start(
      ["--json", "--sandbox", choice], inShell: "exec \"$@\" >/dev/null")
    try expectShown(guest, frame: 1)
    let status = try readText(FilePath("/proc/\(child.pid)/status")).split(separator: "\n").map(String.init)
    #expect(status.contains("Seccomp:\t\(choice == "on" ? 2 : 0)"))
    #expect(status.contains("NoNewPrivs:\t\(choice == "on" ? 1 : 0)"))
    #expect(status.contains("CapEff:\t0000000000000000") == (choice == "on"))
    try guest.show(1, frame: 2)
    try expectShown(guest, frame: 2)
    child.signal(SIGTERM)
    #expect(child.wait() == 0)
    #expect(try errors.readToEnd() == "")
  }

  @Test("present loses what it holds four times, and ends with the remedy the fifth time")
  func reserve() throws {
    let guest = try DrawingGuest(helper, width: 1024, height: 768)
    try guest.create(1)
    try guest.show(1, frame: 1)
    let (child, output) = try start()
    for turn: UInt32 in 1...5 {
      try expectShown(guest, frame: turn)
      try child.stop()
      let (held, next) = (2 - turn % 2, 1 + turn % 2)
      try guest.create(next)
      try guest.show(next, frame: turn + 1)
      try guest.unref(held)
      child.signal(SIGCONT)
    }
    let text = try output.readToEnd()
    #expect(child.wait() == 1)
    #expect(text.contains("taken back once too often") && text.contains("--sandbox off"), "\(text)")
    try waitUntil("it holds 0") { try holds() == 0 }
  }
}

/// On a card with several screens that refuses the memory of guests: `qemu/boot-host --card virtio-gpu:4`.
@Suite(.testHost, .serialized) final class PresentHeadsTests: PresentStage {
  init() throws { try super.init(["1024x768", "1280x800"]) }

  @Test("each scanout is copied to a screen of its own, if the card imports nothing")
  func heads() throws {
    let guest = try DrawingGuest(helper, width: 1024, height: 768)
    try guest.create(1)
    try guest.show(1, frame: 1)
    (guest.width, guest.height) = (1280, 800)
    try guest.create(2)
    try guest.show(2, frame: 2, scanout: 1)
    let (child, output) = try start(on: ["/dev/dri/card0:Virtual-2", "/dev/dri/card0:Virtual-1"])
    try expectShown(guest, frame: 2, head: 0)
    try guest.show(2, frame: 3, scanout: 1)
    try expectShown(guest, frame: 3, head: 0)
    (guest.width, guest.height) = (1024, 768)
    try expectShown(guest, frame: 1, head: 1)
    try waitUntil("it holds 0") { try holds() == 0 }
    child.signal(SIGTERM)
    let text = try output.readToEnd()
    #expect(child.wait() == 0)
    for line in [
      "scanout 0 on Virtual-2: 1024x768 XR24", "scanout 1 on Virtual-1: 1280x800 XR24", "does not import",
    ] {
      #expect(text.contains(line), "\(text)")
    }
  }
}
