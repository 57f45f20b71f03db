import CBench
import Fixtures
import Glibc
import Linux
import SystemPackage
import Udmabuf

/// Which system calls a frame costs the helper: strace writes them down, and what two runs of different lengths differ by
/// is the frames' alone. A frame is SET_SCANOUT and a fenced RESOURCE_FLUSH with one kick, of two buffers by turns, and
/// another one comes when it has been on the screen for some time.
func benchCalls() throws {
  let tracer: FilePath = "/usr/bin/strace"
  if (try? FileStatus(of: tracer)) == nil {
    print()
    print("calls: no strace here: qemu/setup installs it")
    return
  }
  if let failure = deviceFailure() {
    print()
    print("calls: no \(UdmabufDevice.path) here (\(failure)): measured in the test host, by qemu/bench")
    return
  }
  let control = "/tmp/udmabridge-bench-\(getpid())-control"
  for way in [
    Way(name: "on a card", arguments: ["--kms", "auto"]),
    Way(
      name: "on a card, blobs, whose flush is answered at the flip", arguments: ["--kms", "auto"],
      isBlob: true),
    Way(name: "on QEMU's display", arguments: []),
    Way(name: "to a consumer, without a screen", arguments: ["--control", control], consumer: control),
  ] {
    heading("calls: system calls of the helper for a frame, \(way.name)")
    let (few, many) = (50, 150)
    let (short, long) = (try calls(of: few, way, tracer), try calls(of: many, way, tracer))
    var all = 0.0
    for name in long.keys.sorted() {
      let count = Double(long[name, default: 0] - short[name, default: 0]) / Double(many - few)
      if count != 0 { row(name, count, "a frame", peer: "") }
      all += count
    }
    row("all", all, "a frame", peer: "")
  }
}

private struct Way {
  let name: String
  let arguments: [String]
  /// The control socket of the consumer.
  var consumer: String?
  var isBlob = false
}

/// How often the helper makes each call in so many frames, and at their end.
private func calls(of frames: Int, _ way: Way, _ tracer: FilePath) throws -> [String: Int] {
  let log = FilePath("/tmp/udmabridge-bench-\(getpid())-calls")
  defer { removeFile(log) }
  let (width, height): (UInt32, UInt32) = (1024, 768)
  let bytes = Int(width) * Int(height) * 4
  let card = try GraphicsCard(try BackEndProcess.startHelper(way.arguments), memory: 64 << 20)
  var flips: [[[UInt8]]] = []
  for id: UInt32 in 1...2 {
    let start = card.ram.allocate(bytes)
    let flush = Command.fenced(Command.flush(id, width, height))
    if way.isBlob {
      try card.run([Command.createGuestBlob(id, start, UInt32(bytes))])
      flips.append([Command.setScanoutBlob(id, width, height), flush])
    } else {
      try card.run([Command.create(id, width, height), Command.attach(id, [(start, UInt32(bytes))])])
      flips.append([Command.setScanout(id, width, height), flush])
    }
  }
  let watcher = try way.consumer.map { try Watching(FilePath($0)) }
  func show(_ count: Int) throws {
    for number in 0..<count {
      try card.run(flips[number % 2])
      _ = cb_sleep(40_000)
      if let watcher {
        try check(watcher.socket.fd.withRaw { cb_drain($0) } >= 0, "the helper serves its consumer")
      }
    }
  }
  try show(10)
  let child = try Child(tracer, ["-qq", "-y", "-o", log.string, "-p", "\(card.child.pid)"])
  let end = Instant.now + .seconds(60)
  while try readText(FilePath("/proc/\(card.child.pid)/status")).contains("TracerPid:\t0\n") {
    try check(Instant.now < end, "strace attaches to the helper")
    _ = cb_sleep(10_000)
  }
  try show(frames)
  try check(card.end() == 0, "the helper ends well when its connection closes")
  _ = child.wait()
  var counts: [String: Int] = [:]
  for line in try readText(log).split(separator: "\n") {
    if let name = name(ofCall: line) { counts[name, default: 0] += 1 }
  }
  return counts
}

/// `read [eventfd]` for `read(7<anon_inode:[eventfd]>, ...`, and `ioctl DRM_IOCTL_MODE_ATOMIC`.
private func name(ofCall line: Substring) -> String? {
  let parts = line.split(separator: "(", maxSplits: 1)
  guard parts.count == 2, let first = parts[0].first, first.isLetter else { return nil }
  let words = parts[1].split(whereSeparator: { $0 == "," || $0 == ")" })
  if parts[0] == "ioctl", words.count > 1 { return "ioctl" + words[1] }
  guard let word = words.first, let open = word.firstIndex(of: "<"), let close = word.lastIndex(of: ">")
  else {
    return String(parts[0])
  }
  let file = word[word.index(after: open)..<close]
  let kind = file.hasPrefix("socket:") ? "socket" : String(file.split(separator: ":").last ?? file)
  return "\(parts[0]) \(kind)"
}
