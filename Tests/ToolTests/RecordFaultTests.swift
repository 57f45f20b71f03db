import Foundation
import Glibc
import SystemPackage
import TestSupport
import Testing

/// `udmabridge record` and `snapshot` between a control socket and a reader of which one does what it should not.
@Suite final class RecordFaultTests {
  private let directory: FilePath
  private let program = builtPrograms.appending("udmabridge")
  private var socket: String { directory.appending("control").string }
  private var picture: String { directory.appending("picture.png").string }

  init() throws { directory = try makeTemporaryDirectory() }

  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  struct Fault: CustomTestStringConvertible {
    let testDescription: String
    /// What `lying-helper` is told.
    let rules: String
    var options: [String] = []
    let status: Int32
    /// In what is printed.
    let phrase: String
    /// It is in the answer to GetFrame, which `snapshot` asks for too.
    var isInFrame = false
  }

  private static let faults: [Fault] = [
    // Lies.
    Fault(
      testDescription: "an event that is no JSON", rules: #"{"event": "nonsense"}"#, status: 1,
      phrase: "not a varlink reply"),
    Fault(
      testDescription: "an event without what it is about", rules: #"{"event": "{\"parameters\": {}}"}"#,
      status: 1, phrase: "not a varlink reply"),
    Fault(
      testDescription: "an answer that is no JSON", rules: #"{"answer": "nonsense"}"#, status: 1,
      phrase: "not a varlink reply", isInFrame: true),
    Fault(
      testDescription: "an error that is not one of a frame's",
      rules: #"{"answer": "{\"error\": \"org.example.Odd\", \"parameters\": {\"limit\": 8}}"}"#, status: 1,
      phrase: "org.example.Odd: limit 8", isInFrame: true),
    Fault(
      testDescription: "no descriptor", rules: #"{"passes": "nothing"}"#, status: 1,
      phrase: "passed no descriptor", isInFrame: true),
    Fault(
      testDescription: "a pipe in place of memory", rules: #"{"passes": "pipe"}"#, status: 1,
      phrase: "buffer 1 cannot be mapped", isInFrame: true),
    Fault(
      testDescription: "a memfd called a dma-buf", rules: #"{"frame": {"memory": "dmabuf"}}"#, status: 1,
      phrase: "buffer 1 cannot be mapped", isInFrame: true),
    Fault(
      testDescription: "memory that may become shorter", rules: #"{"seals": false}"#, status: 1,
      phrase: "buffer 1 cannot be mapped", isInFrame: true),
    Fault(
      testDescription: "memory that is shorter than it was said", rules: #"{"memory": 4096}"#, status: 1,
      phrase: "buffer 1 cannot be mapped", isInFrame: true),
    Fault(
      testDescription: "an image that does not fit into its memory",
      rules: #"{"frame": {"stride": 4096}}"#, status: 1, phrase: "64x48 XR24 cannot be read",
      isInFrame: true),
    Fault(
      testDescription: "a negative width", rules: #"{"frame": {"width": -64}}"#, status: 1,
      phrase: "cannot be read", isInFrame: true),
    Fault(
      testDescription: "a part outside the image",
      rules: #"{"frame": {"source": {"x": 1, "y": 0, "width": 64, "height": 48}}}"#, status: 1,
      phrase: "cannot be read", isInFrame: true),
    Fault(
      testDescription: "a format that nobody knows", rules: #"{"frame": {"fourcc": 7, "format": "odd"}}"#,
      status: 1, phrase: "64x48 odd cannot be read", isInFrame: true),
    Fault(
      testDescription: "more pixels than this process has memory for",
      rules:
        #"{"frame": {"width": 65535, "height": 65535, "stride": 262140, "size": 17179344900, "source": {"x": 0, "y": 0, "width": 65535, "height": 65535}}, "memory": 17179344900}"#,
      status: 1, phrase: "65535x65535 has more than 268435456 pixels", isInFrame: true),
    Fault(
      testDescription: "a change outside the picture",
      rules: #"{"damage": {"x": -5, "y": 99999999999, "width": 64, "height": 48}}"#,
      options: ["--timeout", "1"], status: 3, phrase: "not within 1 s"),
    Fault(
      testDescription: "no scanout", rules: #"{"outputs": 0}"#, status: 1, phrase: "no scanout 0: it has none"
    ),
    Fault(
      testDescription: "not the scanout that is wanted", rules: #"{"outputs": 2}"#,
      options: ["--scanout", "2"], status: 1, phrase: "no scanout 2: they are numbered from 0 to 1"),
    // Those that stop.
    Fault(
      testDescription: "no answer to Watch", rules: #"{"silent": ["Watch"]}"#,
      options: ["--timeout", "1"], status: 3, phrase: "not within 1 s: the guest showed nothing"),
    Fault(
      testDescription: "no answer to GetFrame", rules: #"{"silent": ["GetFrame"]}"#,
      options: ["--timeout", "1"], status: 3, phrase: "not within 1 s: the guest showed nothing"),
    Fault(
      testDescription: "no answer to Release", rules: #"{"silent": ["Release"]}"#,
      options: ["--timeout", "1"], status: 3, phrase: "not within 1 s"),
    // Floods.
    Fault(
      testDescription: "events without end", rules: #"{"floods": true}"#, options: ["--timeout", "1"],
      status: 3, phrase: "not within 1 s"),
    Fault(
      testDescription: "a message without end", rules: #"{"floods": "zero"}"#, status: 1,
      phrase: "more than 16777216 bytes"),
    // Deaths.
    Fault(
      testDescription: "every connection is closed", rules: #"{"closes": ["connect"]}"#, status: 1,
      phrase: "closed the connection", isInFrame: true),
    Fault(
      testDescription: "Watch is closed", rules: #"{"closes": ["Watch"]}"#, status: 1,
      phrase: "closed the connection"),
    Fault(
      testDescription: "GetFrame is closed, again and again", rules: #"{"closes": ["GetFrame"]}"#, status: 1,
      phrase: "closed 10 connections"),
    Fault(
      testDescription: "death after the first picture", rules: #"{"then": "die"}"#, status: 1,
      phrase: "closed the connection"),
    Fault(
      testDescription: "the end after the first picture", rules: #"{"then": "end"}"#, status: 0,
      phrase: #""reason":"ended""#),
    Fault(
      testDescription: "the end before what is waited for", rules: #"{"then": "end"}"#,
      options: ["--until-still", "4000000"], status: 1, phrase: "ended before that: the picture did not stay"),
  ]

  private func serve(_ rules: String) throws -> (child: Child, output: PipeEnd) {
    let script = repository.appending("Tests/ToolTests/lying-helper").string
    let helper = try startReading("/usr/bin/python3", [script, socket, rules], withErrors: true)
    guard try helper.output.readLine() == "listening" else {
      throw TroubleInTest(try helper.output.readToEnd())
    }
    return helper
  }

  @Test("record ends with the right status and reason, whatever the control socket does", arguments: faults)
  func recording(_ fault: Fault) throws {
    let helper = try serve(fault.rules)
    // The picture stays the same: a second one never comes.
    let (status, output) = try run(
      program, ["record", "--control", socket, "--count", "2"] + fault.options, withErrors: true)
    #expect(status == fault.status, "\(output)")
    #expect(output.contains(fault.phrase), "\(output)")
    helper.child.signal(SIGKILL)
  }

  @Test(
    "snapshot refuses what record refuses of a frame, whether it waits or not",
    arguments: faults.filter(\.isInFrame), [[], ["--wait"]] as [[String]])
  func snapshot(_ fault: Fault, _ options: [String]) throws {
    let helper = try serve(fault.rules)
    let (status, output) = try run(
      program, ["snapshot", "--control", socket] + options + [picture], withErrors: true)
    #expect(status == 1, "\(output)")
    #expect(output.contains(fault.phrase) && output.split(separator: "\n").count == 1, "\(output)")
    #expect(!FileManager.default.fileExists(atPath: picture))
    helper.child.signal(SIGKILL)
  }

  @Test(
    "record ends with status 1 if its output cannot be written",
    arguments: [
      ("a reader that ends", "--format y4m | head -c 100 >/dev/null", 1, "standard output cannot be written"),
      ("a full disk", "--format y4m >/dev/full", 1, "standard output cannot be written"),
      ("a full disk, lines", ">/dev/full", 1, "standard output cannot be written"),
      ("no standard output", "--format raw --size 64x48 >&-", 1, "standard output cannot be written"),
    ] as [(String, String, Int32, String)])
  func readers(_ name: String, _ line: String, _ status: Int32, _ phrase: String) throws {
    let helper = try serve("{}")
    let (ended, output) = try run(
      "/bin/bash",
      ["-c", "'\(program)' record --control '\(socket)' \(line); exit ${PIPESTATUS[0]}"], withErrors: true)
    #expect(ended == status && output.contains(phrase), "\(output)")
    helper.child.signal(SIGKILL)
  }

  @Test("record ends at its timeout although nobody reads its output")
  func stoppedReader() throws {
    let helper = try serve("{}")
    let (child, output) = try startReading(
      program, ["record", "--control", socket, "--format", "y4m", "--rate", "1000", "--timeout", "1"])
    // Nothing is read until it has ended.
    #expect(child.wait() == 3)
    #expect(try output.readLine()?.hasPrefix("YUV4MPEG2 W64 H48 F1000:1 ") == true)
    helper.child.signal(SIGKILL)
  }
}
