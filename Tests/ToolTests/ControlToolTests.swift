import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

/// `udmabridge snapshot`, `watch` and `stats`, beside a running helper.
@Suite struct ControlToolTests {
  private let program = builtPrograms.appending("udmabridge")
  private let helper: Listening
  private let guest: DrawingGuest
  private var socket: String { helper.control.string }

  init() throws {
    helper = try Listening.withControl()
    guest = try DrawingGuest(helper)
  }

  private var drawn: [String] {
    (0..<UInt32(48)).flatMap { y in (0..<UInt32(64)).map { x in PNGPixels.text(pixel(x, y, frame: 3)) } }
  }

  @Test("a snapshot has the guest's picture, pixel by pixel, with the cursor or without it")
  func snapshot() throws {
    let file = helper.directory.appending("picture.png")
    let arguments = ["snapshot", "--control", socket, file.string]
    let (status, output) = try run(program, arguments, withErrors: true)
    #expect(status == 1)
    #expect(output.contains("NoFrame: scanout 0") && output.split(separator: "\n").count == 1, "\(output)")

    try guest.create(1)
    try guest.show(1, frame: 3)
    #expect(try run(program, arguments, withErrors: true) == (0, ""))
    let picture = try PNGPixels(file)
    #expect(picture.size == "64x48")
    #expect(picture.values == drawn)

    // Half transparent red, partly outside.
    try guest.showCursor(2, x: -60, y: 40, 0x8080_0000)
    #expect(try run(program, arguments, withErrors: true) == (0, ""))
    let covered = try PNGPixels(file).values
    for y in 0..<UInt32(48) {
      for x in 0..<UInt32(64) {
        let below = pixel(x, y, frame: 3)
        var expected = below
        if x < 4 && y >= 40 {
          func mixed(_ shift: UInt32, _ colour: UInt32) -> UInt32 {
            min(255, ((below >> shift & 0xff) * 127 + 127) / 255 + colour) << shift
          }
          expected = mixed(16, 0x80) | mixed(8, 0) | mixed(0, 0)
        }
        #expect(covered[Int(y * 64 + x)] == PNGPixels.text(expected), "\(x), \(y)")
      }
    }
    #expect(try run(program, arguments + ["--no-cursor"], withErrors: true) == (0, ""))
    #expect(try PNGPixels(file).values == drawn)
  }

  @Test("watch prints a line for each event", arguments: [false, true])
  func watch(_ json: Bool) throws {
    try guest.create(1)
    try guest.show(1, frame: 1)
    let (child, output) = try startReading(
      program, ["watch", "--control", socket] + (json ? ["--json"] : []), withErrors: true)
    try waitUntil("it watches") { try counters()["watchers"] == 1 }
    try guest.show(1, frame: 2)
    try guest.turnOff()
    helper.child.signal(SIGTERM)
    let lines = try output.readToEnd().split(separator: "\n").map(String.init)
    #expect(child.wait() == 0)
    if json {
      let events = try lines.map { try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any] }
      #expect(events.map { $0?["event"] as? String } == ["outputs", "frame", "frame", "off", "end"])
      #expect((events[2]?["frame"] as? [String: Any])?["sequence"] as? Int == 2)
    } else {
      #expect(
        lines == [
          "output 0  headless: 1920x1080 1280x720 1024x768",
          "frame  0  1 in buffer 1 (\(kind)), 64x48 XR24, changed 64x48+0+0",
          "frame  0  2 in buffer 1 (\(kind)), 64x48 XR24, changed 64x48+0+0", "off    0", "end",
        ])
    }
  }

  /// What such a guest's buffers are on this machine.
  private var kind: String {
    FileManager.default.fileExists(atPath: "/dev/udmabuf") ? "lent" : "shadow"
  }

  @Test("watch ends after as many frames as were asked for")
  func someFrames() throws {
    try guest.create(1)
    try guest.show(1, frame: 1)
    let (status, output) = try run(program, ["watch", "--control", socket, "--frames", "1"])
    #expect(status == 0)
    #expect(output.split(separator: "\n").count == 2)
  }

  private func counters() throws -> [String: Int] {
    let (status, output) = try run(program, ["stats", "--control", socket, "--json"])
    guard status == 0 else { throw TroubleInTest(output) }
    let object = try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any]
    return object?["control"] as? [String: Int] ?? [:]
  }

  @Test("stats prints the counts of the device and of the control socket")
  func statistics() throws {
    try guest.create(1)
    for frame: UInt32 in 1...3 { try guest.show(1, frame: frame) }
    #expect(try counters()["frames"] == 3)
    let (status, output) = try run(program, ["stats", "--control", socket])
    #expect(status == 0)
    let lines = output.split(separator: "\n").map { $0.split(separator: " ").map(String.init) }
    #expect(lines.contains(["device.flushes", "3"]))
    #expect(lines.contains(["control.frames", "3"]))
    #expect(lines.contains(["control.connections", "1"]))
  }

  @Test("without a service each command ends with status 1 and names the socket")
  func nobody() throws {
    for command in [["snapshot", "/tmp/unused.png"], ["watch"], ["stats"]] {
      let (status, output) = try run(
        program, [command[0], "--control", "/nowhere/control"] + command.dropFirst(), withErrors: true)
      #expect(status == 1)
      #expect(output.contains("/nowhere/control") && output.contains("--control"), "\(output)")
    }
  }
}
