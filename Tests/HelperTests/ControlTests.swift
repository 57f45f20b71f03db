import Fixtures
import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

/// The control socket of the real program, in its sandbox, and other programs that use it.
@Suite struct ControlTests {
  private let helper: Listening
  private var socket: String { helper.directory.appending("control").string }

  init() throws { helper = try Self.start() }

  private static func start(_ options: [String] = []) throws -> Listening {
    let directory = try makeTemporaryDirectory()
    let helper = try Listening(
      builtPrograms.appending("vhost-user-udmabuf"),
      options: ["--control", directory.appending("control").string] + options, directory: directory)
    try waitUntil("it listens") {
      FileManager.default.fileExists(atPath: helper.socket.string) || !helper.child.isRunning
    }
    return helper
  }

  /// The Python in which `qemu/setup` has installed the module `varlink`.
  private static let python: FilePath? = {
    let isThere = FileManager.default.fileExists(atPath: testCache.appending("venv/.varlink-1").string)
    return isThere ? testCache.appending("venv/bin/python3") : nil
  }()

  @Test(
    "PyPI's varlink reads the definition, the outputs, the errors and the events",
    .enabled(if: python != nil, "qemu/setup installs varlink"))
  func peer() throws {
    let guest = try DrawingGuest(helper)
    try guest.create(1)
    let script = """
      import sys, varlink
      with varlink.Client.new_with_address("unix:" + sys.argv[1]) as client:
          with client.open("org.varlink.service") as service:
              info = service.GetInfo()
              print(info["vendor"], info["product"], info["interfaces"])
              text = service.GetInterfaceDescription(interface="io.udmabridge.Display")["description"]
              members = varlink.Interface(text).members
              print([name for name, member in members.items() if type(member).__name__ == "_Method"])
          with client.open("io.udmabridge.Display") as display:
              print([(o["name"], "frame" in o) for o in display.GetOutputs()["outputs"]])
              for call in (lambda: display.GetFrame(scanout=7), lambda: display.Hold(buffer=1), lambda: display.Watch()):
                  try: call()
                  except varlink.VarlinkError as error: print(error.error(), error.parameters())
              print(display.Statistics()["device"]["flushes"])
              sys.stdout.flush()
          with client.open("io.udmabridge.Display") as display:
              for event in display.Watch(_more=True):
                  frame = event.get("frame") or {}
                  print(event["event"], frame.get("sequence"), frame.get("format"), event.get("lost"))
                  sys.stdout.flush()
      """
    let (child, output) = try startReading(Self.python!, ["-c", script, socket], withErrors: true)
    // It is there when it watches.
    try waitUntil("it watches") { try statistics()["watchers"] == 1 || !child.isRunning }
    try guest.show(1, frame: 1)
    try guest.turnOff()
    helper.child.signal(SIGTERM)
    #expect(
      try output.readToEnd() == """
        udmabridge vhost-user-udmabuf ['org.varlink.service', 'io.udmabridge.Display']
        ['GetOutputs', 'GetFrame', 'GetCursor', 'GetOffer', 'Hold', 'Release', 'Watch', 'Stream', 'Statistics']
        [('headless', False)]
        io.udmabridge.Display.NoSuchScanout {'scanout': 7}
        io.udmabridge.Display.NoSuchBuffer {'buffer': 1}
        org.varlink.service.ExpectedMore {}
        0
        outputs None None None
        frame 1 XR24 0
        off None None None
        end None None None

        """)
    #expect(child.wait() == 0)
    #expect(helper.child.wait() == 0)
    #expect(try helper.output.readToEnd() == "")
  }

  /// What the socket says of itself, over a connection made for that.
  private func statistics(_ other: String? = nil) throws -> [String: Int] {
    try ask("Statistics", other).parameters["control"] as? [String: Int] ?? [:]
  }

  private struct Reply: ~Copyable {
    let parameters: [String: Any]
    var descriptor: FD?
  }

  /// Asks over a connection made for that.
  private func ask(_ method: String, _ other: String? = nil) throws -> Reply {
    let connection = try UnixSocket.connect(FilePath(other ?? socket))
    let call = #"{"method":"io.udmabridge.Display.\#(method)"}"# + "\0"
    unsafe try connection.fd.write(Array(call.utf8).span.bytes)
    var answer: [UInt8] = []
    var descriptors = ReceivedDescriptors()
    while answer.last != 0 {
      guard try connection.fd.isReadable(within: .seconds(60)),
        try connection.receive(into: &answer, upTo: 65536, descriptors: &descriptors) > 0
      else { throw TroubleInTest("no answer to \(method)") }
    }
    let object = try JSONSerialization.jsonObject(with: Data(answer.dropLast())) as? [String: Any]
    return Reply(
      parameters: object?["parameters"] as? [String: Any] ?? [:], descriptor: descriptors.take(0))
  }

  /// A consumer has let go of a buffer, and its device reads it still.
  @Test("pages that a hanging device reads go back late, and are counted", .testHost)
  func readers() throws {
    let guest = try DrawingGuest(helper)
    let vgem = try Vgem()
    for (id, hangs) in [(UInt32(1), false), (2, true)] {
      try guest.create(id)
      try guest.show(id, frame: id)
      var reply = try ask("GetFrame")
      guard let buffer = reply.descriptor.take() else { throw TroubleInTest("no descriptor came") }
      let fence = try vgem.read(buffer)
      try guest.turnOff()
      if !hangs { try vgem.finish(fence) }
      try guest.unref(id)
      let device = try ask("Statistics").parameters["device"] as? [String: Any]
      #expect(device?["waitedForFence"] as? Int == (hangs ? 1 : 0))
      #expect(device?["releasedLate"] as? Int == (hangs ? 1 : 0))
      if hangs { try vgem.finish(fence) }
    }
    helper.child.signal(SIGTERM)
    #expect(helper.child.wait() == 0)
  }

  private func compiled() throws -> FilePath {
    let program = helper.directory.appending("consumer")
    let source = repository.appending("examples/consumer.c").string
    let (status, output) = try run(
      "/usr/bin/cc", ["-Wall", "-Werror", "-o", program.string, source], withErrors: true)
    guard status == 0 else { throw TroubleInTest(output) }
    return program
  }

  @Test("the examples in C and in Python get every picture, while others are stopped and killed")
  func examples() throws {
    let guest = try DrawingGuest(helper)
    let program = try compiled()
    for id: UInt32 in 1...2 { try guest.create(id) }
    let count = 20
    let consumers = try [
      startReading(program, [socket, "\(count)"], withErrors: true),
      startReading(
        "/usr/bin/python3", [repository.appending("examples/consumer.py").string, socket, "\(count)"],
        withErrors: true),
    ]
    let stopped = try startReading(program, [socket, "1000000"])
    let killed = try startReading(program, [socket, "1000000"])
    defer { for child in [stopped.child, killed.child] { child.signal(SIGKILL) } }
    try waitUntil("all watch") { try statistics()["watchers"] == 4 }

    for frame in 1...UInt32(count) {
      let buffer = (frame - 1) % 2 + 1
      let hash = fnv1a(try guest.show(buffer, frame: frame))
      if frame == 5 { try stopped.child.stop() }
      if frame == 9 { killed.child.signal(SIGKILL) }
      // They have seen it before it is drawn over.
      for (_, output) in consumers {
        #expect(try output.readLine() == "frame \(frame): buffer \(buffer), 64x48, fnv1a \(hash)")
      }
    }
    for (child, output) in consumers {
      #expect(try output.readToEnd() == "")
      #expect(child.wait() == 0)
    }
    try waitUntil("who is gone is forgotten") { try statistics()["watchers"] == 1 }
    // The one that was stopped is waited for once at most, and only if it held something.
    let overdue = try statistics()["overdue", default: 0]
    for frame: UInt32 in 21...120 { try guest.show(frame % 2 + 1, frame: frame, fence: frame) }
    let now = try statistics()
    #expect(now["frames"] == 120 && now["overdue", default: 0] <= overdue + 1, "\(overdue), then \(now)")
    stopped.child.signal(SIGCONT)
    stopped.child.signal(SIGKILL)
    try waitUntil("nobody holds anything") {
      let now = try statistics()
      return now["watchers"] == 0 && now["holds"] == 0 && now["connections"] == 1
    }
    helper.child.signal(SIGTERM)
    #expect(helper.child.wait() == 0)
    #expect(try helper.output.readToEnd() == "")
  }

  /// The page faults of a process that needed no reading (proc_pid_stat(5), `minflt`).
  private static func minorFaults(of pid: Int32) throws -> Int {
    let status = try readText(FilePath("/proc/\(pid)/stat"))
    // State, seven numbers, and this one, behind the name in parentheses.
    let fields = status.split(separator: ")").last?.split(separator: " ") ?? []
    guard fields.count > 7, let count = Int(fields[7]) else { throw TroubleInTest(status) }
    return count
  }

  /// In the test host the guest's own pages, elsewhere their copy.
  @Test("the example of a display gets every streamed picture, beside a caller that never answers")
  func streamed() throws {
    let guest = try DrawingGuest(helper)
    for id: UInt32 in 1...2 { try guest.create(id) }
    let count = 8
    let silent = try UnixSocket.connect(FilePath(socket))
    let call = #"{"method":"io.udmabridge.Display.Stream","upgrade":true}"# + "\0"
    unsafe try silent.fd.write(Array(call.utf8).span.bytes)
    let (child, output) = try startReading(
      "/usr/bin/python3", [repository.appending("examples/stream.py").string, socket, "\(count)"],
      withErrors: true)
    try waitUntil("both listen") { try statistics()["watchers"] == 2 }
    for frame in 1...UInt32(count) {
      let hash = fnv1a(try guest.show((frame - 1) % 2 + 1, frame: frame))
      // It has seen it before it is drawn over.
      #expect(
        try output.readLine() == "64x48 \(TestHost.isActive ? "buffer" : "pixels"), fnv1a \(hash)")
      try waitUntil("frame \(frame) is let go") { try statistics()["holds"] == 0 }
    }
    #expect(try output.readToEnd() == "")
    #expect(child.wait() == 0)
    try waitUntil("it is forgotten") { try statistics()["watchers"] == 1 }
    // Each that was shown to it alone is the guest's.
    try guest.turnOff()
    for id: UInt32 in 1...2 { try guest.unref(id) }
    #expect(helper.child.isRunning)
  }

  @Test("frames to several consumers end up causing no page faults in the helper")
  func faults() throws {
    let guest = try DrawingGuest(helper)
    for id: UInt32 in 1...2 {
      try guest.create(id)
      try guest.show(id, frame: id)
    }
    let tool = builtPrograms.appending("udmabridge").string
    let watching = try (0..<3).map { _ in
      try Child("/bin/sh", ["-c", "exec \"$0\" watch --control \"$1\" >/dev/null", tool, socket])
    }
    defer { for child in watching { child.signal(SIGKILL) } }
    try waitUntil("all watch") { try statistics()["watchers"] == 3 }
    for _ in 0..<200 { try guest.flush(2) }
    try waitUntil("they have caught up") { try statistics()["frames"] == 202 }
    // The kernel may take pages away from any process, which then come back by a fault, most of all where memory is
    // short. What a frame touches anew, or every other stretch, is in one of two stretches that follow each other. The
    // emulated machine would take minutes for as many.
    let frames = TestHost.isActive ? 100 : 300
    var faults: [Int] = []
    while faults.suffix(2) != [0, 0], faults.count < 20 {
      let before = try Self.minorFaults(of: helper.child.pid)
      for _ in 0..<frames { try guest.flush(2) }
      faults.append(try Self.minorFaults(of: helper.child.pid) - before)
    }
    #expect(faults.suffix(2) == [0, 0], "\(faults)")
    #expect(try statistics()["frames"] == 202 + faults.count * frames)
  }

  @Test("a fence waits a tenth of a second for the holder of the last picture, and only once")
  func fences() throws {
    let guest = try DrawingGuest(helper)
    for id: UInt32 in 1...2 { try guest.create(id, asBlob: true) }
    try guest.show(1, frame: 1, fence: 1)
    let holder = try UnixSocket.connect(FilePath(socket))
    let hold = #"{"method":"io.udmabridge.Display.Hold","parameters":{"buffer":1}}"# + "\0"
    unsafe try holder.fd.write(Array(hold.utf8).span.bytes)
    #expect(try holder.fd.read(upTo: 100) == Array(#"{"parameters":{}}"#.utf8) + [0])
    let start = Instant.now
    try guest.show(2, frame: 2, fence: 2)
    #expect(.now - start >= .milliseconds(99))
    #expect(try statistics()["overdue"] == 1)
    for frame: UInt32 in 3...10 { try guest.show(2 - frame % 2, frame: frame, fence: frame) }
    let now = try statistics()
    #expect(now["overdue"] == 1 && now["holds"] == 1 && now["frames"] == 10)
    #expect(helper.child.isRunning)
  }

  /// Holds what is shown, as another process would.
  private func hold(_ socket: String) throws -> Kept {
    let connection = try UnixSocket.connect(FilePath(socket))
    let call = #"{"method":"io.udmabridge.Display.GetFrame","parameters":{"hold":true}}"# + "\0"
    unsafe try connection.fd.write(Array(call.utf8).span.bytes)
    var answer: [UInt8] = []
    while answer.last != 0 {
      let more = try connection.fd.read(upTo: 65536)
      if more.isEmpty { throw TroubleInTest("the connection ended") }
      answer += more
    }
    return Kept(connection)
  }

  @Test("pages that somebody holds go back when they are let go, or after a second", .testHost)
  func pages() throws {
    let guest = try DrawingGuest(helper)
    // Where the machine is too busy for that within the second, it is done once more.
    try waitUntil("they go back when they are let go") {
      try guest.create(1)
      try guest.show(1, frame: 1)
      let before = try statistics()["cutOff"]
      var holder: Kept? = try hold(socket)
      try guest.turnOff()
      var isHeld = false
      try guest.unref(1) {
        isHeld = try statistics()["holds"] == 1
        holder = nil
      }
      let now = try statistics()
      #expect(now["holds"] == 0)
      return isHeld && holder == nil && now["cutOff"] == before
    }
    try guest.create(1)
    try guest.show(1, frame: 2)
    let before = try statistics()["cutOff", default: 0]
    let holder = try hold(socket)
    let start = Instant.now
    try guest.turnOff()
    try guest.unref(1)
    #expect(.now - start >= .seconds(1))
    let now = try statistics()
    #expect(now["holds"] == 0 && now["cutOff"] == before + 1)
    try holder.expectEnd()
  }

  /// Of a guest's pages the same is true (`pages`): here it is a copy, which the guest does not wait for.
  @Test("a copy that goes off the screen stays with its holder for a second")
  func copies() throws {
    let helper = try Self.start(["--backing", "shadow"])
    let socket = helper.directory.appending("control").string
    let guest = try DrawingGuest(helper)
    var cutOff = 0
    // Where the machine is too busy to look within the second, it is done once more.
    try waitUntil("the guest is answered while it is held") {
      try guest.create(1)
      try guest.show(1, frame: 1)
      let holder = try hold(socket)
      let start = Instant.now
      try guest.turnOff()
      try guest.unref(1)
      let isHeld = try statistics(socket)["holds"] == 1
      try holder.expectEnd()
      #expect(.now - start >= .seconds(1))
      cutOff += 1
      let now = try statistics(socket)
      #expect(now["holds"] == 0 && now["cutOff"] == cutOff)
      return isHeld
    }
  }

  @Test("a watcher hears of the end when QEMU goes")
  func end() throws {
    let program = try compiled()
    let (child, output) = try startReading(program, [socket, "5"], withErrors: true)
    try waitUntil("it watches") { try statistics()["watchers"] == 1 }
    do {
      let connection = try helper.connect()
      try greet(connection)
    }
    #expect(helper.child.wait() == 0)
    #expect(child.wait() == 0)
    #expect(try output.readToEnd() == "")
  }

  @Test(
    "bytes that are no call end their connection, and no other",
    arguments: ["hello\0", "{}\0", "\0", #"{"method":5}"# + "\0"])
  func broken(_ message: String) throws {
    let connection = try UnixSocket.connect(FilePath(socket))
    unsafe try connection.fd.write(Array(message.utf8).span.bytes)
    #expect(try connection.fd.read(upTo: 100).isEmpty)
    #expect(try statistics()["connections"] == 1)
  }

  @Test("too many connections are refused, and a helper that is full serves QEMU")
  func tooMany() throws {
    var kept: [Kept] = []
    for _ in 0..<40 { kept.append(Kept(try UnixSocket.connect(FilePath(socket)))) }
    try waitUntil("some are closed") { kept.count { (try? $0.socket.fd.read(upTo: 1).isEmpty) == true } == 8 }
    let guest = try DrawingGuest(helper)
    try guest.create(1)
    try guest.show(1, frame: 1)
    kept = []
    try waitUntil("their places are free") { (try? statistics()["connections"]) == 1 }
    #expect(try statistics()["refused"] == 8)
  }

  private final class Kept {
    let socket: UnixSocket
    init(_ socket: consuming UnixSocket) {
      try? socket.fd.setNonblocking()
      self.socket = socket
    }

    /// The service says nothing more, and closes the connection.
    func expectEnd() throws {
      try #require(try socket.fd.isReadable(within: Patience.limit), "it is cut off")
      #expect(try socket.fd.read(upTo: 100).isEmpty)
    }
  }

  // MARK: Who may use it

  private static let ownGroup = unsafe String(cString: getgrgid(getegid()).pointee.gr_name)

  private func mode(_ path: String) throws -> String {
    let attributes = try FileManager.default.attributesOfItem(atPath: path)
    return String((attributes[.posixPermissions] as? NSNumber)?.intValue ?? 0, radix: 8)
  }

  @Test(
    "the options decide the socket's mode",
    arguments: [
      ([], "600"), (["--control-group", ownGroup], "660"), (["--control-allow", "65534"], "666"),
      (["--control-mode", "640", "--control-allow", "group:\(ownGroup)"], "640"),
    ])
  func modes(_ options: [String], _ expected: String) throws {
    let helper = try Self.start(options)
    #expect(try mode(helper.directory.appending("control").string) == expected)
    helper.child.signal(SIGTERM)
    #expect(helper.child.wait() == 0)
    // Nobody was served, so that it could still be removed.
    #expect(!FileManager.default.fileExists(atPath: helper.directory.appending("control").string))
  }

  @Test("connections and watchers beyond the options' limits are refused")
  func places() throws {
    let helper = try Self.start(["--control-connections", "5", "--control-watchers", "3"])
    let socket = helper.directory.appending("control").string
    let call = #"{"method":"io.udmabridge.Display.Watch","more":true}"# + "\0"
    /// What a call of Watch is answered with first; nothing by who is not taken.
    func watch(_ connection: borrowing UnixSocket) throws -> String {
      var answer: [UInt8] = []
      var descriptors = ReceivedDescriptors()
      do throws(Errno) {
        _ = try connection.send(unsafe Array(call.utf8).span.bytes)
        while answer.last != 0, try connection.fd.isReadable(within: .seconds(60)),
          try connection.receive(into: &answer, upTo: 65536, descriptors: &descriptors) > 0
        {}
      } catch { if error != .brokenPipe, error != .connectionReset { throw error } }
      return String(decoding: answer, as: UTF8.self)
    }
    let (one, two, three) = (
      try Connected(socket), try Connected(socket), try Connected(socket)
    )
    for connected in [one, two, three] { #expect(try watch(connected.socket).contains("outputs")) }
    let (four, five) = (try Connected(socket), try Connected(socket))
    for connected in [four, five] {
      #expect(try watch(connected.socket).contains(#"Display.TooManyWatchers","parameters":{"limit":3}"#))
    }
    #expect(try watch(try Connected(socket).socket) == "")
    #expect(helper.child.isRunning)
  }

  private final class Connected {
    let socket: UnixSocket
    init(_ path: String) throws { socket = try UnixSocket.connect(FilePath(path)) }
  }

  @Test(
    "another user is refused, and served when allowed by number or by group",
    .enabled(if: geteuid() == 0, "needs root"),
    arguments: [
      (["--control-mode", "666"], false), (["--control-allow", "1"], false),
      (["--control-allow", "65534"], true),
      (["--control-allow", "group:nogroup"], true), (["--control-group", "nogroup"], true),
    ])
  func otherUser(_ options: [String], _ isServed: Bool) throws {
    let helper = try Self.start(options)
    let socket = helper.directory.appending("control").string
    _ = unsafe chmod(helper.directory.string, 0o755)
    let script = """
      import socket, sys
      s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
      try:
          s.sendall(b'{"method":"org.varlink.service.GetInfo"}' + bytes(1))
          print(len(s.recv(1000)) > 0)
      except (BrokenPipeError, ConnectionResetError): print(False)
      """
    let (status, output) = try run(
      "/usr/bin/setpriv",
      ["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", script, socket],
      withErrors: true)
    #expect(status == 0)
    #expect(output == (isServed ? "True\n" : "False\n"))
  }

  @Test("a control socket that cannot be made ends the helper with status 1 and one line")
  func cannotStart() throws {
    for (options, named) in [
      (["--control", "/nowhere/control"], "/nowhere/control"), (["--control", socket], "in use"),
      (["--control", "/tmp/unused-control", "--control-group", "no-such-group"], "no-such-group"),
      (["--control", "/tmp/unused-control", "--control-allow", "group:no-such-group"], "no-such-group"),
    ] {
      let (status, output) = try run(
        builtPrograms.appending("vhost-user-udmabuf"),
        ["--socket-path", "/tmp/unused", "--log-level", "critical"] + options, withErrors: true)
      #expect(status == 1)
      #expect(output.contains(named) && output.split(separator: "\n").count == 1, "\(output)")
    }
  }
}
