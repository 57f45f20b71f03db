import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

private let tree = testCache.appending("gstreamer")
private let isFetched = FileManager.default.fileExists(atPath: tree.appending("usr/.done-1").string)

/// `udmabridge stream`, and a pipeline of GStreamer's own.
@Suite(.serialized, .enabled(if: isFetched, "qemu/setup --gstreamer"))
struct GStreamerTests {
  private let program = builtPrograms.appending("udmabridge")
  private let helper: Listening
  private var stream: FilePath { helper.directory.appending("stream") }

  init() throws {
    helper = try Listening.withControl()
  }

  private func start() throws -> (child: Child, output: PipeEnd) {
    let control = helper.control.string
    let (child, output) = try startReading(
      program, ["stream", "--control", control, "--to", "unixfd:\(stream)"], withErrors: true)
    try waitUntil("it listens") {
      FileManager.default.fileExists(atPath: stream.string) || !child.isRunning
    }
    return (child, output)
  }

  /// A pipeline that reads the stream.
  private func launch(_ elements: String) throws -> (child: Child, output: PipeEnd) {
    // What it has learned of its plugins is not kept.
    let script =
      "GST_REGISTRY=\(helper.directory)/registry exec \(repository)/qemu/lib/with-displays --tree \(tree) "
      + "gst-launch-1.0 -q unixfdsrc socket-path=\(stream) ! \(elements)"
    return try startReading("/bin/sh", ["-c", script], withErrors: true)
  }

  private func size(_ file: FilePath) -> Int { (try? FileStatus(of: file)).map { Int($0.size) } ?? 0 }

  /// Red, green and blue of each pixel.
  private func colours(_ picture: [UInt8]) -> [UInt8] {
    var colours: [UInt8] = []
    for place in stride(from: 0, to: picture.count, by: 4) {
      colours += [picture[place + 2], picture[place + 1], picture[place]]
    }
    return colours
  }

  @Test("the pipeline writes each picture, pixel by pixel, and ends with the helper")
  func pictures() throws {
    let guest = try DrawingGuest(helper, width: 128, height: 64)
    for id: UInt32 in 1...2 { try guest.create(id) }
    var wanted = colours(try guest.show(1, frame: 1))
    let (child, output) = try start()
    let file = helper.directory.appending("frames")
    let (pipeline, errors) = try launch(
      "videoconvert ! video/x-raw,format=RGB ! filesink buffer-mode=unbuffered location=\(file)")
    for frame: UInt32 in 2...60 {
      try waitUntil("picture \(frame - 1) is written") {
        size(file) >= wanted.count || !pipeline.isRunning || !child.isRunning
      }
      wanted += colours(try guest.show(1 + frame % 2, frame: frame))
    }
    try waitUntil("all are written") { size(file) >= wanted.count || !pipeline.isRunning }
    helper.child.signal(SIGTERM)
    #expect(try errors.readToEnd() == "")
    #expect(pipeline.wait() == 0)
    let text = try output.readToEnd()
    #expect(child.wait() == 0)
    print("stream:\n\(text)")
    #expect(
      text.contains("60 frames; 1 client, 0 refused: 60 sent, 0 skipped, 0 overdue; 0 copied"), "\(text)")
    let written = [UInt8](try Data(contentsOf: URL(fileURLWithPath: file.string)))
    #expect(written.count == wanted.count)
    #expect(written == wanted)
  }

  @Test("the pipeline goes on with another size when the guest changes its mode")
  func otherSize() throws {
    let guest = try DrawingGuest(helper, width: 128, height: 64)
    try guest.create(1)
    var wanted = colours(try guest.show(1, frame: 1))
    let (child, output) = try start()
    let file = helper.directory.appending("frames")
    let (pipeline, errors) = try launch(
      "videoconvert ! video/x-raw,format=RGB ! filesink buffer-mode=unbuffered location=\(file)")
    try waitUntil("it is written") { size(file) >= wanted.count || !pipeline.isRunning }
    (guest.width, guest.height) = (64, 48)
    try guest.create(2)
    wanted += colours(try guest.show(2, frame: 2))
    try waitUntil("the other one is written") { size(file) >= wanted.count || !pipeline.isRunning }
    child.signal(SIGTERM)
    #expect(try errors.readToEnd() == "")
    #expect(pipeline.wait() == 0)
    #expect(child.wait() == 0)
    #expect([UInt8](try Data(contentsOf: URL(fileURLWithPath: file.string))) == wanted)
    #expect(try output.readToEnd().contains("2 sent, 0 skipped"))
  }
}
