import Fixtures
import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

/// `vhost-user-udmabuf` as QEMU's users and QEMU itself see it: a process.
@Suite struct HelperTests {
  private let program = builtPrograms.appending("vhost-user-udmabuf")

  @Test("--print-capabilities prints one JSON object and ends")
  func capabilities() throws {
    let (status, output) = try run(program, ["--print-capabilities"])
    let object = try #require(try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any])
    #expect(status == 0)
    #expect(object["type"] as? String == "gpu")
    #expect(object["features"] as? [String] == ["render-node", "virgl"])
  }

  @Test(
    "a helper that cannot start ends with status 1 and one line that says why",
    arguments: [
      (["--socket-path", "/nowhere/socket"], "/nowhere/socket"),
      (["--fd", "99"], "--fd 99"),
      (["--fd", "0"], "not a stream socket"),
      (["--socket-path", "/tmp/unused", "--kms", "/dev/dri/none"], "/dev/dri/none"),
      (["--socket-path", "/tmp/unused", "--kms", "nonsense"], "nonsense"),
      (["--socket-path", "/tmp/unused", "--kms", "/dev/null:DP-1", "--kms", "/dev/null"], "named twice"),
      (
        ["--socket-path", "/tmp/unused", "--kms", "/dev/null:DP-1", "--kms", "/dev/null:DP-2"],
        "/dev/null has no"
      ),
      (["--socket-path", "/tmp/unused", "--stats", "/nowhere/stats"], "/nowhere/stats"),
      (["--socket-path", "/tmp/unused", "--trace", "/nowhere/trace"], "/nowhere/trace"),
    ])
  func cannotStart(_ arguments: [String], _ named: String) throws {
    let (status, output) = try run(program, ["--log-level", "critical"] + arguments, withErrors: true)
    #expect(status == 1)
    #expect(output.contains(named))
    #expect(output.split(separator: "\n").count == 1, "\(output)")
  }

  @Test(
    "options that make no sense are refused",
    arguments: [
      [], ["--socket-path", "/tmp/a", "--fd", "3"], ["--fd", "3", "--keep"],
      ["--socket-path", "/tmp/a", "--share-fd", "3", "--keep"],
      ["--socket-path", "/tmp/a", "--resolution", "wide"],
      ["--socket-path", "/tmp/a", "--resolution", "1x1"],
      ["--socket-path", "/tmp/a"]
        + [[String]](repeating: ["--resolution", "800x600"], count: 17).flatMap { $0 },
      ["--socket-path", "/tmp/a", "--max-pinned", "99999999T"],
      ["--socket-path", "/tmp/a", "--max-resources", "0"],
      ["--socket-path", "/tmp/a", "--log-level", "loud"],
      ["--socket-path", "/tmp/a", "--sandbox", "perhaps"],
      ["--socket-path", "/tmp/a", "--display", "vnc"],
      ["--socket-path", "/tmp/a", "--display", "qemu", "--kms", "auto"],
      ["--socket-path", "/tmp/a", "--stride-alignment", "96"],
      ["--socket-path", "/tmp/a", "--trace", "/tmp/b", "--trace-limit", "4095"],
      ["--socket-path", "/tmp/a", "--control-mode", "660"],
      ["--socket-path", "/tmp/a", "--control", "/tmp/b", "--control-mode", "999"],
      ["--socket-path", "/tmp/a", "--control", "/tmp/b", "--control-allow", "nobody"],
      ["--socket-path", "/tmp/a", "--control", "/tmp/b", "--control-allow", "group:"],
      ["--socket-path", "/tmp/a", "--control-connections", "40"],
      ["--socket-path", "/tmp/a", "--control-watchers", "40"],
      ["--socket-path", "/tmp/a", "--control", "/tmp/b", "--control-connections", "2"],
      ["--socket-path", "/tmp/a", "--control", "/tmp/b", "--control-connections", "1025"],
      ["--socket-path", "/tmp/a", "--control", "/tmp/b", "--control-watchers", "many"],
    ])
  func usage(_ arguments: [String]) throws {
    #expect(try run(program, arguments, withErrors: true).status == 64)
  }

  @Test("a socket that somebody listens on is left alone")
  func socketInUse() throws {
    let first = try Listening(program)
    try waitUntil("the first listens") { try first.listens() }
    let (status, output) = try run(program, ["--socket-path", first.socket.string], withErrors: true)
    #expect(status == 1)
    #expect(output.contains("in use"))
    // The first still waits for its connection.
    #expect(first.child.isRunning)
    do {
      let connection = try first.connect()
      try greet(connection)
    }
    #expect(first.child.wait() == 0)
  }

  @Test("a socket that nobody listens on is replaced, and SIGTERM ends with status 0 and removes it")
  func staleSocket() throws {
    let helper = try Listening(program) { socket in _ = try UnixSocket.listen(socket) }
    do {
      let connection = try helper.connect()
      try greet(connection)
    }
    // That connection was the one that it serves, and is closed again.
    #expect(helper.child.wait() == 0)
    let second = try Listening(program) { socket in _ = try UnixSocket.listen(socket) }
    try waitUntil("it listens") { try second.listens() }
    second.child.signal(SIGTERM)
    #expect(second.child.wait() == 0)
    #expect(!FileManager.default.fileExists(atPath: second.socket.string))
    #expect(json(second.stats)?["flushes"] as? Int == 0)
  }

  @Test("of several helpers that find one stale socket, one takes it and the others end")
  func staleSocketForMany() throws {
    let directory = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
    let path = directory.appending("socket")
    _ = try UnixSocket.listen(path)
    var lock: FD? = try lockDirectory(directory)
    let helpers = try (0..<4).map { _ in
      try startReading(program, ["--socket-path", path.string, "--log-level", "error"], withErrors: true)
    }
    // All have found it stale: none goes on without the directory.
    try waitUntil("all wait for the directory") {
      try helpers.allSatisfy { helper in
        try RunningProcess(helper.child.pid).openFiles().contains { $0.target == directory.string }
      }
    }
    lock = nil
    _ = lock
    try waitUntil("the others have ended") { helpers.count { $0.child.isRunning } == 1 }
    for helper in helpers where !helper.child.isRunning {
      #expect(helper.child.wait() == 1)
      #expect(try helper.output.readToEnd().contains("in use by another process"))
    }
    do { try greet(UnixSocket.connect(path)) }
    for helper in helpers { #expect([0, 1].contains(helper.child.wait())) }
  }

  @Test("statistics are not written through a link")
  func statisticsLink() throws {
    let directory = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
    let (link, file) = (directory.appending("link"), directory.appending("file"))
    try "precious".write(toFile: file.string, atomically: false, encoding: .utf8)
    try makeLink(link, to: file)
    let (status, output) = try run(
      program, ["--socket-path", directory.appending("socket").string, "--stats", link.string],
      withErrors: true)
    #expect(status == 1 && output.contains("\(link) cannot be written: it is a link"), "\(output)")
    #expect(try readText(file) == "precious")
  }

  @Test("a file, or a link to one, is not taken for a socket that was left", arguments: [false, true])
  func noSocket(_ isLink: Bool) throws {
    let directory = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
    let (file, path) = (directory.appending("disk.img"), directory.appending("socket"))
    try "precious".write(toFile: file.string, atomically: false, encoding: .utf8)
    if isLink {
      try FileManager.default.createSymbolicLink(atPath: path.string, withDestinationPath: file.string)
    } else {
      try FileManager.default.linkItem(atPath: file.string, toPath: path.string)
    }
    let other = directory.appending("other").string
    for arguments in [
      ["--socket-path", path.string], ["--socket-path", other, "--control", path.string],
    ] {
      // One that listens would not end.
      let (status, output) = try run(
        "/usr/bin/timeout", ["\(Patience.limit.seconds)", program.string] + arguments, withErrors: true)
      #expect(status == 1)
      #expect(output.contains("\(path) is a file, not a socket"), "\(output)")
      #expect(try readText(path) == "precious")
    }
  }

  @Test("silent callers do not end the helper, and it hangs up on them when QEMU speaks")
  func probes() throws {
    let helper = try Listening(program)
    for _ in 0..<20 {
      let probe = try helper.connect()
      _ = consume probe
    }
    // QEMU connects while others are still there, more than are kept, and are silent.
    let silent = try (0..<20).map { _ in Held(try helper.connect()) }
    let connection = try helper.connect()
    let later = try helper.connect()
    try greet(connection)
    #expect(helper.child.isRunning)
    // They are nobody's now.
    for other in silent { #expect(try other.socket.fd.read(upTo: 1).isEmpty) }
    #expect(try later.fd.read(upTo: 1).isEmpty)
    #expect(
      !FileManager.default.fileExists(atPath: helper.socket.string), "one back end serves one front end")
    _ = consume connection
    #expect(helper.child.wait() == 0)
    #expect(try helper.output.readToEnd() == "")
  }

  /// A connection in a list.
  private final class Held {
    let socket: UnixSocket
    init(_ socket: consuming UnixSocket) { self.socket = socket }
  }

  /// What no front end sends.
  static let broken: [(String, [UInt8], says: String)] = [
    ("no request", [0xff, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], "request 65535"),
    ("a wrong version", [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], "version"),
    ("a payload that is too long", [2, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], "4294967295 bytes"),
    ("the end in the middle of a message", [1, 0, 0, 0, 1], "a header"),
    ("a stray byte", [0x47], "a header"),
    ("another protocol", Array("GET / HTTP/1.1\r\n\r\n".utf8), "version"),
  ]

  @Test(
    "a caller that says nothing that a front end says is nobody, and QEMU is served after it",
    arguments: broken.indices)
  func strangers(_ index: Int) throws {
    let helper = try Listening(program)
    var strangers: [Held] = []
    for goes in [true, false] {
      strangers.append(Held(try helper.connect()))
      let bytes = Self.broken[index].1
      unsafe try strangers.last?.socket.fd.write(bytes.span.bytes)
      if goes { strangers.removeAll() }
    }
    let connection = try helper.connect()
    try greet(connection)
    #expect(helper.child.isRunning)
    _ = consume connection
    #expect(helper.child.wait() == 0)
    #expect(try helper.output.readToEnd() == "")
    withExtendedLifetime(strangers) {}
  }

  @Test("after a probe that goes SIGTERM still ends the helper and removes its socket")
  func probeAndEnd() throws {
    let helper = try Listening(program)
    let first = try helper.connect()
    _ = consume first
    let second = try helper.connect()
    helper.child.signal(SIGTERM)
    #expect(helper.child.wait() == 0)
    #expect(!FileManager.default.fileExists(atPath: helper.socket.string))
    _ = consume second
  }

  @Test("SIGUSR1 writes the statistics while it runs")
  func statistics() throws {
    let helper = try Listening(program)
    let connection = try helper.connect()
    helper.child.signal(SIGUSR1)
    try waitUntil("the statistics are there") { json(helper.stats) != nil }
    let object = try #require(json(helper.stats))
    for key in [
      "flushes", "framesShown", "framesCoalesced", "framesFailed", "buffersLent", "entriesReported",
      "itemsJoined",
      "pagesLent", "bytesLent", "bytesCopied", "liveDMABufs", "pinnedBytes",
    ] { #expect(object[key] as? Int == 0, "\(key)") }
    #expect((object["protocolErrors"] as? [String: Any])?.isEmpty == true)
    #expect(helper.child.isRunning)
    try greet(connection)
    _ = consume connection
    #expect(helper.child.wait() == 0)
  }

  @Test(
    "a front end that breaks the protocol ends the helper with status 1 and the reason",
    arguments: broken.indices)
  func brokenPeer(_ index: Int) throws {
    let helper = try Listening(program)
    do {
      let connection = try helper.connect()
      try greet(connection)
      let bytes = Self.broken[index].1
      unsafe try connection.fd.write(bytes.span.bytes)
    }
    #expect(helper.child.wait() == 1)
    let output = try helper.output.readToEnd()
    #expect(output.contains("the helper closed the connection to QEMU"), "\(output)")
    #expect(output.contains(Self.broken[index].says), "\(output)")
    #expect(output.split(separator: "\n").count == 1, "\(output)")
  }

  // MARK: One connection after the other

  @Test(
    "--keep serves one front end after the other, in the sandbox and without it", arguments: ["on", "off"])
  func keeps(_ sandbox: String) throws {
    let helper = try Listening(program, options: ["--keep", "--backing", "shadow", "--sandbox", sandbox])
    func liveResources() throws -> Int? {
      helper.child.signal(SIGUSR1)
      usleep(20_000)
      return json(helper.stats)?["liveResources"] as? Int
    }
    for turn in 0..<3 {
      let guest = try DrawingGuest(helper)
      // The one before has left nothing.
      try guest.create(1)
      try guest.show(1, frame: UInt32(turn))
      try waitUntil("its picture counts") { try liveResources() == 1 }
      // Who comes meanwhile is served afterwards.
      let next = try helper.connect()
      let question: [UInt8] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]  // GET_FEATURES
      unsafe try next.fd.write(question.span.bytes)
      try guest.show(1, frame: UInt32(turn + 1))
      try next.fd.setNonblocking()
      #expect(throws: Errno.wouldBlock) { _ = try next.fd.read(upTo: 64) }
      _ = consume guest
      var answer = 0
      try waitUntil("the next one is answered") {
        answer = (try? next.fd.read(upTo: 64).count) ?? 0
        return answer > 0
      }
      #expect(answer == 20)
      #expect(try liveResources() == 0)
      #expect(FileManager.default.fileExists(atPath: helper.socket.string))
      // And one that breaks the protocol ends its own connection alone.
      let bytes = Self.broken[turn].1
      unsafe try next.fd.write(bytes.span.bytes)
    }
    helper.child.signal(SIGTERM)
    #expect(helper.child.wait() == 0)
    let lines = try helper.output.readToEnd().split(separator: "\n")
    #expect(lines.count == 3, "\(lines)")
    for (line, broken) in zip(lines, Self.broken) { #expect(line.contains(broken.says), "\(line)") }
    // In the sandbox no file can be removed any more; the next helper replaces it.
    #expect(FileManager.default.fileExists(atPath: helper.socket.string) == (sandbox == "on"))
    #expect(json(helper.stats)?["liveResources"] as? Int == 0)
  }

  @Test("--keep serves a caller that has been silent, and forgets one that has gone")
  func keepsCallers() throws {
    let helper = try Listening(program, options: ["--keep"])
    let first = try helper.connect()
    let silent = try helper.connect()
    let gone = try helper.connect()
    try greet(first)
    _ = consume gone
    try greet(first)
    _ = consume first
    try greet(silent)
    _ = consume silent
    let last = try helper.connect()
    try greet(last)
    helper.child.signal(SIGTERM)
    #expect(helper.child.wait() == 0)
    #expect(try helper.output.readToEnd() == "")
  }

  @Test("with --keep and no front end SIGTERM ends with status 0 and removes the socket")
  func keepsInVain() throws {
    let helper = try Listening(program, options: ["--keep"])
    let probe = try helper.connect()
    helper.child.signal(SIGTERM)
    #expect(helper.child.wait() == 0)
    #expect(!FileManager.default.fileExists(atPath: helper.socket.string))
    _ = consume probe
  }

  @Test("--keep serves each of two devices anew")
  func keepsTwoDevices() throws {
    let directory = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
    let second = directory.appending("share")
    let helper = try Listening(program, options: ["--keep", "--share-socket-path", second.string])
    let display = try helper.connect()
    try greet(display)
    for _ in 0..<3 {
      let share = try UnixSocket.connect(second)
      try greet(share)
      try greet(display)
    }
    _ = consume display
    let again = try helper.connect()
    try greet(again)
    helper.child.signal(SIGTERM)
    #expect(helper.child.wait() == 0)
    #expect(try helper.output.readToEnd() == "")
  }

  @Test("guest memory that becomes shorter ends the helper with status 1 and the reason")
  func memoryGone() throws {
    let helper = try Listening(program)
    let ram = try GuestRAM([.init(at: 0, length: 4 << 20)], seals: [])
    let queues = [DriverQueue(ram), DriverQueue(ram, size: 16)]
    let frontEnd = try FrontEnd(helper.connect(), turn: FrontEnd.turns { helper.child.isRunning })
    try frontEnd.realize(memory: .table)
    try frontEnd.start(queues)
    let displayInfo: [UInt8] = [0x00, 0x01] + [UInt8](repeating: 0, count: 22)
    queues[0].send(displayInfo, answer: 408)
    let truncated = ram.files[0].withDescriptor { $0.withRaw { ftruncate($0, 4096) } }
    #expect(truncated == 0)
    frontEnd.kick(0)
    #expect(helper.child.wait() == 1)
    #expect(try helper.output.readToEnd().contains("guest's memory became shorter"))
  }

  @Test(
    "without a card there is an output for each --resolution",
    arguments: [([], 1), (["800x600"], 1), (["800x600", "1024x768", "640x480"], 3)] as [([String], UInt8)])
  func outputs(_ resolutions: [String], _ count: UInt8) throws {
    let helper = try Listening(program, options: resolutions.flatMap { ["--resolution", $0] })
    let frontEnd = try FrontEnd(helper.connect(), turn: FrontEnd.turns { helper.child.isRunning })
    try frontEnd.realize(memory: .table)
    // events_read, events_clear, num_scanouts.
    #expect(try frontEnd.config(size: 12)[8...] == [count, 0, 0, 0])
  }

  @Test(
    "with a render node of no known driver the helper starts, and tells the alignment that it takes",
    arguments: ["/nowhere/renderD128", "/dev/null"])
  func noRenderNode(_ node: String) throws {
    let helper = try Listening(
      program, options: ["--stride-alignment", node, "--log-level", "warning"])
    do {
      let connection = try helper.connect()
      try greet(connection)
    }
    #expect(helper.child.wait() == 0)
    let output = try helper.output.readToEnd()
    for words in ["--stride-alignment", node, "256 bytes"] { #expect(output.contains(words), "\(output)") }
  }

  @Test("--fd takes a connected socket")
  func inherited() throws {
    try UnixSocket.pair { ours, theirs in
      let number = theirs.fd.withRaw { $0 }
      let (child, output) = try startReading(
        program, ["--fd", "7", "--log-level", "critical"], withErrors: true, descriptors: [7: number])
      _ = consume theirs
      try greet(ours)
      _ = consume ours
      #expect(child.wait() == 0)
      #expect(try output.readToEnd() == "")
    }
  }
}
