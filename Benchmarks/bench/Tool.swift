import CBench
import Glibc
import Linux
import SystemPackage
import Udmabuf

/// The tool as a whole process, from its start to its end, as scripts use it.
func benchTool() throws {
  heading("tool: whole processes, from start to end")
  try measureCreate()
  try measureInspect()
  try measurePlan()
  try measureHook()
}

private func built(_ name: String) -> FilePath {
  FilePath(CommandLine.arguments[0]).removingLastComponent().appending(name)
}
private let tool = built("udmabridge")

private func nowhere() throws -> FD { try FD.open("/dev/null", writable: true) }

/// How long a program takes, in milliseconds.
private func milliseconds(
  _ program: FilePath, _ arguments: [String], input: borrowing FD, status: CInt = 0
) throws -> Double {
  let output = try nowhere()
  let start = Instant.now
  let ended = try Child(program, arguments, output: output, input: input).wait()
  let time = Double((Instant.now - start).nanoseconds) / 1e6
  try check(ended == status, "\(program) \(arguments) ends with status \(status), not \(ended)")
  return time
}

private final class Pipe {
  let fd: FD
  init(_ number: CInt) { fd = FD(adopting: number) }
}

/// The most memory that a program has by the time it says something, in KiB: nobody reads what it says.
private func peak(_ arguments: [String], input: borrowing FD) throws -> Double {
  var numbers: [CInt] = [-1, -1]
  try check(unsafe cb_full_pipe(&numbers) == 0, "there is a pipe")
  let (reader, writer) = (Pipe(numbers[0]), Pipe(numbers[1]))
  defer { withExtendedLifetime(reader) {} }
  let child = try Child(tool, arguments, output: writer.fd, input: input)
  // It waits for the pipe once it uses no CPU any more.
  var used = -1.0
  while case let now = try child.cpuTime(), now != used || now == 0 {
    used = now
    _ = cb_sleep(50_000)
  }
  return try child.peakMemory()
}

/// The goals are for a machine's own CPU, not for an emulated one.
private func verdict(_ value: Double, _ goal: Double, _ unit: String) -> String {
  if unsafe getenv("UDMABRIDGE_TESTHOST") != nil { return "" }
  return "goal \(fixed(goal, 0)) \(unit)" + (value < goal ? "" : "  MISSED")
}

private func measureCreate() throws {
  let hasDevice = (try? UdmabufDevice()) != nil
  let size: UInt64 = 8 << 20
  let memfd = try Memfd.create(name: "bench", size: size, seals: .shrink)
  let status: CInt = hasDevice ? 0 : 1
  var pairs = Pairs()
  try memfd.withDescriptor { fd in
    try pairs.measure(
      41,
      {
        try milliseconds(
          tool, ["create", "--fd", "3", "1M:4M", "--", "/bin/true"], input: fd, status: status)
      },
      {
        try milliseconds(
          built("bench-create"), ["3", "0x100000", "0x400000", "/bin/true"], input: fd, status: status)
      })
  }
  row(
    hasDevice ? "create ... -- true, 1 range of 4 MiB" : "create, up to the missing device",
    pairs.ours.median, "ms",
    peer: "C, the same", pairs.theirs.median, ratio: pairs.ratio, verdict(pairs.ours.median, 10, "ms"))
}

private func measureInspect() throws {
  let memfd = try Memfd.create(name: "bench", size: 64 << 20, seals: .shrink)
  try memfd.withDescriptor { fd in
    var pairs = Pairs()
    try pairs.measure(
      41, { try milliseconds(tool, ["inspect", "--fd", "3"], input: fd) },
      { try milliseconds("/bin/true", [], input: fd) })
    row(
      "inspect, a memfd", pairs.ours.median, "ms", peer: "/bin/true", pairs.theirs.median, ratio: pairs.ratio,
      verdict(pairs.ours.median, 10, "ms"))
    let memory = try peak(["inspect", "--fd", "3"], input: fd)
    row("inspect, peak resident memory", memory, "KiB", peer: "", nil, verdict(memory, 16384, "KiB"))
  }
}

private func measurePlan() throws {
  let layout = "0:64G ram\n"
  let path = FilePath("/tmp/udmabridge-bench-layout-\(getpid())")
  try FD.create(path).write(unsafe Array(layout.utf8).span.bytes)
  defer { removeFile(path) }
  for count in [250_000, 500_000, 1_000_000] {
    // Every page apart, as no list is worse.
    var text: [UInt8] = []
    text.reserveCapacity(count * 20)
    for index in 0..<count { text += Array("\(hex(0x100000 + index * 8192)):4K\n".utf8) }
    let memfd = try Memfd.create(name: "list", size: UInt64(text.count))
    let mapping = try memfd.withDescriptor { try Mapping($0, offset: 0, length: text.count, writable: true) }
    mapping.store(unsafe text.span.bytes, at: 0)
    let arguments = ["plan", "--layout", path.string, "@/proc/self/fd/3"]
    try memfd.withDescriptor { fd in
      var pairs = Pairs()
      try pairs.measure(
        7, { try milliseconds(tool, arguments, input: fd) },
        { try milliseconds("/usr/bin/wc", ["-w", "/proc/self/fd/3"], input: fd) })
      let memory = try peak(arguments, input: fd)
      row(
        "plan, \(count) entries", pairs.ours.median, "ms", peer: "wc -w, the same file", pairs.theirs.median,
        ratio: pairs.ratio,
        "peak \(short(memory)) KiB, \(fixed(memory * 1024 / Double(count), 0)) bytes an entry"
          + (count == 1_000_000 ? "  " + verdict(pairs.ours.median, 1000, "ms") : ""))
    }
  }
}

/// What each of libvirt's domains pays for the hook that does not ask for anything.
private func measureHook() throws {
  let disk =
    "    <disk type='file'><source file='/var/lib/disk.qcow2'/><target dev='vda' bus='virtio'/></disk>\n"
  let text = Array(
    "<domain type='kvm'>\n  <name>web</name>\n  <devices>\n\(String(repeating: disk, count: 60))  </devices>\n</domain>\n"
      .utf8)
  let memfd = try Memfd.create(name: "definition", size: UInt64(text.count))
  let mapping = try memfd.withDescriptor { try Mapping($0, offset: 0, length: text.count, writable: true) }
  mapping.store(unsafe text.span.bytes, at: 0)
  let line = "exec \"$@\" </proc/self/fd/3"
  try memfd.withDescriptor { fd in
    var (pairs, number) = (Pairs(), 0)
    try pairs.measure(
      200,
      {
        number += 1
        let words = [tool.string, "libvirt-hook", "web-\(number)", "prepare", "begin", "-"]
        return try milliseconds("/bin/sh", ["-c", line, "sh"] + words, input: fd)
      }, { try milliseconds("/bin/sh", ["-c", line, "sh", "/bin/true"], input: fd) })
    row(
      "hook, 200 domains that ask for nothing", pairs.ours.median, "ms", peer: "/bin/true",
      pairs.theirs.median, ratio: pairs.ratio, verdict(pairs.ours.median, 10, "ms"))
  }
}
