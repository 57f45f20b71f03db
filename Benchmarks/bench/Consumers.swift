import CBench
import Consumers
import Fixtures
import Glibc
import Linux
import Scanout
import SystemPackage
import Varlink

/// What it costs to tell other processes of frames on the control socket.
///
/// Where nothing can be lent, one pixel of each frame is flushed, and copied: what is left is the telling.
func benchConsumers() throws {
  try check(cb_stay_on_one_cpu(1) == 0, "the processes stay on one CPU")
  defer { _ = cb_stay_on_one_cpu(0) }
  let isLent = deviceFailure() == nil
  func run() throws {
    let small = try Offering(width: 1024, height: 768, isLent: isLent)
    heading("consumers: from the kick of a flush until a consumer has read of it, by turns, on one CPU")
    try measureTelling(small)
    heading("consumers: CPU time of the helper for each frame, by turns")
    try measureCount()
    if isLent {
      let large = try Offering(width: 3840, height: 2160, isLent: true)
      for offering in [large, small] { try offering.watch(1) }
      var pairs = Pairs()
      try pairs.measure(201, large.cpuTime, small.cpuTime)
      row(
        "3840x2160, 1 consumer", pairs.ours.median, "us CPU", peer: "1024x768", pairs.theirs.median,
        ratio: pairs.ratio, "goal 1.00")
      try large.end()
    }
    heading("consumers: 10000 frames to 4 of them, and what the helper has needed then")
    try measureMemory()
    try small.end()
  }
  if isLent { try withListLimit(8100, run) } else { try run() }
  try measureAllocations()
}

/// The peer reads one eventfd and sends one message of the same length, with a descriptor.
private func measureTelling(_ offering: Offering) throws {
  try offering.watch(1)
  let teller = try Teller()
  var (ours, theirs): ([Double], [Double]) = ([], [])
  for _ in 0..<4000 {
    ours.append(try offering.toldTime() / 1000)
    theirs.append(try teller.toldTime() / 1000)
  }
  for (name, share) in [("median", 0.5), ("99th percentile", 0.99)] {
    let (mine, peer) = (ours.quantile(share), theirs.quantile(share))
    row(
      "kick to consumer told, \(name)", mine, "us", peer: "eventfd, message with fd, in C", peer,
      ratio: mine / peer, "goal 2.00" + (mine / peer <= 2 ? "" : "  MISSED"))
  }
}

private func measureCount() throws {
  let none = try Offering(width: 1024, height: 768, isLent: deviceFailure() == nil)
  for count in [1, 4, 16] {
    let offering = try Offering(width: 1024, height: 768, isLent: deviceFailure() == nil)
    try offering.watch(count)
    var pairs = Pairs()
    try pairs.measure(301, offering.cpuTime, none.cpuTime)
    row(
      "1024x768, \(count) consumer\(count == 1 ? "" : "s")", pairs.ours.median, "us CPU", peer: "none",
      pairs.theirs.median, ratio: pairs.ratio)
    try offering.end()
  }
  try none.end()
}

private func measureMemory() throws {
  let offering = try Offering(width: 1024, height: 768, isLent: deviceFailure() == nil)
  try offering.watch(4)
  for _ in 0..<100 { try offering.frame() }
  let before = cb_minor_faults(offering.child.pid)
  for _ in 0..<10_000 { try offering.frame() }
  let faults = cb_minor_faults(offering.child.pid) - before
  row(
    "minor faults in 10000 frames", Double(faults), "", peer: "goal", 0, faults == 0 ? "" : "MISSED")
  let peak = try offering.child.peakMemory()
  let isLent = deviceFailure() == nil
  row(
    "peak resident memory", peak, "KiB", peer: "goal", 16384,
    !isLent ? "6144 of it are the picture and its copy" : peak <= 16384 ? "" : "MISSED")
  try offering.end()
}

// MARK: The helper and its consumers

/// The end of a control socket of a consumer that is to be told of each frame.
final class Watching {
  let socket: UnixSocket

  init(_ path: FilePath) throws {
    socket = try UnixSocket.connect(path)
    let call = Array(#"{"method":"io.udmabridge.Display.Watch","more":true}"#.utf8) + [0]
    _ = unsafe try socket.send(call.span.bytes)
  }
}

/// A helper that offers frames, and a guest with two buffers.
private final class Offering {
  let card: GraphicsCard
  var child: Child { card.child }
  private let control: FilePath
  private var consumers: [Watching] = []
  private var flips: [[[UInt8]]] = []
  private var count = 0

  init(width: UInt32, height: UInt32, isLent: Bool) throws {
    control = FilePath("/tmp/udmabridge-bench-\(getpid())-\(UInt64.random(in: 0...UInt64.max))")
    card = try GraphicsCard(
      try BackEndProcess.startHelper(["--control", control.string]), memory: 256 << 20)
    let bytes = Int(width) * Int(height) * 4
    for id: UInt32 in 1...2 {
      let start = card.ram.allocate(bytes)
      try card.run([Command.create(id, width, height), Command.attach(id, [(start, UInt32(bytes))])])
      let flush = isLent ? Command.flush(id, width, height) : Command.flush(id, 1, 1)
      flips.append([Command.setScanout(id, width, height), flush])
    }
    // A copy is whole each time that another buffer is shown: without lending there is one buffer.
    if !isLent { flips[1] = flips[0] }
    try frame()
  }

  /// Has so many consumers.
  func watch(_ number: Int) throws {
    consumers = try (0..<number).map { _ in try Watching(control) }
    _ = cb_sleep(300_000)
    try drain()
  }

  private func drain() throws {
    for consumer in consumers {
      try check(consumer.socket.fd.withRaw { cb_drain($0) } >= 0, "the helper serves its consumers")
    }
  }

  private func next() -> [[UInt8]] {
    count += 1
    return flips[count % 2]
  }

  /// One frame, of which each consumer is told.
  func frame() throws {
    try card.run(next())
    try drain()
  }

  func cpuTime() throws -> Double {
    let before = try child.cpuTime()
    for _ in 0..<8 { try frame() }
    return (try child.cpuTime() - before) / 8000
  }

  /// From the kick until the first consumer has read the event, in nanoseconds.
  func toldTime() throws -> Double {
    let commands = next()
    card.prepare(commands)
    let time = try card.withKick { kick in
      try consumers[0].socket.fd.withRaw { socket in
        try nanoseconds { try check(cb_ask(kick, socket) == 0, "a consumer is told") }
      }
    }
    try card.finish(commands.count)
    try drain()
    return time
  }

  func end() throws {
    consumers = []
    try check(card.end() == 0, "the helper ends well when its connection closes")
    removeFile(control)
  }
}

/// The peer of the telling.
private final class Teller {
  private let kick: FD
  private let socket: FD
  private let child: Child

  init() throws {
    kick = FD(adopting: cb_eventfd())
    let passed = try Memfd.create(name: "bench", size: 4096)
    var near: FD?
    var pid: pid_t = -1
    let kick = kick.withRaw { $0 }
    try UnixSocket.pair { first, second in
      near = try first.fd.duplicate()
      pid = second.fd.withRaw { socket in
        passed.withDescriptor { $0.withRaw { cb_tell(kick, socket, $0) } }
      }
    }
    socket = near.take()!
    child = try Child(pid)
  }

  func toldTime() throws -> Double {
    try kick.withRaw { kick in
      try socket.withRaw { socket in
        try nanoseconds { try check(cb_ask(kick, socket) == 0, "the other process tells") }
      }
    }
  }
}

// MARK: Allocations

/// What a frame asks for on its way to the sockets, in this process, where every request for memory is counted.
private func measureAllocations() throws {
  heading("consumers: requests for memory on a frame's way to all sockets, once warm")
  let start = cb_allocations()
  let probe = (0..<10).map { [Int](repeating: $0, count: 100 + $0) }
  try check(cb_allocations() - start >= 10 && probe.count == 10, "what asks for memory is counted")
  for count in [1, 4, 16] {
    let way = try Way(consumers: count)
    for _ in 0..<200 { try way.frame() }
    let before = cb_allocations()
    for _ in 0..<1000 { try way.frame() }
    let each = Double(cb_allocations() - before) / 1000
    row(
      "\(count) consumer\(count == 1 ? "" : "s")", each, "for a frame", peer: "goal", 0,
      each == 0 ? "" : "MISSED")
  }
}

/// A `ControlSink` and its server, without a device before them.
private final class Way {
  private let loop = try! EventLoop()
  private let sink: ControlSink
  private let server: VarlinkServer
  private var sockets: [Watching] = []
  private let frames: [Frame]
  private var sequence: UInt64 = 0

  init(consumers: Int) throws {
    let mode = DisplayMode.reducedBlanking(width: 1024, height: 768)!
    sink = try ControlSink(outputs: [SinkOutput(name: "bench", modes: [mode])], loop: loop)
    let path = FilePath("/tmp/udmabridge-bench-\(getpid())-\(UInt64.random(in: 0...UInt64.max))")
    let interface = DisplayInterface(sink) { _ in Array("{}".utf8) }
    server = try VarlinkServer(
      UnixSocket.listen(path), info: VarlinkInfo(vendor: "", product: "", version: "", url: ""),
      interfaces: [interface], loop: loop
    ) { _ in true }
    interface.server = server
    let sink = sink
    frames = try (1...2 as ClosedRange<UInt64>).map { id in
      let canvas = try sink.allocate(width: 1024, height: 768, format: .xrgb8888, on: ScanoutID(0))
      return Frame(id: id, memory: .shadow(canvas.memory), layout: canvas.layout)
    }
    for _ in 0..<consumers {
      sockets.append(try Watching(path))
      // No more may wait to be taken than the socket has room for.
      while try loop.turn(waiting: .milliseconds(20)) > 0 {}
    }
    removeFile(path)
  }

  func frame() throws {
    sequence += 1
    let frame = frames[Int(sequence % 2)]
    sink.present(
      Presentation(
        frame: frame, source: frame.layout.bounds, damage: frame.layout.bounds, sequence: sequence),
      on: ScanoutID(0))
    while try loop.turn(waiting: .zero) > 0 {}
    for kept in sockets {
      try check(kept.socket.fd.withRaw { cb_drain($0) } > 0, "each consumer is told of each frame")
    }
  }
}
