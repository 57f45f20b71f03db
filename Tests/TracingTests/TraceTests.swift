import Fixtures
import Foundation
import Guest
import Linux
import Scanout
import SystemPackage
import TestSupport
import Testing

@testable import Tracing

/// What a trace says, as events or as the error.
private func read(_ text: String, pieces: Int = .max) -> (events: [TraceEvent], error: TraceError?) {
  var (parser, events) = (TraceParser(), [TraceEvent]())
  var rest = Array(text.utf8)[...]
  do {
    while !rest.isEmpty {
      try parser.feed(rest.prefix(pieces)) { events.append($1) }
      rest = rest.dropFirst(pieces)
    }
    try parser.finish()
    return (events, nil)
  } catch { return (events, error as? TraceError) }
}

/// The text of a trace, and its way back.
@Suite struct TraceTests {
  private static let resource = TracedResource(device: 2, number: .max)

  private static let all: [TraceEvent] = [
    .memory([
      LayoutLine(address: GuestAddress(0), length: 0x1000, memory: "a b", offset: 0, isSealed: true),
      LayoutLine(
        address: GuestAddress(1 << 40), length: 1, memory: "c", offset: .max - 1, isSealed: false),
    ]),
    .start(device: 1), .image(resource, width: 65535, height: 1, .xrgb8888), .blob(resource, bytes: 1 << 46),
    .hostBlob(resource, bytes: 1),
    .attach(
      resource,
      [
        GuestRange(address: GuestAddress(0x1000), length: 0x1000),
        GuestRange(address: GuestAddress(.max), length: 0xffff_ffff),
        GuestRange(address: GuestAddress(0), length: 0),
      ]), .scanout(15, resource, Rectangle(x: .max, y: 2, width: 3, height: 4)),
    .blobScanout(
      0, resource, Rectangle(x: 0, y: 0, width: 0, height: 0),
      FrameLayout(width: 64, height: 48, format: .abgr8888, stride: .max, offset: 17)),
    .flush(resource, Rectangle(x: 0, y: 0, width: 64, height: 48)),
    .lend(.max, resource, offset: 0, bytes: 4096), .giveBack(.max), .scanoutOff(3, device: 0),
    .detach(resource), .destroy(resource), .end(.full),
  ]

  @Test("a trace is read as it was written, however it is cut into pieces", arguments: [1, 7, Int.max])
  func roundTrip(_ pieces: Int) throws {
    var text = Array(TraceEvent.header.utf8)
    for event in Self.all { event.write(to: &text) }
    let (events, error) = read(String(decoding: text, as: UTF8.self), pieces: pieces)
    #expect(events == Self.all && error == nil)
  }

  @Test("of a trace that is cut off all whole events are read")
  func cutOff() {
    let whole = "udmabridge-trace 1\nimage 0/1 64x48 XR24\nflush 0/1 64x48+0+0\n"
    for rest in ["", "detach 0/1", "attach 0/1 2\n0x1000:0x1000\n", "memory 1\n"] {
      let (events, error) = read(whole + rest)
      #expect(events.count == 2 && error == nil, "\(rest)")
    }
  }

  struct Bad: Sendable, CustomTestStringConvertible {
    /// After the header, if it does not begin with one.
    let text: String
    let line: Int
    let words: [String]
    var testDescription: String { String(text.prefix(60)) }

    init(_ text: String, line: Int = 2, _ words: String...) {
      (self.text, self.line, self.words) = (text, line, words)
    }
  }

  @Test(
    "a wrong line of a trace is refused by its number, with the value and the limit",
    arguments: [
      Bad("udmabridge-trace 2\n", line: 1, "«udmabridge-trace 2»", "udmabridge-trace 1"),
      Bad("udmabridge-trace 1 \n", line: 1, "udmabridge-trace 1"),
      Bad("\u{1b}[2J\n", line: 1, "«?[2J»"),
      Bad("\n", "a word is missing"),
      Bad("draw 0/1\n", "«draw»", "docs/tool.md"),
      Bad("start\n", "device is missing"),
      Bad("start 3\n", "device «3»", "from 0 to 2"),
      Bad("start -1\n", "device «-1»", "from 0 to 2"),
      Bad("start 0 0\n", "«0» is a word too many"),
      Bad("destroy 1\n", "DEVICE/RESOURCE"),
      Bad("destroy 3/1\n", "device «3»", "from 0 to 2"),
      Bad("destroy 0/0\n", "resource «0»", "from 1 to 4294967295"),
      Bad("destroy 0/4294967296\n", "resource «4294967296»", "from 1 to 4294967295"),
      Bad("destroy 0/99999999999999999999999\n", "resource «99999999999999999999999»"),
      Bad("image 0/1 0x48 XR24\n", "width «0»", "from 1 to 65535"),
      Bad("image 0/1 64x65536 XR24\n", "height «65536»", "from 1 to 65535"),
      Bad("image 0/1 64 XR24\n", "WIDTHxHEIGHT"),
      Bad("image 0/1 64x48 RG16\n", "«RG16»", "XR24"),
      Bad("image 0/1 64x48 XR2\n", "«XR2»"),
      Bad("image 0/1 64x48\n", "a format is missing"),
      Bad("blob 0/1 0\n", "bytes «0»", "from 1 to 70368744177664"),
      Bad("host-blob 0/1 64T1\n", "bytes «64T1»"),
      Bad("blob 0/1 65T\n", "bytes «65T»"),
      Bad("attach 0/1 0\n", "entries «0»", "from 1 to 16777216"),
      Bad("attach 0/1 16777217\n", "entries «16777217»", "from 1 to 16777216"),
      Bad("attach 0/1 2\n0:4K\ndestroy 0/1\n", line: 4, "«destroy 0/1»", "entry 2 of 2"),
      Bad("attach 0/1 1\n0\n", line: 3, "entry 1 of 1"),
      Bad("attach 0/1 1\n0x10000000000000000:1\n", line: 3, "entry 1 of 1"),
      Bad("0x1000:0x1000\n", "is no word that a line begins with"),
      Bad("memory 0\n", "parts «0»", "from 1 to 509"),
      Bad("memory 510\n", "parts «510»", "from 1 to 509"),
      Bad("memory 1\n0:0 mem\n", line: 3, "part 1 of 1"),
      Bad("memory 1\n0xfffffffffffff000:8K mem\n", line: 3, "part 1 of 1"),
      Bad("memory 1\n0:4K mem 0xfffffffffffff001\n", line: 3, "part 1 of 1"),
      Bad("memory 2\n0:4K mem\nend full\n", line: 4, "part 2 of 2"),
      Bad("scanout 16 0/1 1x1+0+0\n", "scanout «16»", "from 0 to 15"),
      Bad("scanout 0 0/1 1x1+0\n", "WIDTHxHEIGHT+X+Y"),
      Bad("scanout 0 0/1 1x1+4294967296+0\n", "x «4294967296»", "from 0 to 4294967295"),
      Bad("blob-scanout 0 0/1 1x1+0+0 1x1 XR24 4294967296 0\n", "stride «4294967296»"),
      Bad("blob-scanout 0 0/1 1x1+0+0 1x1 XR24 4\n", "offset is missing"),
      Bad("off 0 16\n", "scanout «16»"),
      Bad("lend 18446744073709551616 0/1 0 1\n", "number «18446744073709551616»"),
      Bad("lend 0 0/1 0 0\n", "bytes «0»"),
      Bad("end\n", "stopped or full is missing"),
      Bad("end soon\n", "not soon"),
      Bad("end full\nstart 0\n", line: 3, "has ended"),
      Bad(String(repeating: "x", count: 161), "more than 160 bytes"),
      Bad("start 0 # a comment\n", "«#» is a word too many"),
    ])
  func refuses(_ bad: Bad) throws {
    let text = bad.line == 1 ? bad.text : TraceEvent.header + bad.text
    let error = try #require(read(text).error)
    #expect(error.line == bad.line)
    for word in bad.words { #expect(error.what.contains(word), "\(error)") }
    #expect(read(text, pieces: 1).error == error)
  }

  @Test("an empty file is no trace")
  func empty() throws {
    #expect(try #require(read("").error).what.contains("empty"))
    #expect(try #require(read("udmabridge-trace 1").error).what.contains("cut off"))
  }

  /// A writer into a file of a directory of its own.
  private func written(
    limit: UInt64, _ body: (TraceWriter) throws -> Void
  ) throws -> (text: String, stops: [TraceWriter.Stop]) {
    let directory = try makeTemporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory.string) }
    let path = directory.appending("trace")
    var stops: [TraceWriter.Stop] = []
    let writer = TraceWriter(try FD.create(path), limit: limit) { stops.append($0) }
    try body(writer)
    return (try readText(path), stops)
  }

  @Test(
    "a trace never exceeds its limit, and says that it ended there", arguments: [4096, 4103, 200_000])
  func bound(_ limit: Int) throws {
    let ram = try GuestRAM.likeQEMU()
    let list = (0..<20).map { GuestRange(address: GuestAddress($0 * 0x2000), length: 0x1000) }
    let (text, stops) = try written(limit: UInt64(limit)) { writer in
      let trace = DeviceTrace(writer, device: 0)
      trace.image(1, FrameLayout(width: 64, height: 48, format: .xrgb8888, stride: 256))
      for _ in 0..<10_000 {
        trace.attach(1, list, ram.memory)
        trace.detach(1)
      }
      writer.end()
    }
    #expect(text.utf8.count <= limit && text.utf8.count > limit - 1000)
    #expect(stops.count == 1)
    guard case .full(UInt64(limit)) = stops.first else { throw TroubleInTest("\(stops)") }
    let (events, error) = read(text)
    #expect(error == nil && events.last == .end(.full))
    // The memory is there once, before the first list.
    #expect(events.count { if case .memory = $0 { true } else { false } } == 1)
    #expect(events.contains(.attach(TracedResource(device: 0, number: 1), list)))
  }

  @Test("a list longer than the writer's buffer is written whole")
  func longList() throws {
    let ram = try GuestRAM.likeQEMU()
    let list = (0..<20_000).map { GuestRange(address: GuestAddress($0 * 0x2000), length: 0x1000) }
    let (text, stops) = try written(limit: 1 << 20) { writer in
      DeviceTrace(writer, device: 1).attach(7, list, ram.memory)
      writer.end()
    }
    #expect(stops.isEmpty)
    let events = read(text).events
    #expect(events.dropFirst() == [.attach(TracedResource(device: 1, number: 7), list), .end(.stopped)])
  }

  @Test("a file that takes nothing ends the trace once")
  func full() throws {
    var stops: [TraceWriter.Stop] = []
    let writer = TraceWriter(try FD.open("/dev/full", writable: true), limit: 1 << 20) { stops.append($0) }
    writer.write(.start(device: 0))
    writer.flush()
    writer.write(.start(device: 0))
    writer.end()
    #expect(stops.count == 1)
    guard case .failed(.noSpace) = stops.first else { throw TroubleInTest("\(stops)") }
  }
}
