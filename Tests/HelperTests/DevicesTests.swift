import Fixtures
import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

/// The helper's profiles, offers, and the two devices that it may serve, as a process.
@Suite struct DevicesTests {
  private let program = builtPrograms.appending("vhost-user-udmabuf")

  @Test(
    "an offer that cannot be made says why, on one line, and ends with status 1",
    arguments: [
      ("5=fd:99", "no inherited descriptor 99"), ("5=fd:0", "neither a memfd nor a dma-buf"),
      ("5=dumb:640x480@/dev/dri/none", "/dev/dri/none"), ("5=memfd:0", "memfd"),
      ("5=memfd:2G", "--host-memory"),
    ])
  func offerThatCannotBe(_ offer: String, _ named: String) throws {
    let (status, output) = try run(
      program,
      ["--socket-path", "/tmp/unused", "--profile", "share", "--log-level", "critical", "--offer", offer],
      withErrors: true)
    #expect(status == 1)
    #expect(output.contains("--offer 5") && output.contains(named), "\(output)")
    #expect(output.split(separator: "\n").count == 1, "\(output)")
  }

  @Test(
    "options that make no sense are refused",
    arguments: [
      ["--profile", "all"], ["--offer", "5=memfd:1M"], ["--profile", "share", "--offer", "0=memfd:1M"],
      ["--profile", "share", "--offer", "5"], ["--profile", "share", "--offer", "5=memfd:1M,rw"],
      ["--profile", "share", "--offer", "5=memfd:1M,uses=0"], ["--profile", "share", "--offer", "5=file:/x"],
      ["--profile", "share", "--offer", "5=dumb:640x480"], ["--profile", "share", "--host-memory", "1"],
      ["--profile", "share", "--host-memory", "0"],
      ["--profile", "share", "--offer", "5=memfd:1M", "--offer", "5=memfd:2M"],
      ["--profile", "share", "--share-socket-path", "/tmp/other"],
      ["--share-socket-path", "/tmp/other", "--share-fd", "4"],
    ])
  func usage(_ arguments: [String]) throws {
    let (status, output) = try run(program, ["--socket-path", "/tmp/unused"] + arguments, withErrors: true)
    #expect(status == 64, "\(output)")
  }

  @Test("the helper has an inherited memfd open once for each offer, read-only if the offer is")
  func inheritedMemfd() throws {
    let memfd = try Memfd.create(name: "inherited", size: 8192, seals: [.shrink])
    try UnixSocket.pair { ours, theirs in
      let (child, _) = try startReading(
        program,
        [
          "--fd", "70", "--profile", "share", "--log-level", "critical", "--offer", "5=fd:80", "--offer",
          "6=fd:80,ro",
        ],
        withErrors: true, descriptors: [70: theirs.fd.withRaw { $0 }, 80: memfd.number])
      _ = consume theirs
      // What each offer gives away is in the helper's descriptors: the same file, once not to be written.
      func modes() -> [String] {
        directoryEntries(FilePath("/proc/\(child.pid)/fd")).compactMap { number in
          let path = "/proc/\(child.pid)/fd/\(number)"
          // What is opened at the start for a moment is gone already.
          guard let target = try? FileManager.default.destinationOfSymbolicLink(atPath: path),
            target.contains("inherited"),
            let information = try? readText(FilePath("/proc/\(child.pid)/fdinfo/\(number)")),
            let flags = information.split(separator: "\n").first(where: { $0.hasPrefix("flags:") })
          else { return nil }
          return String(flags.suffix(1))
        }
      }
      try waitUntil("the offers are open") { modes().contains("0") && modes().contains("2") }
      try greet(ours)
      _ = consume ours
      #expect(child.wait() == 0)
    }
  }

  @Test("an inherited memfd without F_SEAL_SHRINK is refused, with the remedy")
  func unsealed() throws {
    for (seals, isTaken): (Seals, Bool) in [([], false), (.grow, false), (.shrink, true)] {
      let memfd = try Memfd.create(name: "unsealed", size: 4096, seals: seals)
      let directory = try makeTemporaryDirectory()
      defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
      let socket = directory.appending("socket").string
      let (child, output) = try startReading(
        program,
        ["--socket-path", socket, "--profile", "share", "--log-level", "critical", "--offer", "5=fd:80"],
        withErrors: true, descriptors: [80: memfd.number])
      try waitUntil("it listens, or ends") {
        FileManager.default.fileExists(atPath: socket) || !child.isRunning
      }
      #expect(child.isRunning == isTaken, "\(seals)")
      child.signal(SIGTERM)
      #expect(child.wait() == (isTaken ? 0 : 1))
      let text = try output.readToEnd()
      #expect(text.isEmpty == isTaken && text.contains("F_SEAL_SHRINK") != isTaken, "\(text)")
    }
  }

  /// A front end at a socket of the helper.
  private func frontEnd(_ socket: FilePath, _ helper: Listening) throws -> FrontEnd {
    var connected: UnixSocket?
    try waitUntil("the helper listens") {
      connected = try? UnixSocket.connect(socket)
      return connected != nil || !helper.child.isRunning
    }
    guard let connection = connected.take() else { throw TroubleInTest(try helper.output.readToEnd()) }
    return try FrontEnd(connection, turn: FrontEnd.turns { helper.child.isRunning })
  }

  /// Asks for an offered memfd, writes its first bytes, and says its inode.
  private static let askForOffer = """
    import os, socket, sys
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
    call = '{"method":"io.udmabridge.Display.GetOffer","parameters":{"offer":%s}}'
    for number in sys.argv[2:]:
        s.sendall((call % number).encode() + bytes(1))
        reply, fds, _, _ = socket.recv_fds(s, 4096, 8)
        print(reply[:-1].decode())
        for fd in fds: print(os.fstat(fd).st_ino, os.pwrite(fd, b"from the host", 0))
    """

  @Test("the control socket hands out the memfds that the helper made, and no other offers")
  func handedOut() throws {
    let directory = try makeTemporaryDirectory()
    let control = directory.appending("control").string
    let other = try Memfd.create(name: "other", size: 4096, seals: [.shrink])
    let (child, said) = try startReading(
      program,
      [
        "--socket-path", directory.appending("socket").string, "--profile", "share", "--log-level", "error",
        "--control", control, "--offer", "5=memfd:64K", "--offer", "6=memfd:4K,ro", "--offer", "7=fd:80",
      ], withErrors: true, descriptors: [80: other.number])
    try waitUntil("it listens") { FileManager.default.fileExists(atPath: control) || !child.isRunning }
    let (status, output) = try run(
      "/usr/bin/python3", ["-c", Self.askForOffer, control, "5", "6", "7", "8", "-1"], withErrors: true)
    #expect(status == 0)
    let lines = output.split(separator: "\n").map(String.init)
    let none = { (number: Int) in
      #"{"error":"io.udmabridge.Display.NoSuchOffer","parameters":{"offer":\#(number)}}"#
    }
    try #require(lines.count == 7, "\(output)")
    #expect(lines[0] == #"{"parameters":{"size":65536,"fileDescriptor":0}}"#)
    #expect(lines[2] == #"{"parameters":{"size":4096,"fileDescriptor":0}}"#)
    #expect(lines[1].hasSuffix(" 13") && lines[3].hasSuffix(" 13") && lines[1] != lines[3])
    #expect(Array(lines[4...]) == [none(7), none(8), none(-1)])
    child.signal(SIGTERM)
    #expect(child.wait() == 0)
    #expect(try said.readToEnd() == "")
  }

  @Test("memory that is offered read-only is copied where it is shown")
  func readOnlyShown() throws {
    let directory = try makeTemporaryDirectory()
    let control = directory.appending("control").string
    let helper = try Listening(
      program,
      options: ["--profile", "share", "--control", control, "--offer", "5=memfd:16K,ro"],
      directory: directory)
    let ram = try GuestRAM([.init(at: 0, length: 4 << 20)])
    let share = try frontEnd(helper.socket, helper)
    let channel = try RequestChannel()
    try share.realize(memory: .slots, backendRequests: channel.number, sharedMemory: true)
    let queue = DriverQueue(ram)
    try share.start([queue, DriverQueue(ram, size: 16)])
    func ask(_ type: UInt32, _ numbers: UInt32...) throws -> UInt32 {
      queue.send(([type, 0, 0, 0, 0, 0] + numbers).flatMap(\.bytes), answer: 64)
      share.kick(0)
      var answer: [UInt8]?
      try waitUntil("an answer") {
        answer = queue.receive()?.bytes
        return answer != nil
      }
      return answer!.value(at: 0)
    }
    // RESOURCE_CREATE_BLOB of the host's memory, mappable; SET_SCANOUT_BLOB of 64x64 B8G8R8X8; RESOURCE_FLUSH.
    #expect(try ask(0x10c, 1, 2, 1, 0, 5, 0, 16384, 0) == 0x1100)
    #expect(try ask(0x10d, 0, 0, 64, 64, 0, 1, 64, 64, 2, 0, 256, 0, 0, 0, 0, 0, 0, 0) == 0x1100)
    #expect(try ask(0x104, 0, 0, 64, 64, 1, 0) == 0x1100)
    let script = """
      import json, socket, sys
      s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
      for call in '{"method":"io.udmabridge.Display.GetFrame"}', '{"method":"io.udmabridge.Display.Statistics"}':
          s.sendall(call.encode() + bytes(1))
          reply, fds, _, _ = socket.recv_fds(s, 65536, 8)
          reply = json.loads(reply[:-1])["parameters"]
          if "frame" in reply: print(reply["frame"]["kind"])
          if "device" in reply: print(reply["device"]["shadows"])
      """
    let (status, output) = try run("/usr/bin/python3", ["-c", script, control], withErrors: true)
    #expect(status == 0)
    #expect(output == "shadow\n{'readOnly': 1}\n")
  }

  @Test("one process serves two devices in one memory, and one of them may leave")
  func twoDevices() throws {
    let directory = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
    let second = directory.appending("share")
    let helper = try Listening(
      program,
      options: ["--share-socket-path", second.string, "--host-memory", "1M", "--offer", "5=memfd:64K"])
    let ram = try GuestRAM([.init(at: 0, length: 4 << 20)])
    var display: FrontEnd? = try frontEnd(helper.socket, helper)
    try display?.realize(memory: .slots)
    // VIRTIO_GPU_F_EDID, _RESOURCE_UUID, _RESOURCE_BLOB, _BLOB_ALIGNMENT.
    #expect(display?.offeredFeatures.ofDevice == 0b10_1110)
    let displayQueue = DriverQueue(ram)
    try display?.start([displayQueue, DriverQueue(ram, size: 16)])
    // The second is still waited for.
    #expect(FileManager.default.fileExists(atPath: second.string))
    let share = try frontEnd(second, helper)
    let channel = try RequestChannel()
    try share.realize(memory: .slots, backendRequests: channel.number, sharedMemory: true)
    #expect(share.offeredFeatures.ofDevice == 0b11_1111)
    let sizes = try share.ask(FrontEnd.getSharedMemoryConfig)
    #expect(sizes.value(at: 16) as UInt64 == 1 << 20)
    let control = DriverQueue(ram)
    try share.start([control, DriverQueue(ram, size: 16)])
    #expect(!FileManager.default.fileExists(atPath: second.string))

    // The guest's memory is mapped once for both.
    let inode = "\(ram.files[0].status.inode)"
    let mapped = try readText(FilePath("/proc/\(helper.child.pid)/maps")).split(separator: "\n")
      .count { $0.split(separator: " ", omittingEmptySubsequences: true).dropFirst(4).first == inode[...] }
    #expect(mapped == 1)

    // It has a buffer when it is unplugged, and nothing of that is left.
    displayQueue.send(
      [0x01, 0x01, 0, 0] + [UInt8](repeating: 0, count: 20) + ([1, 2, 64, 64] as [UInt32]).flatMap(\.bytes),
      answer: 24)
    display?.kick(0)
    try waitUntil("the buffer is made") { displayQueue.receive() != nil }
    func liveResources() throws -> Int? {
      // What is read may still be what it wrote before.
      helper.child.signal(SIGUSR1)
      return json(helper.stats)?["liveResources"] as? Int
    }
    try waitUntil("it counts") { try liveResources() == 1 }

    // One is unplugged: the other goes on, and its host memory is mapped.
    display = nil
    try waitUntil("its buffer is gone") { try liveResources() == 0 }
    let words: (UInt32...) -> [UInt8] = { (numbers: UInt32...) in numbers.flatMap(\.bytes) }
    func ask(_ request: [UInt8]) throws -> UInt32 {
      control.send(request, answer: 64)
      share.kick(0)
      var answer: [UInt8]?
      try waitUntil("an answer") {
        answer = control.receive()?.bytes
        return answer != nil
      }
      return answer!.value(at: 0)
    }
    let header: (UInt32) -> [UInt8] = { words($0, 0) + UInt64(0).bytes + words(0, 0) }
    #expect(try ask(header(0x10c) + words(1, 2, 1, 0) + UInt64(5).bytes + UInt64(65536).bytes) == 0x1100)
    control.send(header(0x208) + words(1, 0) + UInt64(4096).bytes, answer: 64)
    share.kick(0)
    var asked: [RequestChannel.Asked] = []
    try waitUntil("the front end is asked") {
      asked += try channel.next()
      return !asked.isEmpty
    }
    #expect(asked[0].code == 9 && asked[0].inode != nil)
    try channel.acknowledge(9)
    try waitUntil("it is mapped") { control.receive()?.bytes.value(at: 0) == UInt32(0x1106) }
    #expect(helper.child.isRunning)
  }
}

extension UInt64 {
  /// The bits of the device itself.
  fileprivate var ofDevice: UInt64 { self & 0xff_ffff }
}
