import CSeccomp
import Fixtures
import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

/// `vhost-user-udmabuf` in its sandbox, which is on unless it is switched off. What the other tests have it do,
/// it does in there.
@Suite struct SandboxedHelperTests {
  private let program = builtPrograms.appending("vhost-user-udmabuf")

  /// A helper that listens, and a connection to it.
  private func start(_ options: [String] = []) throws -> (Child, PipeEnd, socket: FilePath) {
    let socket = try makeTemporaryDirectory().appending("socket")
    let arguments = ["--socket-path", socket.string, "--log-level", "error"] + options
    let (child, output) = try startReading(program, arguments, withErrors: true)
    try waitUntil("it listens") { FileManager.default.fileExists(atPath: socket.string) || !child.isRunning }
    return (child, output, socket)
  }

  private func end(_ child: Child, _ socket: FilePath) {
    child.signal(SIGKILL)
    child.wait()
    _ = try? FileManager.default.removeItem(atPath: socket.removingLastComponent().string)
  }

  /// What the kernel tells of a process, by its key.
  private func status(_ child: Child) throws -> [String: String] {
    var status: [String: String] = [:]
    for line in try readText(FilePath("/proc/\(child.pid)/status")).split(separator: "\n") {
      let words = line.split(separator: ":", maxSplits: 1)
      status[String(words[0])] = words.last?.trimmingCharacters(in: .whitespaces)
    }
    return status
  }

  @Test("a serving helper has two filters, no capability, no new privileges and no core file")
  func confined() throws {
    let (child, _, socket) = try start()
    defer { end(child, socket) }
    try waitUntil("the first phase") { try self.status(child)["Seccomp_filters"] == "1" }
    let connection = try UnixSocket.connect(socket)
    // The first message tells that it is no passer-by: VHOST_USER_GET_FEATURES.
    unsafe try connection.fd.write(([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0] as [UInt8]).span.bytes)
    try waitUntil("the second phase") { try self.status(child)["Seccomp_filters"] == "2" }
    let status = try self.status(child)
    #expect(status["Seccomp"] == "2")
    #expect(status["NoNewPrivs"] == "1")
    #expect(status["Threads"] == "1")
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] + (geteuid() == 0 ? ["CapBnd"] : []) {
      #expect(status[set] == "0000000000000000", "\(set)")
    }
    let limits = try readText(FilePath("/proc/\(child.pid)/limits")).split(separator: "\n")
    let core = limits.first { $0.hasPrefix("Max core file size") }
    #expect(core?.split(separator: " ").suffix(3) == ["0", "0", "bytes"])
    // Its answer must have been read, or the end of the connection is a reset.
    #expect(try connection.fd.read(upTo: 64).count == 20)
    _ = consume connection
    #expect(child.wait() == 0)
  }

  @Test("--sandbox off leaves out the filters and the ban on privileges, and warns")
  func off() throws {
    let (child, output, socket) = try start(["--sandbox", "off", "--log-level", "warning"])
    defer { end(child, socket) }
    #expect(try status(child)["Seccomp"] == "0")
    #expect(try status(child)["NoNewPrivs"] == "0")
    child.signal(SIGTERM)
    #expect(child.wait() == 0)
    #expect(try output.readToEnd().contains("the sandbox is off"))
  }

  @Test(
    "a helper in the sandbox serves a stop and a new start, and SIGUSR1 between them",
    arguments: FrontEnd.MemoryStyle.allCases)
  func session(_ memory: FrontEnd.MemoryStyle) throws {
    let (child, output, socket) = try start()
    defer { end(child, socket) }
    let ram = try GuestRAM.likeQEMU()
    let queues = [DriverQueue(ram), DriverQueue(ram, size: 16)]
    let frontEnd = try FrontEnd(UnixSocket.connect(socket), turn: FrontEnd.turns { child.isRunning })
    try frontEnd.realize(memory: memory)
    for _ in 0..<2 {
      try frontEnd.start(queues)
      let displayInfo: [UInt8] = [0x00, 0x01] + [UInt8](repeating: 0, count: 22)
      queues[0].send(displayInfo, answer: 408)
      frontEnd.kick(0)
      var answer: [UInt8]?
      try waitUntil("the answer") {
        answer = queues[0].receive()?.bytes
        return answer != nil
      }
      // RESP_OK_DISPLAY_INFO
      #expect(answer?.prefix(4) == [0x01, 0x11, 0, 0])
      child.signal(SIGUSR1)
      _ = try frontEnd.stop()
    }
    child.signal(SIGTERM)
    #expect(child.wait() == 0)
    #expect(try output.readToEnd() == "")
  }

  @Test("a kernel without seccomp filters ends the helper with status 1, the reason and the remedy")
  func noSeccomp() async throws {
    let socket = try makeTemporaryDirectory().appending("socket")
    defer { _ = try? FileManager.default.removeItem(atPath: socket.removingLastComponent().string) }
    let result = await #expect(processExitsWith: .exitCode(1), observing: [\.standardErrorContent]) {
      [program = program.string as String, socket = socket.string as String] in
      // What such a kernel answers: ENOSYS to seccomp, EINVAL to prctl(PR_SET_SECCOMP).
      become(
        [program, "--socket-path", socket, "--log-level", "critical"],
        without: [
          ("seccomp", ENOSYS, []),
          ("prctl", EINVAL, [scmp_arg_cmp(arg: 0, op: SCMP_CMP_EQ, datum_a: 22, datum_b: 0)]),
        ])
    }
    #expect(
      String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
        == "vhost-user-udmabuf: the sandbox cannot be entered: loading its filter: "
        + "the kernel has no seccomp filters; --sandbox off runs without it\n")
  }

  @Test("the control socket's mode and group are set without calls that take its name")
  func noNames() async throws {
    let directory = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
    let result = await #expect(processExitsWith: .exitCode(1), observing: [\.standardErrorContent]) {
      [program = program.string as String, directory = directory.string as String] in
      let byName = scmp_arg_cmp(
        arg: 4, op: SCMP_CMP_MASKED_EQ, datum_a: UInt64(0x1000), datum_b: 0)  // no AT_EMPTY_PATH
      // It comes as far as to want QEMU's connection.
      become(
        [
          program, "--fd", "99", "--log-level", "critical", "--control", "\(directory)/control",
          "--control-mode", "660",
          "--control-group", unsafe String(cString: getgrgid(getegid()).pointee.gr_name),
        ],
        without: [
          ("chmod", EPERM, []), ("fchmodat", EPERM, []), ("chown", EPERM, []), ("lchown", EPERM, []),
          ("fchownat", EPERM, [byName]),
        ])
    }
    let line = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
    #expect(
      line == "vhost-user-udmabuf: --fd 99: there is no such inherited descriptor (Bad file descriptor)\n")
  }
}

/// Becomes another program, to which the kernel answers some calls with an error.
private func become(
  _ words: [String], without calls: [(name: String, error: CInt, tests: [scmp_arg_cmp])]
) -> Never {
  let filter = unsafe seccomp_init(SCMP_ACT_ALLOW)
  for (name, error, tests) in calls {
    let number = unsafe seccomp_syscall_resolve_name(name)
    _ = unsafe seccomp_rule_add_array(
      filter, 0x0005_0000 | UInt32(error), number, UInt32(tests.count), tests)
  }
  guard unsafe seccomp_load(filter) == 0 else { _exit(2) }
  var pointers: [UnsafeMutablePointer<CChar>?] = unsafe words.map { unsafe strdup($0) }
  unsafe pointers.append(nil)
  unsafe execv(words[0], pointers)
  _exit(3)
}
