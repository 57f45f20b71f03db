import Linux
import Metrics
import SystemPackage
import Testing
import Varlink

@testable import udmabridge

/// The rows of `udmabridge top`, and what its options and those of `metrics` take.
@Suite struct TopTests {
  private static let start = Instant.now

  private func reading(
    _ device: [String: HelperCount], of domain: String = "web", after: TimeSpan = .zero
  ) -> HelperReading {
    HelperReading(
      HelperPlace(domain: domain, control: "/control"), began: Self.start + after, duration: .zero,
      .success(.group(["device": .group(device), "control": .group(["holds": .number(2)])])))
  }

  @Test("counts become rates between two readings, and other numbers stay")
  func rates() {
    let before = reading(["framesShown": .number(100), "bytesCopied": .number(0), "framesFailed": .number(7)])
    let now = reading(
      [
        "framesShown": .number(130), "bytesCopied": .number(1 << 20), "framesFailed": .number(7),
        "framesCoalesced": .number(5), "pinnedBytes": .number(4096), "liveDMABufs": .number(3),
        "protocolErrors": .group(["format": .number(2), "quota": .number(3)]),
      ], after: .milliseconds(500))
    let row = TopRow(now, before: before)
    #expect(row.frames == 60 && row.copied == Double(2 << 20) && row.failed == 0)
    // Without a number before it.
    #expect(row.coalesced == nil)
    #expect(row.pinned == 4096 && row.buffers == 3 && row.holds == 2 && row.errors == 5 && row.copies == nil)
    #expect(row.silence == nil)
  }

  @Test("there is no rate without a reading before, a time between, or a count that grows")
  func noRates() {
    let (old, new) = (
      reading(["framesShown": .number(5)]), reading(["framesShown": .number(4)], after: .seconds(1))
    )
    #expect(TopRow(new, before: nil).frames == nil)
    #expect(TopRow(new, before: old).frames == nil)
    #expect(TopRow(old, before: old).frames == nil)
    let silent = HelperReading(
      HelperPlace(domain: "web", control: "/control"), began: Self.start, duration: .zero,
      .failure(.late(.seconds(1))))
    #expect(TopRow(new, before: silent).frames == nil)
    let row = TopRow(silent, before: old)
    #expect(row.frames == nil && row.pinned == nil && row.silence?.contains("not answered") == true)
  }

  @Test("a sum of mistakes that cannot be counted is the largest number")
  func overflow() {
    let row = TopRow(
      reading(["protocolErrors": .group(["a": .number(.max), "b": .number(3)])]), before: nil)
    #expect(row.errors == .max)
  }

  private func row(_ domain: String, frames: Double? = nil, pinned: UInt64? = nil, silence: String? = nil)
    -> TopRow
  {
    var row = TopRow(reading([:], of: domain), before: nil)
    (row.frames, row.pinned, row.silence) = (frames, pinned, silence)
    return row
  }

  @Test(
    "rows are sorted by the largest number, and silent helpers come last",
    arguments: [
      (TopOrder.frames, ["c", "a", "b", "d", "x"]), (.pinned, ["b", "a", "c", "d", "x"]),
      (.domain, ["a", "b", "c", "d", "x"]), (.holds, ["a", "b", "c", "d", "x"]),
    ])
  func sorting(_ order: TopOrder, _ expected: [String]) {
    let rows = [
      row("x", frames: 99, pinned: 99, silence: "why"), row("d"), row("b", frames: 0, pinned: 3),
      row("a", frames: 1, pinned: 2), row("c", frames: 60, pinned: 1),
    ]
    #expect(order.sorted(rows).map(\.domain) == expected)
  }

  @Test("a table's columns are aligned, and control characters in names are escaped")
  func table() {
    var shown = row("a\u{1b}[2J", frames: 59.96, pinned: 8_294_400)
    (shown.coalesced, shown.failed, shown.copied, shown.copies) = (0.04, 0, 1536.4, 0)
    (shown.buffers, shown.errors) = (2, 0)
    let silent = TopRow(
      HelperReading(
        HelperPlace(domain: "mail", control: "/control"), began: Self.start, duration: .zero,
        .failure(.late(.seconds(1)))), before: nil)
    let lines = TopTable(rows: [shown, silent]).lines
    let cells = lines.map { line in
      line.split(separator: #/  +/#).map { $0.trimmingPrefix(" ") }.map(String.init)
    }
    #expect(
      cells == [
        [
          "DOMAIN", "FRAMES/S", "COALESCED/S", "FAILED/S", "COPIED/S", "PINNED", "COPIES", "BUFFERS", "HOLDS",
          "ERRORS",
        ],
        [#"a\u{1b}[2J"#, "60.0", "0.0", "0.0", "1.5 KiB", "7.9 MiB", "0 bytes", "2", "2", "0"],
        ["mail"] + Array(repeating: "-", count: 9)
          + ["the helper has not answered in 1 s: it is stopped, or too busy"],
      ])
    // Numbers end where their titles do.
    #expect(lines[0].hasSuffix("ERRORS") && lines[0].count == lines[1].count)
  }

  @Test(
    "an address for scrapers is read, and written again as it was",
    arguments: [
      ("unix:/run/metrics", ScrapeAddress.unix("/run/metrics")), ("unix:a", .unix("a")),
      ("127.0.0.1:9817", .loopback(.v4, port: 9817)), ("[::1]:65535", .loopback(.v6, port: 65535)),
      ("127.0.0.1:0", .loopback(.v4, port: 0)),
    ])
  func addresses(_ text: String, _ expected: ScrapeAddress) throws {
    let address = try ScrapeAddress.read(text)
    #expect(address == expected && "\(address)" == text)
  }

  @Test(
    "an address that others can reach, or that is none, is refused with the wrong part",
    arguments: [
      ("0.0.0.0:9817", "«0.0.0.0»"), ("[::]:9817", "«[::]»"), ("192.168.1.1:9817", "«192.168.1.1»"),
      ("localhost:9817", "«localhost»"), (":9817", "«»"), ("127.0.0.2:9817", "«127.0.0.2»"),
      ("::1:9817", "«::1»"), ("[::ffff:127.0.0.1]:1", "«[::ffff:127.0.0.1]»"),
      ("example.org:80", "«example.org»"),
      ("http://127.0.0.1:9817", "«http://127.0.0.1»"), ("tcp:127.0.0.1:1", "«tcp:127.0.0.1»"),
      ("9817", "9817 is not an address"), ("127.0.0.1", "127.0.0.1 is not an address"),
      ("", " is not an address"),
      ("127.0.0.1:", " is not a port"), ("127.0.0.1:65536", "65536 is not a port"),
      ("127.0.0.1:-1", "-1 is not a port"),
      ("127.0.0.1:+1", "+1 is not a port"), ("127.0.0.1:http", "http is not a port"),
      ("127.0.0.1:1 ", "1  is not a port"),
      ("unix:", "which socket"),
    ])
  func refused(_ text: String, _ why: String) {
    #expect { try ScrapeAddress.read(text) } throws: { "\($0)".contains(why) }
  }

  @Test(
    "a helper is named by NAME=PATH, and by nothing else",
    arguments: ["", "web", "=", "web=", "=/run/control", "/run/control"])
  func helpers(_ text: String) throws {
    #expect { try HelperSelection.readPlace(text) } throws: { "\($0)".contains("give NAME=PATH") }
    #expect {
      try HelperSelection.readPlace(String(repeating: "x", count: 256) + "=/a")
    } throws: { "\($0)".contains("256 bytes") }
    #expect(try HelperSelection.readPlace("web=/a=b") == HelperPlace(domain: "web", control: "/a=b"))
  }

  @Test(
    "an interval is a number of seconds from 0.1 to 86400",
    arguments: [("1", 1000), ("0.1", 100), ("2.5", 2500), ("86400", 86_400_000)])
  func interval(_ text: String, _ milliseconds: Int64) throws {
    #expect(try Top.readInterval(text) == .milliseconds(milliseconds))
    for wrong in ["", "0", "0.09", "-1", "nan", "inf", "1e9", "1s", "86401"] {
      #expect { try Top.readInterval(wrong) } throws: { "\($0)".contains("from 0.1 to 86400, not \(wrong)") }
    }
  }

  @Test("a helper's silence is told once for each reason")
  func telling() {
    var log = SilenceLog()
    func silent(_ domain: String, _ error: ReadingError = .late(.seconds(1))) -> HelperReading {
      HelperReading(
        HelperPlace(domain: domain, control: "/control"), began: Self.start, duration: .zero, .failure(error))
    }
    #expect(
      log.add([silent("web"), silent("a\nb")]) == [
        #"udmabridge: domain a\u{a}b: the helper has not answered in 1 s: it is stopped, or too busy"#,
        "udmabridge: domain web: the helper has not answered in 1 s: it is stopped, or too busy",
      ])
    #expect(log.add([silent("web"), silent("a\nb")]).isEmpty)
    #expect(log.add([silent("web", .impossible(field: "control")), reading([:], of: "a\nb")]).count == 1)
    #expect(log.add([silent("web", .impossible(field: "control")), silent("a\nb")]).count == 1)
    // With what this program can do about it.
    let told = log.add([silent("web", .call(.closed))])
    #expect(told.count == 1 && told[0].hasSuffix("says with --control-allow who may use it"))
  }
}
