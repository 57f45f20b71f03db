import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

/// `udmabridge metrics` and `top`, beside running helpers.
@Suite struct MetricsToolTests {
  private let program = builtPrograms.appending("udmabridge")
  private let helper: Listening
  private let guest: DrawingGuest
  private var directory: FilePath { helper.directory }
  private var socket: String { directory.appending("control").string }

  init() throws {
    let directory = try makeTemporaryDirectory()
    helper = try Listening(
      builtPrograms.appending("vhost-user-udmabuf"),
      options: [
        "--control", directory.appending("control").string, "--port", directory.appending("port").string,
      ], directory: directory)
    guest = try DrawingGuest(helper)
    try guest.create(1)
    for frame: UInt32 in 1...3 { try guest.show(1, frame: frame) }
  }

  /// What stands in the text format: each sample's value by its name with its labels. A second one of a name, a sample
  /// without its family's explanation before it, and anything else are refused.
  private func samples(_ text: String) throws -> [String: String] {
    var (samples, family, seen) = ([String: String](), "", Set<Substring>())
    for line in text.split(separator: "\n", omittingEmptySubsequences: false).dropLast() {
      if let help = line.wholeMatch(of: /# HELP (\w+) \S.*\./) {
        guard seen.insert(help.1).inserted else { throw TroubleInTest("twice: \(line)") }
        family = "\(help.1) "
      } else if let type = line.wholeMatch(of: /# TYPE (\w+) (counter|gauge)/) {
        guard family == "\(type.1) " else { throw TroubleInTest("no explanation: \(line)") }
        family = String(type.1)
      } else {
        guard let sample = line.wholeMatch(of: /((\w+)(?:\{\w+="[^"]*"(?:,\w+="[^"]*")*\})?) ([0-9.e+-]+)/),
          sample.2 == family, samples.updateValue(String(sample.3), forKey: String(sample.1)) == nil
        else { throw TroubleInTest("not expected: \(line)") }
      }
    }
    guard text.hasSuffix("\n") else { throw TroubleInTest("the last line has no end") }
    return samples
  }

  /// The numbers of a helper's answer by where they are, and the fields with several numbers, which may be empty.
  private func numbers(_ value: Any, _ place: String = "") -> [(place: String, count: UInt64)] {
    if let object = value as? [String: Any] {
      return object.flatMap { numbers($0.value, place.isEmpty ? $0.key : "\(place).\($0.key)") }
    }
    return (value as? NSNumber).map { [(place, $0.uint64Value)] } ?? []
  }

  @Test("each number that a helper counts is a sample, with its value")
  func everything() throws {
    let (status, text) = try run(program, ["metrics", "--control", "a web=\(socket)"], withErrors: true)
    #expect(status == 0)
    var samples = try samples(text)
    #expect(samples.removeValue(forKey: "udmabridge_domains") == "1")
    #expect(samples.removeValue(forKey: #"udmabridge_up{domain="a web"}"#) == "1")
    #expect(samples.removeValue(forKey: #"udmabridge_scrape_duration_seconds{domain="a web"}"#) != nil)
    #expect(samples[#"udmabridge_flushes_total{domain="a web"}"#] == "3")
    #expect(samples[#"udmabridge_frames_shown_total{domain="a web"}"#] == "3")
    #expect(samples[#"udmabridge_control_frames_total{domain="a web"}"#] == "3")
    // One that has ended may not have been noticed at the next call.
    #expect(samples.removeValue(forKey: #"udmabridge_control_connections{domain="a web"}"#) == "1")
    #expect(samples[#"udmabridge_port_sessions_total{domain="a web"}"#] == "0")

    let (ended, json) = try run(program, ["stats", "--control", socket, "--json"])
    #expect(ended == 0)
    let counted = numbers(try JSONSerialization.jsonObject(with: Data(json.utf8))).filter {
      $0.place != "control.connections"
    }
    #expect(counted.count > 30)
    // None is lost and none is added; what does not change between the two calls is the same.
    #expect(samples.values.sorted() == counted.map { "\($0.count)" }.sorted())
  }

  @Test("helpers that do not answer are down, with the reason, and the others have their samples")
  func silent() throws {
    let stopped = try Listening(
      builtPrograms.appending("vhost-user-udmabuf"),
      options: ["--control", directory.appending("stopped").string], directory: makeTemporaryDirectory())
    try waitUntil("it listens") { (try? UnixSocket.connect(FilePath("\(directory)/stopped"))) != nil }
    try stopped.child.stop()
    let others = ["gone=/nowhere/control", "stopped=\(directory)/stopped", "web=\(socket)"]
    let (status, output) = try run(
      "/bin/sh",
      ["-c", "exec \"$0\" \"$@\" 2>'\(directory)/errors'", program.string, "metrics"]
        + others.flatMap { ["--control", $0] })
    #expect(status == 0)
    let samples = try samples(output)
    #expect(samples["udmabridge_domains"] == "3")
    #expect(samples[#"udmabridge_up{domain="web"}"#] == "1")
    #expect(samples[#"udmabridge_up{domain="gone"}"#] == "0")
    #expect(samples[#"udmabridge_up{domain="stopped"}"#] == "0")
    #expect(samples[#"udmabridge_flushes_total{domain="web"}"#] == "3")
    #expect(samples[#"udmabridge_flushes_total{domain="gone"}"#] == nil)
    let errors = try readText(directory.appending("errors")).split(separator: "\n")
    #expect(errors.count == 2, "\(errors)")
    #expect(
      errors.first?.hasPrefix("udmabridge: domain gone: there is no control socket /nowhere/control") == true)
    #expect(errors.last?.hasPrefix("udmabridge: domain stopped: the helper has not answered in 1 s") == true)
    stopped.child.signal(SIGCONT)
  }

  @Test("a file is replaced as a whole, and keeps its old text if that fails")
  func file() throws {
    let file = directory.appending("udmabridge.prom")
    let arguments = ["metrics", "--control", "web=\(socket)", "--output", file.string]
    try writeText(file, "old")
    let before = try FileStatus(of: file).inode
    #expect(try run(program, arguments, withErrors: true) == (0, ""))
    #expect(try samples(readText(file))[#"udmabridge_up{domain="web"}"#] == "1")
    // Another file has taken its place, and nothing is left beside it.
    #expect(try FileStatus(of: file).inode != before)
    #expect(!FileManager.default.fileExists(atPath: "\(file).new"))

    // No room: nothing of it is written.
    try writeText(file, "old")
    let (full, why) = try run(
      "/bin/sh", ["-c", "ulimit -f 0; trap '' XFSZ; exec \"$0\" \"$@\"", program.string] + arguments,
      withErrors: true)
    #expect(full == 1 && why.contains("\(file) cannot be written") && why.contains("large"), "\(why)")
    #expect(try readText(file) == "old")
    #expect(!FileManager.default.fileExists(atPath: "\(file).new"))

    // Somebody's link is not written through.
    try makeLink(FilePath("\(file).new"), to: "/tmp/udmabridge-nobody")
    let (linked, link) = try run(program, arguments, withErrors: true)
    #expect(linked == 1 && link.contains("links are not followed"), "\(link)")
    #expect(try readText(file) == "old")
    #expect(!FileManager.default.fileExists(atPath: "/tmp/udmabridge-nobody"))

    let (missing, directory) = try run(
      program, ["metrics", "--control", "web=\(socket)", "--output", "/nowhere/a.prom"], withErrors: true)
    #expect(
      missing == 1 && directory.contains("/nowhere/a.prom cannot be written: No such file"), "\(directory)")
  }

  /// A server, and the address that it says.
  private func serve(_ address: String) throws -> (child: Child, address: String) {
    let (child, output) = try startReading(
      program, ["metrics", "--control", "web=\(socket)", "--listen", address], withErrors: true)
    let line = try output.readLine() ?? ""
    guard line.hasPrefix("listening on ") else { throw TroubleInTest("«\(line)» \(try output.readToEnd())") }
    return (child, String(line.dropFirst("listening on ".count)))
  }

  /// Asks as Python's library does: with a status, a type and the body.
  private func get(_ address: String, _ path: String = "/metrics") throws -> (status: String, body: String) {
    let script = """
      import http.client, socket, sys
      address, path = sys.argv[1:]
      if address.startswith("unix:"):
          connection = http.client.HTTPConnection("localhost")
          connection.sock = socket.socket(socket.AF_UNIX)
          connection.sock.connect(address[5:])
      else:
          connection = http.client.HTTPConnection(address)
      connection.request("GET", path)
      answer = connection.getresponse()
      print(answer.status, answer.getheader("Content-Type"))
      print(answer.read().decode(), end="")
      """
    let (status, output) = try run("/usr/bin/python3", ["-c", script, address, path], withErrors: true)
    guard status == 0 else { throw TroubleInTest(output) }
    let parts = output.split(separator: "\n", maxSplits: 1)
    return (String(parts[0]), String(parts.last ?? ""))
  }

  /// A machine may have no IPv6.
  private static let addresses =
    ["unix", "127.0.0.1"]
    + ((try? readText("/proc/net/if_inet6"))?.contains(" lo\n") == true ? ["[::1]"] : [])

  @Test(
    "a scraper gets the samples on a Unix socket and on loopback, also when a helper has died",
    arguments: addresses)
  func server(_ kind: String) throws {
    let unix = directory.appending("scrape")
    let (child, address) = try serve(kind == "unix" ? "unix:\(unix)" : "\(kind):0")
    #expect(
      kind == "unix" ? address == "unix:\(unix)" : address.hasPrefix("\(kind):") && !address.hasSuffix(":0"))
    let (status, body) = try get(address)
    #expect(status == "200 text/plain; version=0.0.4; charset=utf-8")
    #expect(try samples(body)[#"udmabridge_flushes_total{domain="web"}"#] == "3")
    #expect(try get(address, "/").status == "404 text/plain; charset=utf-8")

    // A second one cannot listen there.
    let (second, why) = try run(program, ["metrics", "--listen", address], withErrors: true)
    #expect(second == 1 && why.contains("in use"), "\(why)")

    // It stays when a helper dies, and says so.
    helper.child.signal(SIGKILL)
    helper.child.wait()
    try waitUntil("it has noticed") {
      try samples(get(address).body)[#"udmabridge_up{domain="web"}"#] == "0"
    }
    child.signal(SIGTERM)
    #expect(child.wait() == 0)
    #expect(!FileManager.default.fileExists(atPath: unix.string))
  }

  @Test(
    "a wrong command line of metrics or top has status 64, and the reason is told",
    arguments: [
      (["metrics", "--listen", "0.0.0.0:9817"], "«0.0.0.0» is not 127.0.0.1 or [::1]"),
      (["metrics", "--listen", "localhost:9817"], "«localhost»"),
      (["metrics", "--listen", "127.0.0.1:0", "--output", "/tmp/a"], "give one of them"),
      (["metrics", "--control", "/run/vg.control"], "give NAME=PATH"),
      (["metrics", "--control", "a=/b", "--control", "a=/c"], "--control names a twice"),
      (["top", "--control", "a=/b", "--control", "a=/c"], "--control names a twice"),
      (["top", "--interval", "0"], "from 0.1 to 86400, not 0"),
      (["top", "--count", "0"], "--count 0 is too small"),
      (["top", "--sort", "colour"], "colour"),
    ])
  func refused(_ arguments: [String], _ why: String) throws {
    let (status, output) = try run(program, arguments, withErrors: true)
    #expect(status == 64 && output.contains(why), "\(output)")
  }

  @Test("without a terminal top prints a table for each interval, and no escapes")
  func tables() throws {
    let (status, output) = try run(
      program,
      [
        "top", "--control", "web=\(socket)", "--control", "gone=/nowhere/x", "--interval", "0.1", "--count",
        "2",
      ],
      withErrors: true)
    #expect(status == 0 && !output.contains("\u{1b}"))
    let tables = output.split(separator: "\n\n").map { $0.split(separator: "\n") }
    #expect(tables.count == 2)
    for table in tables {
      #expect(table.count == 3)
      #expect(
        table[0].hasPrefix("DOMAIN  FRAMES/S") && table[1].hasPrefix("web") && table[2].hasPrefix("gone"))
      #expect(table[2].contains("there is no control socket /nowhere/x"))
      // Nothing has happened between two tables.
      #expect(table[1].split(separator: " ")[1] == "0.0")
    }
  }

  @Test("a reader of the tables may stop, which ends top without an error message")
  func reader() throws {
    let (status, output) = try run(
      "/bin/bash",
      [
        "-c", "set -o pipefail; \"$0\" top --control web=\(socket) --interval 0.1 | head -n 1",
        program.string,
      ], withErrors: true)
    // The signal of a pipe that nobody reads.
    #expect(status == 128 + SIGPIPE && output.hasPrefix("DOMAIN ") && !output.contains("rror"), "\(output)")
  }

  @Test(
    "on a terminal, top draws one screen until q, ^C or a signal ends it, and leaves what was there",
    arguments: ["q", "^C", "SIGTERM", "stopped and q"])
  func screen(_ end: String) throws {
    let script = """
      import fcntl, os, pty, select, signal, struct, sys, termios
      program, control, end = sys.argv[1:]
      pid, terminal = pty.fork()
      if pid == 0:
          os.environ["TERM"] = "xterm"
          os.execv(program, [program, "top", "--control", "web=" + control, "--control", "gone=/nowhere/x",
                             "--control", "more=/nowhere/y", "--interval", "0.1"])
      fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 4, 60, 0, 0))
      output = b""
      def read():
          global output
          try: piece = os.read(terminal, 65536)
          except OSError: piece = b""
          output += piece
          return piece
      def screens():
          ends = [s.partition(b"\\x1b[J") for s in output.split(b"\\x1b[H")[1:]]
          return [drawn + end for drawn, end, _ in ends if end]
      # Until it draws in the size that it has been given.
      while not screens() or b"and 2 more" not in screens()[-1]: assert read(), output
      if end == "stopped and q":
          os.write(terminal, b"\\x1a")
          os.waitpid(pid, os.WUNTRACED)
          while b"\\x1b[?1049l" not in output: assert read(), output
          os.kill(pid, signal.SIGCONT)
          while output.count(b"\\x1b[?1049h") < 2: assert read(), output
      drawn = screens()[-1]
      if end == "SIGTERM": os.kill(pid, signal.SIGTERM)
      else: os.write(terminal, b"\\x03" if end == "^C" else b"q")
      while read(): pass
      status = os.waitpid(pid, 0)[1]
      lines = drawn[:-len(b"\\x1b[K\\x1b[J")].split(b"\\x1b[K\\r\\n")
      assert status == 0, status
      assert output.startswith(b"\\x1b[?1049h\\x1b[?25l") and output.endswith(b"\\x1b[?25h\\x1b[?1049l"), output[-50:]
      assert len(lines) == 4, lines
      assert lines[0].startswith(b"3 domains, 2 silent; by frames, every 100 ms; q ends"), lines
      assert lines[1].startswith(b"\\x1b[1mDOMAIN") and lines[1].endswith(b"\\x1b[m"), lines
      assert lines[2].startswith(b"web ") and b"\\x1b" not in lines[2] and len(lines[2]) <= 59, lines
      """
    let (status, output) = try run(
      "/usr/bin/python3", ["-c", script, program.string, socket, end], withErrors: true)
    #expect(status == 0, "\(output)")
  }
}
