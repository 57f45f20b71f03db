import CBench
import Fixtures
import Linux
import SystemPackage

/// Commands through a virtqueue: from a driver in this process through the real program and back.
///
/// The first peer is a bare C back end in a process of its own, on a queue of the same shape with the same
/// driver: it copies the header in and an answer of the same size out, checks nothing and looks nothing up.
/// The second only reads one eventfd and writes another: what waking two processes costs.
/// The driver's own part, ring entries alone, is in all figures.
///
/// All of them share one CPU: on several, where the scheduler happens to put each process decides how long a
/// wake-up takes, and that is many times what any of them does for a command.
func benchQueue() throws {
  try check(cb_stay_on_one_cpu(1) == 0, "the processes stay on one CPU")
  defer { _ = cb_stay_on_one_cpu(0) }
  let helper = try HelperQueue()
  let bare = try BareQueue()
  let before = try helper.child.peakMemory()
  var commands = 0

  heading("queue: commands from a driver to the helper, with kick and call eventfds, on one CPU")
  for command in [Request.displayInfo, .flush] {
    try helper.driver.fill(command)
    try bare.driver.fill(command)
    for batch in [1, 16, 64] {
      var pairs = Pairs()
      try pairs.measure(31, { try helper.driver.rate(batch) }, { try bare.driver.rate(batch) })
      commands += 31 * Driver.rounds(batch) * batch
      try helper.driver.checkAnswers(command, count: batch)
      try bare.driver.checkAnswers(command, count: batch)
      row(
        "\(command.name), batches of \(batch)", pairs.ours.median, "thousand/s", peer: "bare C back end",
        pairs.theirs.median, ratio: pairs.ratio)
    }
  }
  commands += try measureRoundTrips(helper, bare)

  heading("memory of the helper")
  row("peak resident, started", before, "KiB", peer: "none")
  row(
    "peak resident, after \(commands / 1000) thousand commands", try helper.child.peakMemory(), "KiB",
    peer: "itself, started", before)
  try helper.end()
  try measureSandbox()
}

/// The same helper, confined and not.
private func measureSandbox() throws {
  let confined = try HelperQueue(["--sandbox", "on"])
  let free = try HelperQueue(["--sandbox", "off"])
  heading("sandbox: commands through one queue, with and without it, on one CPU")
  for batch in [1, 64] {
    for queue in [confined, free] { try queue.driver.fill(.displayInfo) }
    var pairs = Pairs()
    try pairs.measure(61, { try confined.driver.rate(batch) }, { try free.driver.rate(batch) })
    row(
      "GET_DISPLAY_INFO, batches of \(batch)", pairs.ours.median, "thousand/s", peer: "--sandbox off",
      pairs.theirs.median, ratio: pairs.ratio)
  }
  for queue in [confined, free] { try queue.end() }
}

/// One command at a time.
private func measureRoundTrips(_ helper: HelperQueue, _ bare: BareQueue) throws -> Int {
  let echo = try Echo()
  let count = 5000
  try helper.driver.fill(.displayInfo)
  try bare.driver.fill(.displayInfo)
  var (ours, ring, events): ([Double], [Double], [Double]) = ([], [], [])
  for _ in 0..<count {
    ours.append(try helper.driver.roundTrip() / 1000)
    events.append(try echo.roundTrip() / 1000)
    ring.append(try bare.driver.roundTrip() / 1000)
  }
  try helper.driver.checkAnswers(.displayInfo, count: 1)
  heading("round trip: from the kick until the call has been read, by turns, on one CPU")
  for (name, share) in [("median", 0.5), ("99th percentile", 0.99)] {
    let what = "GET_DISPLAY_INFO alone, \(name)"
    let mine = ours.quantile(share)
    for (peer, figures) in [("eventfds only, in C", events), ("bare C back end", ring)] {
      let theirs = figures.quantile(share)
      row(what, mine, "us", peer: peer, theirs, ratio: mine / theirs)
    }
  }
  return count
}

/// A command of the driver, as `linux/virtio_gpu.h` lays it out.
private struct Request {
  let name: String
  let bytes: [UInt8]
  let answerType: UInt32
  let answerLength: UInt32

  private static func header(_ type: UInt32) -> [UInt8] { type.bytes + [UInt8](repeating: 0, count: 20) }
  private static func words(_ words: UInt32...) -> [UInt8] { words.flatMap(\.bytes) }

  static let displayInfo = Request(
    name: "GET_DISPLAY_INFO", bytes: header(0x100), answerType: 0x1101, answerLength: 408)
  /// Resource 1, format XRGB, 64x64.
  static let create = Request(
    name: "RESOURCE_CREATE_2D", bytes: header(0x101) + words(1, 2, 64, 64), answerType: 0x1100,
    answerLength: 24)
  /// All of resource 1, which is on no screen.
  static let flush = Request(
    name: "RESOURCE_FLUSH", bytes: header(0x104) + words(0, 0, 64, 64, 1, 0), answerType: 0x1100,
    answerLength: 24)
}

/// A driver whose chains are laid out once: a batch costs it ring entries only.
private final class Driver {
  private static let size: UInt16 = 64
  let ram: GuestRAM
  let queue: DriverQueue
  let kick: FrontEnd.Line
  let call: FrontEnd.Line
  private let requests: [UInt64]
  private let answers: [UInt64]
  private let tables: [UInt64]
  private var written: [UInt32] = Array(repeating: 0, count: Int(size))

  init(_ ram: GuestRAM, _ queue: DriverQueue, kick: FrontEnd.Line, call: FrontEnd.Line) {
    (self.ram, self.queue, self.kick, self.call) = (ram, queue, kick, call)
    requests = (0..<Self.size).map { _ in ram.allocate(64) }
    answers = (0..<Self.size).map { _ in ram.allocate(512) }
    tables = (0..<Self.size).map { _ in ram.allocate(32) }
  }

  static func makeQueue() throws -> (GuestRAM, DriverQueue) {
    let ram = try GuestRAM(size: 1 << 20)
    return (ram, DriverQueue(ram, size: size))
  }

  /// Writes the command into each chain, which is an indirect table as Linux' driver makes it, and runs the
  /// first `count` once.
  func fill(_ request: Request, running count: Int = Int(size)) throws {
    for index in 0..<Int(Self.size) {
      let table = tables[index]
      ram.write(request.bytes, at: requests[index])
      ram.write([UInt8](repeating: 0, count: 512), at: answers[index])
      DriverQueue.writeDescriptor(
        ram, at: table, address: requests[index], length: UInt32(request.bytes.count),
        flags: DriverQueue.next,
        next: 1)
      DriverQueue.writeDescriptor(
        ram, at: table + 16, address: answers[index], length: 512, flags: DriverQueue.write, next: 0)
      queue.setDescriptor(UInt16(index), address: table, length: 32, flags: DriverQueue.indirect)
    }
    try run(count)
    try checkAnswers(request, count: count)
  }

  /// Has the first `count` chains done, with a kick and a call wherever the event indices ask for them.
  func run(_ count: Int) throws {
    for index in 0..<count { queue.makeAvailable(UInt16(index)) }
    queue.usedEvent = queue.seenUsed
    if queue.wantsKick() { kick.event.signal() }
    var done = 0
    while done < count {
      try waitForCall()
      done += takeUsed()
      queue.usedEvent = queue.seenUsed
      fullMemoryFence()
      done += takeUsed()
    }
  }

  static func rounds(_ batch: Int) -> Int { batch == 1 ? 256 : 2048 / batch }

  /// Thousands of commands in a second.
  func rate(_ batch: Int) throws -> Double {
    let rounds = Self.rounds(batch)
    return Double(rounds * batch) * 1e6 / (try nanoseconds { for _ in 0..<rounds { try run(batch) } })
  }

  /// One chain, timed from the kick until the call has been read.
  func roundTrip() throws -> Double {
    queue.makeAvailable(0)
    queue.usedEvent = queue.seenUsed
    try check(queue.wantsKick(), "an idle device wants to be kicked")
    let time = try kick.event.fd.withRaw { kick in
      try call.event.fd.withRaw { call in
        try nanoseconds { try check(cb_ping(kick, call) == 0, "the device calls") }
      }
    }
    try check(takeUsed() == 1, "the device has completed the chain when it calls")
    return time
  }

  private func waitForCall() throws {
    let result = call.event.fd.withRaw { cb_wait_call($0) }
    try check(result == 0, "the device calls within two seconds")
  }

  private func takeUsed() -> Int {
    var count = 0
    while let (head, length) = queue.nextUsed() {
      written[Int(head)] = length
      count += 1
    }
    return count
  }

  func checkAnswers(_ request: Request, count: Int) throws {
    for index in 0..<count {
      let type: UInt32 = ram.number(at: answers[index])
      try check(
        type == request.answerType && written[index] == request.answerLength,
        "\(request.name) is answered with \(request.answerType) and \(request.answerLength) bytes, "
          + "not \(type) and \(written[index])")
    }
  }
}

/// The helper behind a queue.
private final class HelperQueue {
  let child: Child
  private(set) var driver: Driver!
  private var frontEnd: FrontEnd?

  init(_ arguments: [String] = []) throws {
    let helper = try BackEndProcess.startHelper(arguments)
    child = helper.child
    let frontEnd = try FrontEnd(helper.takeSocket()) { [unowned self] in hasInput }
    self.frontEnd = frontEnd
    let (ram, queue) = try Driver.makeQueue()
    try frontEnd.realize(memory: .slots)
    try frontEnd.start([queue])
    driver = Driver(ram, queue, kick: frontEnd.line(0).kick, call: frontEnd.line(0).call)
    try driver.fill(.create, running: 1)
  }

  /// Whether the helper has answered, within two seconds.
  private var hasInput: Bool {
    frontEnd?.socket.fd.withRaw { cb_wait_readable($0, 2000) == 1 } ?? false
  }

  /// Closes the connection, with which the helper ends.
  func end() throws {
    frontEnd = nil
    try check(child.wait() == 0, "the helper ends well when its connection closes")
  }
}

/// The bare C back end behind a queue.
private final class BareQueue {
  let driver: Driver
  private let child: Child

  init() throws {
    let (ram, queue) = try Driver.makeQueue()
    let (kick, call) = (try FrontEnd.Line(), try FrontEnd.Line())
    driver = Driver(ram, queue, kick: kick, call: call)
    var ring = cb_ring(
      memory: ram.files[0].number, length: Int(ram.blocks[0].length), descriptors: queue.descriptors,
      available: queue.available, used: queue.used, size: queue.size, kick: kick.event.fd.withRaw { $0 },
      call: call.event.fd.withRaw { $0 })
    child = try Child(unsafe cb_serve(&ring))
  }
}

/// A process between two eventfds.
private final class Echo {
  private let kick: FD
  private let call: FD
  private let child: Child

  init() throws {
    let (first, second) = (cb_eventfd(), cb_eventfd())
    child = try Child(cb_echo(first, second))
    kick = FD(adopting: first)
    call = FD(adopting: second)
  }

  func roundTrip() throws -> Double {
    try kick.withRaw { kick in
      try call.withRaw { call in
        try nanoseconds { try check(cb_ping(kick, call) == 0, "the other process answers") }
      }
    }
  }
}
