import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

/// `udmabridge record` and `snapshot --wait`, beside a running helper.
@Suite struct RecordTests {
  private let program = builtPrograms.appending("udmabridge")
  private let helper: Listening
  private let guest: DrawingGuest
  private var socket: String { helper.control.string }
  private func file(_ name: String) -> FilePath { helper.directory.appending(name) }

  init() throws {
    helper = try Listening.withControl()
    guest = try DrawingGuest(helper)
    try guest.create(1)
  }

  private func start(_ options: [String]) throws -> (child: Child, output: PipeEnd) {
    try startReading(program, ["record", "--control", socket] + options, withErrors: true)
  }

  private func line(_ output: PipeEnd) throws -> [String: Any] {
    let line = try output.readLine() ?? ""
    guard let object = try? JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any] else {
      throw TroubleInTest("no JSON: \(line)")
    }
    return object
  }

  /// What `PNGPixels` says of a picture that the guest draws.
  private func drawn(_ frame: UInt32) -> [String] {
    (0..<UInt32(guest.height)).flatMap { y in
      (0..<UInt32(guest.width)).map { x in PNGPixels.text(pixel(x % 64, y % 64, frame: frame)) }
    }
  }

  @Test("each change is a picture and a line, and what shows the same again is neither")
  func pictures() throws {
    let (child, output) = try start(["--output", file("pictures").string])
    var times: [Double] = []
    // The second of two equal ones is no change.
    for (number, frame) in [(1, 1), (2, 2), (nil, 2), (3, 3)] as [(Int?, UInt32)] {
      try guest.show(1, frame: frame)
      guard let number else { continue }
      let said = try line(output)
      let name = "00000\(number).png"
      #expect(said["event"] as? String == "picture" && said["number"] as? Int == number)
      #expect(said["width"] as? Int == 64 && said["height"] as? Int == 48 && said["file"] as? String == name)
      times.append(try #require(said["time"] as? Double))
      let found = try PNGPixels(file("pictures").appending(name))
      #expect(found.size == "64x48" && found.values == drawn(frame))
    }
    #expect(times == times.sorted())
    try guest.turnOff()
    #expect(try line(output)["event"] as? String == "dark")
    helper.child.signal(SIGTERM)
    let end = try line(output)
    #expect(end["event"] as? String == "end" && end["reason"] as? String == "ended")
    #expect(end["number"] as? Int == 3)
    #expect(child.wait() == 0)
    #expect(directoryEntries(file("pictures")).count == 3)
  }

  @Test("a flush of a part changes that part alone in the next picture")
  func parts() throws {
    guest.width = 128
    try guest.create(2)
    let (child, output) = try start(["--output", file("pictures").string, "--count", "2"])
    try guest.show(2, frame: 1)
    #expect(try line(output)["width"] as? Int == 128)
    // All is drawn, and the guest says so of a part of it.
    try guest.draw(2, frame: 5)
    try guest.flush(2, x: 8, y: 4, width: 16, height: 20)
    #expect(try line(output)["number"] as? Int == 2)
    #expect(try line(output)["reason"] as? String == "count")
    #expect(child.wait() == 0)
    let found = try PNGPixels(file("pictures/000002.png")).values
    for (index, value) in found.enumerated() {
      let (x, y) = (UInt32(index % 128), UInt32(index / 128))
      let isNew = (8..<24).contains(x) && (4..<24).contains(y)
      #expect(value == PNGPixels.text(pixel(x % 64, y, frame: isNew ? 5 : 1)), "\(x), \(y)")
    }
  }

  @Test("a cursor that comes, moves and goes makes pictures, unless it is left out")
  func cursor() throws {
    try guest.show(1, frame: 3)
    let (child, output) = try start(["--output", file("with").string])
    let (other, without) = try start(["--output", file("without").string, "--no-cursor"])
    for recording in [output, without] { #expect(try line(recording)["number"] as? Int == 1) }
    // Opaque, in the lower right corner.
    try guest.showCursor(2, x: 60, y: 46, 0xff12_3456)
    #expect(try line(output)["number"] as? Int == 2)
    let found = try PNGPixels(file("with/000002.png")).values
    for (index, (value, below)) in zip(found, drawn(3)).enumerated() {
      #expect(value == (index % 64 >= 60 && index / 64 >= 46 ? "123456ff" : below))
    }
    try guest.hideCursor()
    #expect(try line(output)["number"] as? Int == 3)
    #expect(try PNGPixels(file("with/000003.png")).values == drawn(3))
    // What comes after all that is the second picture of the one without.
    try guest.show(1, frame: 4)
    #expect(try line(without)["number"] as? Int == 2)
    #expect(try PNGPixels(file("without/000002.png")).values == drawn(4))
    for process in [child, other] {
      process.signal(SIGTERM)
      #expect(process.wait() == 0)
    }
  }

  @Test("a signal ends record with status 0, or with 1 if it was to wait for something")
  func signals() throws {
    try guest.show(1, frame: 1)
    for (options, status, phrase) in [
      ([], 0, nil), (["--until-still", "4000000"], 1, "stopped before that"),
    ] as [([String], Int32, String?)] {
      let (child, output) = try start(options)
      #expect(try line(output)["number"] as? Int == 1)
      child.signal(SIGINT)
      #expect(try line(output)["reason"] as? String == "stopped")
      let rest = try output.readToEnd()
      #expect(child.wait() == status)
      #expect(phrase.map { rest.contains($0) } ?? rest.isEmpty, "\(rest)")
    }
  }

  @Test("record ends when the picture, or a part of it, has not changed for a time")
  func still() throws {
    try guest.show(1, frame: 1)
    for region in [[], ["--region", "8,8,16x16"]] {
      let (child, output) = try start(["--until-still", "0.2"] + region)
      #expect(try line(output)["number"] as? Int == 1)
      let end = try line(output)
      #expect(end["reason"] as? String == "still" && end["number"] as? Int == 1)
      #expect(child.wait() == 0)
    }
  }

  private struct Match: CustomTestStringConvertible {
    let testDescription: String
    /// In Python: what becomes of `p`, the bytes of the picture that the guest shows, of which a row has 256.
    var change = ""
    /// Which part of it is the PNG, for Python.
    var crop = "0, 0, 64, 48"
    var options: [String] = []
    /// What is said when it does not match.
    var phrase: String?
  }

  private static let matches: [Match] = [
    Match(testDescription: "the same"),
    Match(
      testDescription: "other pixels", change: "p[0] ^= 64; p[4] ^= 1",
      phrase: "2 pixels differ, by up to 64 of 255"),
    Match(testDescription: "within the tolerance", change: "p[0] ^= 64", options: ["--tolerance", "64"]),
    Match(
      testDescription: "beyond the tolerance", change: "p[0] ^= 64", options: ["--tolerance", "63"],
      phrase: "1 pixel differs, by up to 64 of 255"),
    Match(testDescription: "outside the region", change: "p[0] ^= 64", options: ["--region", "1,0,63x48"]),
    Match(testDescription: "the part alone", crop: "8, 4, 16, 20", options: ["--region", "8,4,16x20"]),
    Match(testDescription: "under a transparent pixel", change: "p[0] ^= 64; p[3] = 0"),
    Match(testDescription: "another size", crop: "0, 0, 63, 48", phrase: "it is 64x48"),
  ]

  @Test("record ends with the picture that it waits for, or says what is different", arguments: matches)
  private func match(_ match: Match) throws {
    try guest.show(1, frame: 7)
    let wanted = file("wanted.png")
    let (made, said) = try run(
      program, ["snapshot", "--control", socket, file("shown.png").string], withErrors: true)
    #expect((made, said) == (0, ""))
    try PNGPixels.rewrite(file("shown.png"), as: wanted, change: match.change, crop: match.crop)
    let options = ["--until-match", wanted.string] + match.options
    if let phrase = match.phrase {
      let (child, output) = try start(options + ["--timeout", "1"])
      #expect(try line(output)["number"] as? Int == 1)
      #expect(try line(output)["reason"] as? String == "timeout")
      let text = try output.readToEnd()
      #expect(child.wait() == 3)
      #expect(text.contains("not within 1 s") && text.contains(phrase), "\(text)")
    } else {
      let (child, output) = try start(options)
      #expect(try line(output)["number"] as? Int == 1)
      #expect(try line(output)["reason"] as? String == "match")
      #expect(child.wait() == 0)
    }
  }

  @Test(
    "snapshot --wait takes the first picture, or the one that is waited for, or the last one")
  func waiting() throws {
    func snapshot(_ options: [String], _ name: String) throws -> (child: Child, output: PipeEnd) {
      try startReading(
        program, ["snapshot", "--control", socket, "--wait", file(name).string] + options, withErrors: true)
    }
    let first = try snapshot([], "first.png")
    try waitUntil("it watches") { try watchers() == 1 }
    try guest.show(1, frame: 1)
    #expect(try first.output.readToEnd() == "" && first.child.wait() == 0)
    #expect(try PNGPixels(file("first.png")).values == drawn(1))

    try guest.show(1, frame: 2)
    let matching = try snapshot(["--until-match", file("first.png").string], "match.png")
    try waitUntil("it watches") { try watchers() == 1 }
    try guest.show(1, frame: 1)
    #expect(try matching.output.readToEnd() == "" && matching.child.wait() == 0)
    #expect(try PNGPixels(file("match.png")).values == drawn(1))

    try guest.show(1, frame: 3)
    let late = try snapshot(["--until-match", file("first.png").string, "--timeout", "1"], "late.png")
    let text = try late.output.readToEnd()
    #expect(late.child.wait() == 3)
    #expect(text.contains("no picture was like") && text.split(separator: "\n").count == 1, "\(text)")
    #expect(try PNGPixels(file("late.png")).values == drawn(3))
  }

  private func watchers() throws -> Int {
    let (status, output) = try run(program, ["stats", "--control", socket, "--json"])
    let object = try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any]
    guard status == 0, let count = (object?["control"] as? [String: Any])?["watchers"] as? Int else {
      throw TroubleInTest(output)
    }
    return count
  }

  /// Runs a recording by a shell, whose standard output goes where `target` says; the file then has it.
  private func recorded(_ options: String, _ target: String) throws -> (status: Int32, bytes: [UInt8]) {
    let path = file("video")
    let (status, output) = try run(
      "/bin/bash",
      ["-c", "set -o pipefail; '\(program)' record --control '\(socket)' \(options) \(target) '\(path)'"],
      withErrors: true)
    if status != 0 { print(output) }
    return (status, Array(try Data(contentsOf: URL(fileURLWithPath: path.string))))
  }

  @Test("a video has its header, and as many pictures as were wanted", arguments: [">", "| cat >"])
  func video(_ target: String) throws {
    try guest.show(1, frame: 9)
    let (status, bytes) = try recorded("--format y4m --rate 50 --count 5", target)
    #expect(status == 0)
    let header = Array("YUV4MPEG2 W64 H48 F50:1 Ip A1:1 C444 XCOLORRANGE=LIMITED XUDMABRIDGE=BT709\n".utf8)
    #expect(bytes.prefix(header.count) == header[...])
    let (line, count) = (Array("FRAME\n".utf8), 64 * 48)
    #expect(bytes.count == header.count + 5 * (line.count + 3 * count))
    for number in 0..<5 {
      let start = header.count + number * (line.count + 3 * count)
      guard bytes[start...].starts(with: line) else {
        Issue.record("picture \(number) does not begin where it should")
        continue
      }
      for index in 0..<count {
        let colour = pixel(UInt32(index % 64), UInt32(index / 64), frame: 9)
        let (r, g, b) = (
          Double(colour >> 16 & 0xff) / 255, Double(colour >> 8 & 0xff) / 255, Double(colour & 0xff) / 255
        )
        let luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
        let wanted = [219 * luma + 16, 224 * ((b - luma) / 1.8556) + 128, 224 * ((r - luma) / 1.5748) + 128]
        for plane in 0..<3 {
          let found = Double(bytes[start + line.count + plane * count + index])
          #expect(abs(found - wanted[plane]) <= 0.501, "picture \(number), plane \(plane), pixel \(index)")
        }
      }
    }
  }

  @Test("raw pictures are bytes of red, green, blue and 255, in the middle of a larger video")
  func raw() throws {
    try guest.show(1, frame: 9)
    // Two periods of 0.1 s, and a begun third one.
    let (status, bytes) = try recorded("--format raw --size 66x50 --rate 10 --for 0.25", "| cat >")
    #expect(status == 0 && bytes.count == 3 * 66 * 50 * 4)
    for index in 0..<66 * 50 where bytes.count == 3 * 66 * 50 * 4 {
      let (x, y) = (index % 66 - 1, index / 66 - 1)
      let isInside = (0..<64).contains(x) && (0..<48).contains(y)
      let colour = isInside ? pixel(UInt32(x), UInt32(y), frame: 9) : 0
      let wanted = [UInt8(colour >> 16), UInt8(colour >> 8 & 0xff), UInt8(colour & 0xff), 255]
      for number in 0..<3 {
        let start = (number * 66 * 50 + index) * 4
        #expect(Array(bytes[start..<start + 4]) == wanted, "picture \(number): \(x), \(y)")
      }
    }
  }

  @Test("a video goes on when the guest changes its size or shows nothing, and ends with its last picture")
  func changes() throws {
    try guest.show(1, frame: 1)
    let (child, output) = try startReading(
      "/bin/bash",
      [
        "-c",
        "'\(program)' record --control '\(socket)' --format raw --size 64x48 --rate 100 >'\(file("video"))'",
      ], withErrors: true)
    func size() -> Int { (try? Data(contentsOf: URL(fileURLWithPath: file("video").string)).count) ?? 0 }
    let one = 64 * 48 * 4
    func waitForMore() throws {
      let before = size()
      try waitUntil("more pictures come") { size() >= before + 3 * one }
    }
    try waitForMore()
    try guest.turnOff()
    try waitForMore()
    (guest.width, guest.height) = (128, 96)
    try guest.create(2)
    try guest.show(2, frame: 2)
    try waitForMore()
    helper.child.signal(SIGTERM)
    let text = try output.readToEnd()
    #expect(child.wait() == 0)
    #expect(
      text.contains("128x96") && text.contains("--size") && text.split(separator: "\n").count == 1, "\(text)")
    let video = Array(try Data(contentsOf: URL(fileURLWithPath: file("video").string)))
    #expect(video.count % one == 0)
    func bytes(_ colour: (Int, Int) -> UInt32) -> [UInt8] {
      (0..<48).flatMap { y in
        (0..<64).flatMap { x in
          let colour = colour(x, y)
          return [UInt8(colour >> 16 & 0xff), UInt8(colour >> 8 & 0xff), UInt8(colour & 0xff), 255]
        }
      }
    }
    let shown = [
      bytes { pixel(UInt32($0), UInt32($1), frame: 1) }, bytes { _, _ in 0 },
      // The middle of a picture of twice the size.
      bytes { pixel(UInt32($0 + 32) % 64, UInt32($1 + 24) % 64, frame: 2) },
    ]
    var order: [Int] = []
    for start in stride(from: 0, to: video.count, by: one) {
      let found = shown.firstIndex(of: Array(video[start..<start + one]))
      if order.last != found ?? -1 { order.append(found ?? -1) }
    }
    // Dark once more, while the helper has ended but for its last word, it need not be.
    #expect(order == [0, 1, 2] || order == [0, 1, 2, 1], "\(order)")
  }

  @Test(
    "a wrong command line of record or snapshot has its status, and the mistake is named",
    arguments: [
      ("record", [], 64, "--control"),
      ("record", ["--control", "/nowhere"], 1, "no control socket /nowhere"),
      ("record", ["--control", "/nowhere", "--format", "raw"], 64, "--size WxH"),
      ("record", ["--control", "/nowhere", "--format", "y4m", "--output", "/tmp"], 64, "--output"),
      ("record", ["--control", "/nowhere", "--size", "1x1"], 64, "--size"),
      ("record", ["--control", "/nowhere", "--rate", "0"], 64, "--rate"),
      ("record", ["--control", "/nowhere", "--count", "0"], 64, "--count"),
      ("record", ["--control", "/nowhere", "--for", "0"], 64, "--for"),
      ("record", ["--control", "/nowhere", "--timeout", "-1"], 64, "--timeout"),
      ("record", ["--control", "/nowhere", "--region", "0,0,1x1"], 64, "--until-match"),
      ("record", ["--control", "/nowhere", "--until-still", "1", "--region", "1x1"], 64, "--region"),
      ("record", ["--control", "/nowhere", "--tolerance", "1"], 64, "--until-match"),
      ("record", ["--control", "/nowhere", "--until-match", "/n.png", "--tolerance", "256"], 64, "255"),
      ("record", ["--control", "/nowhere", "--until-match", "/n.png"], 1, "/n.png cannot be read"),
      ("record", ["--control", "/nowhere", "--until-match", "/dev/null"], 1, "/dev/null is no PNG"),
      ("record", ["--control", "/nowhere", "--output", "/dev/null/pictures"], 1, "/dev/null/pictures"),
      ("snapshot", ["--control", "/nowhere", "/x.png", "--timeout", "1"], 64, "--wait"),
      ("snapshot", ["--control", "/nowhere", "/x.png", "--buffer", "1:1", "--wait"], 64, "--"),
      ("snapshot", ["--control", "/nowhere", "/x.png", "--wait"], 1, "no control socket /nowhere"),
    ] as [(String, [String], Int32, String)])
  func mistakes(_ command: String, _ options: [String], _ status: Int32, _ named: String) throws {
    let (ended, output) = try run(program, [command] + options, withErrors: true)
    #expect(ended == status && output.contains(named), "\(output)")
  }
}
