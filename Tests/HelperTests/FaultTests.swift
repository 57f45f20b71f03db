import Fixtures
import Foundation
import Glibc
import Guest
import Linux
import SystemPackage
import TestSupport
import Testing

/// What breaks around a running helper, and what is left of it: the cases of docs/faults.md that need no card.
@Suite struct FaultTests {
  private let program = builtPrograms.appending("vhost-user-udmabuf")

  // MARK: A front end at some point of its session

  enum Point: String, CaseIterable, Sendable { case connected, greeted, realized, running }

  /// A helper, and a front end that has come as far as `point`.
  private final class Session {
    let helper: Listening
    let frontEnd: FrontEnd
    let queues: [DriverQueue]

    init(_ program: FilePath, at point: Point, _ ram: GuestRAM? = nil) throws {
      let helper = try Listening(program)
      self.helper = helper
      let ram = try ram ?? GuestRAM.likeQEMU()
      queues = [DriverQueue(ram), DriverQueue(ram, size: 16)]
      frontEnd = try FrontEnd(helper.connect(), turn: FrontEnd.turns { helper.child.isRunning })
      if point == .connected { return }
      _ = try frontEnd.askWord(FrontEnd.getFeatures)
      if point == .greeted { return }
      try frontEnd.realize(memory: .table)
      if point == .running { try frontEnd.start(queues) }
    }

    /// The device answers a command.
    func expectAnswer() throws {
      queues[0].send(FaultTests.getDisplayInfo, answer: 408)
      frontEnd.kick(0)
      try waitUntil("the device answers") { queues[0].receive()?.written == 408 }
    }

    /// It has ended so, and nothing of it is left.
    func expectEnd(status: Int32, saying words: String?) throws {
      let ended = helper.child.wait()
      #expect(ended == status)
      let output = try helper.output.readToEnd()
      #expect(output.split(separator: "\n").count == (words == nil ? 0 : 1), "\(output)")
      if let words { #expect(output.contains(words), "\(output)") }
      #expect(!FileManager.default.fileExists(atPath: helper.socket.string), "the socket's file is left")
      let statistics = try #require(json(helper.stats), "no statistics")
      #expect(statistics["liveResources"] as? Int == 0 && statistics["liveDMABufs"] as? Int == 0)
    }

    func shutDown(_ direction: Direction) {
      let how =
        switch direction {
        case .reading: SHUT_RD
        case .writing: SHUT_WR
        case .both: SHUT_RDWR
        }
      #expect(frontEnd.socket.fd.withRaw { shutdown($0, CInt(how)) } == 0)
    }
  }

  /// VIRTIO_GPU_CMD_GET_DISPLAY_INFO
  private static let getDisplayInfo: [UInt8] = [0x00, 0x01] + [UInt8](repeating: 0, count: 22)

  // MARK: The socket half closed

  /// Which of its directions a front end gives up.
  enum Direction: CaseIterable, Sendable { case reading, writing, both }

  @Test(
    "a half closed socket ends the helper, unless nobody has spoken on it, and nothing is left",
    arguments: Point.allCases, Direction.allCases)
  func halfClosed(_ point: Point, _ direction: Direction) throws {
    let session = try Session(program, at: point)
    session.shutDown(direction)
    switch (point, direction) {
    case (_, .reading):
      // It is noticed when the next answer cannot be sent. Until then the device works.
      if point == .running { try session.expectAnswer() }
      try session.frontEnd.send(FrontEnd.getFeatures)
      try session.expectEnd(status: 1, saying: "the vhost-user socket failed")
    case (.connected, _):
      // Whoever that was is not waited for, and another one comes.
      let other = try session.helper.connect()
      try greet(other)
      _ = consume other
      try session.expectEnd(status: 0, saying: nil)
    default:
      try session.expectEnd(status: 0, saying: nil)
    }
  }

  // MARK: A message stopped in the middle

  struct Part: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let request: UInt32
    let payload: Int
    /// How many bytes come, of the header's 12 and the payload.
    let sent: Int
    var descriptors = 0
    var name = "a header"
  }

  enum End: String, CaseIterable, Sendable { case closed, halfClosed, heldOpen }

  static let parts = [
    Part(testDescription: "a byte", request: FrontEnd.getFeatures, payload: 0, sent: 1),
    Part(testDescription: "all of a header but a byte", request: FrontEnd.getFeatures, payload: 0, sent: 11),
    Part(
      testDescription: "a header alone", request: FrontEnd.setVringNum, payload: 8, sent: 12,
      name: "SET_VRING_NUM"),
    Part(
      testDescription: "a part of the payload", request: FrontEnd.setVringAddress, payload: 40, sent: 12 + 17,
      name: "SET_VRING_ADDR"),
    Part(
      testDescription: "a part of a header, with a descriptor", request: FrontEnd.setVringKick, payload: 8,
      sent: 4, descriptors: 1),
    Part(
      testDescription: "a header alone, with a descriptor", request: FrontEnd.setVringCall, payload: 8,
      sent: 12, descriptors: 1, name: "SET_VRING_CALL"),
    Part(
      testDescription: "a part of a memory table, with all its descriptors", request: FrontEnd.setMemoryTable,
      payload: 8 + 3 * 32, sent: 12 + 8 + 32, descriptors: 3, name: "SET_MEM_TABLE"),
  ]

  @Test(
    "a message that stops in the middle delays nothing, and is named at the end", arguments: parts,
    End.allCases)
  func stoppedMessage(_ part: Part, _ end: End) throws {
    let session = try Session(program, at: .running)
    let header = [part.request, 1, UInt32(part.payload)].flatMap { $0.bytes }
    let message = header + [UInt8](repeating: 0, count: part.payload)
    try FD.open("/dev/null", writable: true).withRaw { number in
      try session.frontEnd.sendBytes(
        Array(message.prefix(part.sent)), descriptors: [CInt](repeating: number, count: part.descriptors))
    }
    // Nobody waits for the rest.
    try session.expectAnswer()
    switch end {
    case .closed, .halfClosed:
      session.shutDown(end == .closed ? .both : .writing)
      try session.expectEnd(status: 1, saying: "closed the connection in the middle of \(part.name)")
    case .heldOpen:
      session.helper.child.signal(SIGUSR1)
      try waitUntil("the statistics are there") { json(session.helper.stats) != nil }
      try session.expectAnswer()
      session.helper.child.signal(SIGTERM)
      try session.expectEnd(status: 0, saying: nil)
    }
  }

  // MARK: EMFILE

  @Test(
    "with too few descriptors the helper ends with status 1, the limit and the remedy",
    arguments: [8, 16, 32, 63])
  func tooFewDescriptors(_ limit: Int) throws {
    let helper = try Listening(program, limit: "-n \(limit)")
    #expect(helper.child.wait() == 1)
    let output = try helper.output.readToEnd()
    #expect(output.split(separator: "\n").count == 1, "\(output)")
    #expect(output.contains("\(limit) open descriptors (RLIMIT_NOFILE)") && output.contains("ulimit -Hn"))
    #expect(!FileManager.default.fileExists(atPath: helper.socket.string))
  }

  /// Blocks in a file each, behind the one that the rings are in.
  private func memory(blocks count: Int) throws -> GuestRAM {
    try GuestRAM(
      [.init(at: 0, length: 4 << 20)]
        + (1...count).map { .init(at: UInt64($0) << 24, length: 65536, file: $0) })
  }

  @Test(
    "the fewest descriptors with which the helper starts are enough for a guest",
    arguments: FrontEnd.MemoryStyle.allCases)
  func fewestDescriptors(_ style: FrontEnd.MemoryStyle) throws {
    let helper = try Listening(program, limit: "-n 64")
    let ram = try memory(blocks: 7)
    let queues = [DriverQueue(ram), DriverQueue(ram, size: 16)]
    let frontEnd = try FrontEnd(helper.connect(), turn: FrontEnd.turns { helper.child.isRunning })
    try frontEnd.realize(memory: style)
    for _ in 0..<2 {
      try frontEnd.start(queues)
      queues[0].send(Self.getDisplayInfo, answer: 408)
      frontEnd.kick(0)
      try waitUntil("the device answers") { queues[0].receive()?.written == 408 }
      _ = try frontEnd.stop()
    }
    _ = consume frontEnd
    #expect(helper.child.wait() == 0)
    #expect(try helper.output.readToEnd() == "")
  }

  @Test("more memory regions than descriptors end the helper with status 1 and the remedy")
  func tooManyRegions() throws {
    let helper = try Listening(program, limit: "-n 64")
    let frontEnd = try FrontEnd(helper.connect(), turn: FrontEnd.turns { helper.child.isRunning })
    try frontEnd.realize(memory: .slots)
    let ram = try memory(blocks: 80)
    #expect(throws: FrontEndError.closed) { try frontEnd.sendMemory(ram) }
    #expect(helper.child.wait() == 1)
    let output = try helper.output.readToEnd()
    #expect(output.split(separator: "\n").count == 1, "\(output)")
    #expect(output.contains("ADD_MEM_REG") && output.contains("RLIMIT_NOFILE"), "\(output)")
    #expect(output.contains("ulimit -Hn"))
    #expect(!FileManager.default.fileExists(atPath: helper.socket.string))
  }

  // MARK: ENOSPC

  @Test(
    "if the statistics cannot be written, the helper says so each time, and goes on",
    arguments: [("a full file system", nil, "/dev/full"), ("a limit on the size of files", "-f 0", nil)]
      as [(String, String?, String?)])
  func noRoomForStatistics(_ name: String, _ limit: String?, _ path: String?) throws {
    let helper = try Listening(program, limit: limit, stats: path.map { FilePath($0) })
    let connection = try helper.connect()
    try greet(connection)
    helper.child.signal(SIGUSR1)
    let words = "the statistics cannot be written"
    let line = try #require(try helper.output.readLine())
    #expect(line.contains(words), "\(line)")
    // It works on.
    try greet(connection)
    helper.child.signal(SIGTERM)
    #expect(helper.child.wait() == 0)
    let lines = try helper.output.readToEnd().split(separator: "\n")
    #expect(lines.count == 1 && lines[0].contains(words), "\(lines)")
    #expect(!FileManager.default.fileExists(atPath: helper.socket.string))
  }

  @Test("a full file system under the guest's RAM ends the helper with status 1 and the reason", .testHost)
  func fullFileSystem() throws {
    let directory = try makeTemporaryDirectory()
    try #require(run("/bin/mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", directory.string]).status == 0)
    defer { _ = try? run("/bin/umount", ["--lazy", directory.string]) }
    let path = directory.appending("ram")
    let ram = try GuestRAM([.init(at: 0, length: 16 << 20)]) { _, size in
      let fd = try FD.create(path)
      try #require(fd.withRaw { ftruncate($0, Int(size)) } == 0)
      return try Memfd(adopting: fd)
    }
    let session = try Session(program, at: .running, ram)
    try session.expectAnswer()
    // All that the guest has not touched yet is gone now.
    #expect(try run("/bin/dd", ["if=/dev/zero", "of=\(directory)/rest", "bs=4096"]).status != 0)
    session.queues[0].add(
      readable: [.init(address: GuestAddress(8 << 20), length: 24)],
      writable: [.init(address: GuestAddress(9 << 20), length: 408)])
    session.frontEnd.kick(0)
    #expect(session.helper.child.wait() == 1)
    let output = try session.helper.output.readToEnd()
    #expect(output.contains("its file system is full"), "\(output)")
    #expect(output.split(separator: "\n").count == 1, "\(output)")
    #expect(!FileManager.default.fileExists(atPath: session.helper.socket.string))
  }
}
