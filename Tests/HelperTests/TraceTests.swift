import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

/// `--trace` of a helper, and what `udmabridge plan --trace` says of it.
@Suite struct TraceTests {
  private let program = builtPrograms.appending("vhost-user-udmabuf")

  private func listening(
    _ options: [String] = [], limit: String? = nil
  ) throws -> (Listening, trace: FilePath) {
    let directory = try makeTemporaryDirectory()
    let trace = directory.appending("trace")
    return (
      try Listening(
        program, options: ["--display", "off", "--trace", trace.string] + options, limit: limit,
        directory: directory), trace
    )
  }

  private func plan(_ trace: FilePath, _ options: String...) throws -> [String: Any] {
    let (status, output) = try run(
      builtPrograms.appending("udmabridge"), ["plan", "--json", "--trace", trace.string] + options,
      withErrors: true)
    guard status == 0, let facts = try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any]
    else { throw TroubleInTest(output) }
    return facts
  }

  @Test("a helper in its sandbox writes what its guest reports, and plan reads it for any host")
  func session() throws {
    let (helper, trace) = try listening()
    do {
      let guest = try DrawingGuest(helper)
      // Three pages, no two of them neighbours.
      try guest.create(1)
      try guest.show(1, frame: 0)
      try guest.create(2)
      try guest.show(2, frame: 1)
      try guest.flush(2)
      try guest.turnOff()
      try guest.unref(1)
      // What was collected is there when it is asked for.
      helper.child.signal(SIGUSR1)
      try waitUntil("the trace is written") { try readText(trace).contains("destroy 0/1\n") }
      #expect(try plan(trace)["end"] == nil)
    }
    #expect(helper.child.wait() == 0)
    let lent = try plan(trace, "--list-limit", "3", "--size-limit-mb", "1", "--items")
    #expect(lent["end"] as? String == "stopped")
    #expect(lent["pageLists"] as? [String: Int] == ["lent": 2, "shadow": 0, "other": 0])
    #expect(lent["neededLimits"] as? [String: Int] == ["listLimit": 3, "sizeLimitMb": 1])
    #expect(lent["flushes"] as? [String: Int] == ["lent": 3, "shadow": 0, "other": 0])
    #expect(lent["mostLent"] as? Int == 2 && lent["mostLentBytes"] as? Int == 6 * 4096)
    let lists = try #require(lent["lists"] as? [[String: Any]])
    #expect(
      lists.map { $0["entries"] as? Int } == [3, 3] && lists.map { $0["itemCount"] as? Int } == [3, 3])
    let copied = try plan(trace, "--list-limit", "2")
    #expect(copied["pageLists"] as? [String: Int] == ["lent": 0, "shadow": 2, "other": 0])
    #expect((copied["causes"] as? [[String: Any]])?.map { $0["cause"] as? String } == ["listLimit"])
  }

  @Test("a pipe is refused as a trace")
  func pipe() throws {
    let directory = try makeTemporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory.string) }
    let trace = directory.appending("trace").string
    #expect(try run("/usr/bin/mkfifo", [trace]).status == 0)
    let (status, output) = try run(
      program, ["--socket-path", "\(directory)/socket", "--trace", trace], withErrors: true)
    #expect(status == 1 && output.contains("\(trace) is a pipe"), "\(output)")
  }

  @Test("a trace ends at its limit or at a failed write, and the helper goes on and says so")
  func ends() throws {
    for (options, limit, words, end) in [
      (["--trace-limit", "4096"], nil, "ends here: it has the 4096 bytes of --trace-limit", "full"),
      // 512 bytes.
      ([], "-f 1", "ends here: it cannot be written", nil),
    ] as [([String], String?, String, String?)] {
      let (helper, trace) = try listening(["--log-level", "notice"] + options, limit: limit)
      do {
        let guest = try DrawingGuest(helper)
        try guest.create(1)
        for frame in 0..<60 { try guest.show(1, frame: UInt32(frame)) }
        helper.child.signal(SIGUSR1)
        for frame in 0..<60 { try guest.show(1, frame: UInt32(frame)) }
      }
      #expect(helper.child.wait() == 0)
      let output = try helper.output.readToEnd()
      #expect(output.split(separator: "\n").count { $0.contains(words) } == 1, "\(output)")
      #expect(try readText(trace).utf8.count <= 4096)
      let facts = try plan(trace)
      #expect(facts["end"] as? String == end)
      #expect((facts["pageLists"] as? [String: Int])?.values.reduce(0, +) == 1)
    }
  }
}
