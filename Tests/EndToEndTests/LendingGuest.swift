import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

/// A real guest in which the agent runs as its own user, and ordinary users lend.
final class LendingGuest {
  struct Machine: Sendable, CustomTestStringConvertible {
    /// A role of `qemu/setup`.
    let kernel: String
    let device: String
    /// The exporters of the guest whose buffers its card takes as they are.
    var foreign: [String] = []
    var testDescription: String { "kernel \(kernel), \(device)" }

    static let oldest = Machine(kernel: "oldest", device: "gpu")
    static let flat = Machine(kernel: "oldest-udmabuf", device: "gpu")
    static let blobs = Machine(kernel: "oldest-udmabuf", device: "blob")
    static let sharing = Machine(kernel: "newest", device: "share")
    static let sharing612 = Machine(kernel: "oldest-udmabuf", device: "share")
    static let imports = Machine(kernel: "newest", device: "blob", foreign: ["heap", "udmabuf", "vgem"])
  }

  let guest: RunningGuest
  private let directory: FilePath
  var control: String { directory.appending("control").string }
  /// Where the agent serves, in the guest.
  private static let socket = "--socket /run/agent/lender"
  /// The port's device file, in a command of the guest's shell.
  static let port = "/dev/$(basename $(dirname $(grep -l io.udmabridge /sys/class/virtio-ports/*/name)))"
  /// Its number, in a command of the guest's shell: busybox has no pgrep.
  static let agentPID = #"$(ps | sed -n 's/^ *\([0-9]*\) .*[u]dmabridge-guest serve.*/\1/p')"#

  /// - Parameter disk: a swap device.
  /// - Parameter hasAgent: it starts one; a guest that comes back from its disk has one by then.
  init(
    _ machine: Machine, memory: String = "512M", kms: String? = nil, helperOptions: [String] = [],
    programs: [FilePath] = [], disk: FilePath? = nil, hasAgent: Bool = true
  ) throws {
    directory = try makeTemporaryDirectory()
    // For importers that run as somebody else.
    _ = unsafe directory.withPlatformString { unsafe chmod($0, 0o755) }
    guest = try RunningGuest(
      memory: memory, resolution: "1024x768", kms: kms,
      helperOptions: ["--control", directory.appending("control").string] + helperOptions,
      options: [
        "--kernel", machine.kernel, "--device", machine.device, "--agent", "--port",
        directory.appending("port").string,
      ] + programs.flatMap { ["--program", $0.string] } + (disk.map { ["--disk", $0.string] } ?? []))
    guard hasAgent else { return }
    if !machine.foreign.isEmpty { try guest.shell("load vgem") }
    try startAgent()
  }

  deinit {
    guest.end()
    _ = try? FileManager.default.removeItem(atPath: directory.string)
  }

  // MARK: The agent

  /// Starts it as its user, and waits until a helper answers it.
  func startAgent() throws {
    try guest.shell(
      "until grep -qs io.udmabridge /sys/class/virtio-ports/*/name; do usleep 50000; done; grant")
    // 104 is the group of the render node.
    try guest.shell(
      "(as agent udmabridge-guest serve \(Self.socket) --group 104 >>/run/agent.log 2>&1 &)")
    try waitForAgent()
  }

  func waitForAgent() throws {
    try waitUntil("the agent is connected and has its card") {
      let list = try? agentList()
      return list?.connected == true && list?.cards == 1
    }
  }

  struct AgentList: Decodable {
    struct Buffer: Decodable {
      let buffer, state: String
      let importers: Int
      let copied: Bool
    }
    let connected: Bool
    let cards, copies: Int
    let buffers: [Buffer]
  }

  /// What root sees.
  func agentList() throws -> AgentList {
    let text = try guest.shell("udmabridge-guest list --json \(Self.socket)")
    return try JSONDecoder().decode(AgentList.self, from: Data(text.utf8))
  }

  /// A field of the agent's `/proc/PID/stat`, and of another one: its processor time in ticks.
  func agentTime() throws -> String {
    try guest.shell("cut -d' ' -f14,15 /proc/\(Self.agentPID)/stat")
  }

  /// Bytes that no other process has.
  func agentMemory() throws -> Int {
    let text = try guest.shell(
      "awk '/^Private/ { sum += $2 } END { print sum }' /proc/\(Self.agentPID)/smaps_rollup")
    guard let kibibytes = Int(text.split(separator: "\n").first ?? "") else { throw TroubleInTest(text) }
    return kibibytes << 10
  }

  func killAgent() throws {
    try guest.shell(
      "pid=\(Self.agentPID); kill -9 $pid; while kill -0 $pid 2>/dev/null; do usleep 50000; done")
  }

  /// Runs a command of the agent's program as an ordinary user.
  func ask(_ words: String) throws -> String {
    try guest.shell("as user udmabridge-guest \(words) \(Self.socket)")
  }

  /// Waits until so many are lent, as the host sees it: a hundred processes of the guest take their time.
  func waitForBuffers(_ count: Int) throws {
    var seen = 0
    while seen < count {
      let before = seen
      try waitUntil("more than \(before) of \(count) buffers are lent") {
        let list = try run(EndToEnd.Lending.tool, ["buffers", "list", "--control", control]).output
        seen = list.split(separator: "\n").last.flatMap { Int($0.prefix { $0.isNumber }) } ?? 0
        return seen > before
      }
    }
  }

  // MARK: Lenders

  /// A part of a buffer whose bytes are the pattern of a seed.
  struct Part: Sendable {
    let offset, size: Int
    var end: Int { offset + size }

    /// What is in it.
    func bytes(seed: UInt32) -> [UInt8] {
      (offset..<end).map { place in
        let word = UInt32(place / 4) &* 0x0100_0193 ^ seed &* 0x9e37_79b9
        return UInt8(truncatingIfNeeded: word >> UInt32(place % 4 * 8))
      }
    }
  }

  /// Starts a program of the guest that lends a part of a buffer, and that `tell` can speak to as `name`.
  /// - Parameters:
  ///   - exporter: `card` for a buffer that the agent's card makes, or one of the program `buffer`.
  ///   - options: of `udmabridge-guest lend`.
  /// - Returns: the id, and what was said before it.
  @discardableResult
  func lend(_ exporter: String, _ part: Part, seed: UInt32, as name: String, options: String = "")
    throws -> (id: String, notes: [String])
  {
    let lend = "udmabridge-guest lend \(Self.socket) --offset \(part.offset) --size \(part.size) \(options)"
    let program =
      exporter == "card"
      ? "\(lend) -- sh -c 'echo $UDMABRIDGE_BUFFER; exec buffer fd:{} \(part.end) \(seed)'"
      : "buffer \(exporter) \(part.end) \(seed) -- \(lend) --fd {}"
    var lines = [try guest.shell("hold \(name) as user \(program)")]
    while true {
      if lines.last?.hasPrefix("Error: ") ?? false { throw TroubleInTest(lines.joined()) }
      if let id = lines.first(where: isID), lines.contains("filled\n") {
        return (String(id.dropLast()), lines.filter { $0 != id && $0 != "filled\n" })
      }
      lines.append(try guest.shell("next \(name)"))
    }
  }

  private func isID(_ line: String) -> Bool {
    line.count == 33 && line.dropLast().allSatisfy { $0.isHexDigit } && line.last == "\n"
  }

  /// Tells a lender, and expects that answer.
  func tell(_ name: String, _ words: String, _ answer: String) throws {
    #expect(try guest.shell("tell \(name) \(words)") == answer + "\n", "\(name): \(words)")
  }

  /// Ends a lender.
  func drop(_ name: String) throws { try guest.shell("tell \(name) quit; drop \(name); true") }
}

/// A process of the host that answers each line with a line.
final class Conversation {
  let child: Child
  private let output: PipeEnd
  private let input: UnixSocket
  /// The first line that it said.
  let greeting: String

  init(_ program: FilePath, _ arguments: [String]) throws {
    var started: (child: Child, output: PipeEnd)?
    var near: UnixSocket?
    try UnixSocket.pair { ours, theirs in
      started = try theirs.fd.withRaw { raw in
        try startReading(program, arguments, withErrors: true, descriptors: [0: raw])
      }
      near = consume ours
    }
    guard let started, let near = near.take() else { throw TroubleInTest("\(program) was not started") }
    (child, output) = started
    input = near
    greeting = try output.readLine() ?? "nothing"
  }

  /// - Returns: its answer; nil if it has ended.
  func tell(_ line: String) throws -> String? {
    unsafe try input.fd.write(Array((line + "\n").utf8).span.bytes)
    return try output.readLine()
  }

  func kill() {
    child.signal(SIGKILL)
    child.wait()
  }
}

extension LendingGuest {
  /// A process that imports a buffer, with nothing of ours: `importer` beside this file.
  /// - Parameter keeps: it keeps what it was told to let go of.
  func startImporter(of id: String, keeps: Bool = false) throws -> Conversation {
    try Conversation(
      "/usr/bin/python3",
      [repository.appending("Tests/EndToEndTests/importer").string, control, id] + (keeps ? ["keeps"] : []))
  }

  /// A process that prints what happens to this guest's buffers, with PyPI's module varlink.
  func startWatcher() throws -> Watcher { try Watcher(control) }

  final class Watcher {
    private let child: Child
    private let output: PipeEnd
    private(set) var lines: [String] = []

    private static let script = """
      import sys, varlink
      with varlink.Client.new_with_address("unix:" + sys.argv[1]) as client:
          with client.open("io.udmabridge.Buffers") as buffers:
              try:
                  for event in buffers.Watch(_more=True):
                      buffer = event.get("buffer") or {}
                      words = event["event"], buffer.get("id"), event.get("reason")
                      print(*(word for word in words if word), flush=True)
              except OSError:
                  print("closed")
      """

    init(_ control: String) throws {
      (child, output) = try startReading(
        testCache.appending("venv/bin/python3"), ["-c", Self.script, control], withErrors: true)
    }

    /// Reads on until it has said this.
    func expect(_ line: String) throws { try expect(oneOf: [line]) }

    func expect(oneOf wanted: [String]) throws {
      while !lines.contains(where: { wanted.contains($0) }) {
        guard let next = try output.readLine() else {
          throw TroubleInTest("the watcher has ended without any of \(wanted): \(lines)")
        }
        lines.append(next)
      }
    }
  }
}
