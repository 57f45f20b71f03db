import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

/// `udmabridge stream`, beside a running helper, with what GStreamer's unixfdsrc says and wants.
@Suite struct StreamTests {
  private let program = builtPrograms.appending("udmabridge")
  private let helper: Listening
  private let guest: DrawingGuest
  private var control: String { helper.control.string }
  private var stream: FilePath { helper.directory.appending("stream") }

  init() throws {
    helper = try Listening.withControl()
    guest = try DrawingGuest(helper)
  }

  @Test(
    "a wrong command line of stream has its status, and the mistake is named",
    arguments: [
      ([], 64, "--to"), (["--to", "unixfd:/s"], 64, "--control"),
      (["--control", "C", "--to", "/s"], 64, "unixfd:PATH"),
      (["--control", "C", "--to", "unixfd:"], 64, "--to"),
      (["--control", "C", "--to", "unixfd:/s", "--caps", "none"], 64, "dmabuf"),
      (["--control", "C", "--to", "unixfd:/s", "--scanout", "-1"], 64, "--scanout"),
      (["--control", "/nowhere", "--to", "unixfd:/s"], 1, "there is no control socket /nowhere"),
      (["--control", "C", "--to", "unixfd:/nowhere/s"], 1, "cannot listen on /nowhere/s"),
      (["--control", "C", "--to", "unixfd:F"], 1, "/file is a file, not a socket"),
    ] as [([String], Int32, String)])
  func mistakes(_ options: [String], _ status: Int32, _ what: String) throws {
    // Until it listens.
    try guest.create(1)
    let file = helper.directory.appending("file")
    try writeText(file, "")
    let named = ["C": control, "unixfd:F": "unixfd:\(file)"]
    let (ended, output) = try run(
      program, ["stream"] + options.map { named[$0] ?? $0 }, withErrors: true)
    #expect(ended == status)
    #expect(output.contains(what), "\(output)")
  }

  private func start(_ options: [String] = []) throws -> (child: Child, output: PipeEnd) {
    let (child, output) = try startReading(
      program, ["stream", "--control", control, "--to", "unixfd:\(stream)"] + options, withErrors: true)
    try waitUntil("it listens") {
      FileManager.default.fileExists(atPath: stream.string) || !child.isRunning
    }
    return (child, output)
  }

  private func next(_ client: UnixFDClient) throws -> UnixFDClient.Message {
    var message: UnixFDClient.Message?
    try waitUntil("a message comes") {
      message = try client.next()
      return message != nil
    }
    return message!
  }

  private func nextBuffer(_ client: UnixFDClient) throws -> UnixFDClient.Buffer {
    guard case .buffer(let buffer) = try next(client) else { throw TroubleInTest("that is no buffer") }
    return buffer
  }

  private func expectCaps(_ client: UnixFDClient) throws {
    guard case .caps(let text) = try next(client) else { throw TroubleInTest("these are no caps") }
    #expect(
      text == "video/x-raw, format=(string)BGRx, width=(int)64, height=(int)48, framerate=(fraction)0/1")
  }

  private func expectEnd(_ client: UnixFDClient) throws {
    guard case .end = try next(client), case .closed = try next(client) else {
      throw TroubleInTest("that is no end")
    }
  }

  /// The JSON objects of an output, one behind the other.
  private func objects(_ output: String) throws -> [[String: Any]] {
    try output.components(separatedBy: "\n}\n").dropLast().map {
      try JSONSerialization.jsonObject(with: Data("\($0)}".utf8)) as? [String: Any] ?? [:]
    }
  }

  @Test("a client gets each picture, pixel by pixel, and stream accounts for them at the end")
  func pictures() throws {
    try guest.create(1)
    try guest.create(2)
    let first = try guest.show(1, frame: 1)
    let (child, output) = try start(["--json"])
    let client = try UnixFDClient(stream)
    try expectCaps(client)
    var buffer = try nextBuffer(client)
    #expect(try buffer.bytes() == first)
    for frame: UInt32 in 2...61 {
      try client.release(buffer.id)
      let wanted = try guest.show(1 + frame % 2, frame: frame)
      buffer = try nextBuffer(client)
      #expect(try buffer.bytes() == wanted, "frame \(frame)")
      #expect(buffer.offset == UInt64(frame) && buffer.flags == 0)
    }
    // The helper ends: so do the stream and the pipeline.
    helper.child.signal(SIGTERM)
    try expectEnd(client)
    let told = try objects(output.readToEnd())
    #expect(child.wait() == 0)
    #expect(!FileManager.default.fileExists(atPath: stream.string))
    #expect(told.count == 3)
    #expect(told.first?["caps"] as? String != nil && told.first?["copied"] == nil)
    #expect(told[1]["sent"] as? Int == 61 && told[1]["skipped"] as? Int == 0)
    #expect(told[1]["pid"] as? Int == Int(getpid()))
    #expect(told[2]["frames"] as? Int == 61 && told[2]["clients"] as? Int == 1)
  }

  @Test("each fast picture is either sent to a client or counted as skipped, and the last one is sent")
  func fast() throws {
    for id: UInt32 in 1...3 { try guest.create(id) }
    try guest.show(1, frame: 1)
    let (child, output) = try start(["--json"])
    let (client, deaf) = (try UnixFDClient(stream), try UnixFDClient(stream))
    try expectCaps(client)
    var last = try nextBuffer(client)
    try client.release(last.id)
    var (came, missing) = (1, 0)
    for frame: UInt32 in 2...300 {
      try guest.show(1 + frame % 3, frame: frame)
      while case .buffer(let buffer)? = try client.next() {
        came += 1
        missing += Int(buffer.offset - last.offset) - 1
        #expect((buffer.flags == 0x40) == (buffer.offset != last.offset + 1))
        try client.release(buffer.id)
        last = buffer
      }
    }
    // The newest one comes in any case.
    while last.offset < 300 {
      let buffer = try nextBuffer(client)
      came += 1
      missing += Int(buffer.offset - last.offset) - 1
      try client.release(buffer.id)
      last = buffer
    }
    #expect(came + missing == 300)
    withExtendedLifetime(deaf) { child.signal(SIGTERM) }
    try expectEnd(client)
    let told = try objects(output.readToEnd())
    #expect(child.wait() == 0)
    let clients = told.filter { $0["client"] != nil }
    #expect(clients.count == 2)
    for one in clients {
      #expect((one["sent"] as? Int ?? 0) + (one["skipped"] as? Int ?? 0) == 300, "\(one)")
    }
    #expect(clients.contains { $0["sent"] as? Int == came && $0["skipped"] as? Int == missing })
  }

  @Test("clients that lie, stop or die do not keep another one from the next picture")
  func badClients() throws {
    try guest.create(1)
    try guest.show(1, frame: 1)
    let (child, output) = try start()
    let liar = try UnixFDClient(stream)
    try liar.send([7, 7, 7, 7, 7, 7, 7, 7])
    let deaf = try UnixFDClient(stream)
    // It ends in the middle of a word.
    let script = """
      import socket, sys
      s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
      while len(s.recv(4096)) > 0: s.sendall(b"\\x01\\0"); break
      """
    #expect(try run("/usr/bin/python3", ["-c", script, stream.string]).status == 0)
    let good = try UnixFDClient(stream)
    try expectCaps(good)
    try good.release(nextBuffer(good).id)
    let wanted = try guest.show(1, frame: 2)
    #expect(try nextBuffer(good).bytes() == wanted)
    withExtendedLifetime(deaf) { child.signal(SIGINT) }
    try expectEnd(good)
    let text = try output.readToEnd()
    #expect(child.wait() == 0)
    #expect(text.contains("it sent command 117901063; a client sends RELEASE_BUFFER (1) alone"), "\(text)")
    #expect(text.contains("2 frames; 4 clients, 0 refused: "), "\(text)")
  }

  @Test("when the helper is killed, clients hear of the end, and the status is 1")
  func killed() throws {
    try guest.create(1)
    try guest.show(1, frame: 1)
    let (child, output) = try start()
    let client = try UnixFDClient(stream)
    try expectCaps(client)
    try client.release(nextBuffer(client).id)
    helper.child.signal(SIGKILL)
    try expectEnd(client)
    #expect(child.wait() == 1)
    let text = try output.readToEnd()
    #expect(text.contains("1 frame; 1 client, 0 refused: 1 sent, 0 skipped"), "\(text)")
  }

  @Test("the socket is its user's alone, and one that a killed process left behind is replaced")
  func socketFile() throws {
    try guest.create(1)
    try guest.show(1, frame: 1)
    let (child, _) = try start()
    #expect(try FileAccess(of: stream).mode & 0o777 == 0o600)
    child.signal(SIGKILL)
    child.wait()
    let (next, output) = try startReading(
      program, ["stream", "--control", control, "--to", "unixfd:\(stream)"])
    var client: UnixFDClient?
    try waitUntil("it listens") {
      client = try? UnixFDClient(stream)
      return client != nil
    }
    try expectCaps(client!)
    next.signal(SIGTERM)
    #expect(try output.readToEnd().contains("; it was told of the end\n"))
    #expect(next.wait() == 0)
  }
}
