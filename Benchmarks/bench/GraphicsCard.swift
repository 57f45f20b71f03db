import Fixtures
import Guest
import Linux
import SystemPackage

/// A virtio-gpu back end in a process of its own, and what stands around it: a front end that does what QEMU
/// does, a display for it to show on, and a driver that sends commands as Linux' does.
final class GraphicsCard {
  let child: Child
  let display: Display
  let ram: GuestRAM
  private let loop: EventLoop
  private let queue: DriverQueue
  private var frontEnd: FrontEnd!
  private var tokens: [EventLoop.Token] = []

  /// Longer than any command takes, in an emulated machine too.
  private static let patience = TimeSpan.seconds(60)

  /// - Parameters:
  ///   - memory: of the guest, in bytes.
  ///   - requests: where the back end asks for mappings; nil if the front end makes none.
  init(_ process: consuming BackEndProcess, memory: UInt64, requests: RequestChannel? = nil) throws {
    child = process.child
    loop = try EventLoop()
    display = try Display(loop)
    ram = try GuestRAM(size: memory)
    queue = DriverQueue(ram)
    let loop = loop
    frontEnd = try FrontEnd(process.takeSocket()) {
      try loop.turn(waiting: Self.patience) > 0
    }
    // That something is there is all that the loop has to tell: the front end reads it.
    tokens.append(try loop.add(frontEnd.socket.fd) { _ in })
    try frontEnd.realize(
      memory: .table, backendRequests: requests?.number, sharedMemory: requests != nil)
    let call = frontEnd.line(0).call
    tokens.append(try loop.add(call.event.fd) { _ in call.event.drain() })
    try frontEnd.start([queue], display: display.farNumber)
  }

  /// Sends the commands with one kick, and waits until each is answered with `OK_NODATA`.
  func run(_ commands: [[UInt8]]) throws {
    try send(commands)
    try finish(commands.count)
  }

  /// Sends the commands with one kick.
  func send(_ commands: [[UInt8]]) throws {
    prepare(commands)
    frontEnd.kickIfWanted(0, queue)
  }

  /// Sends one that the back end answers with where a mapping is.
  func sendMap(_ command: [UInt8]) throws {
    queue.send(command, answer: 32)
    frontEnd.kickIfWanted(0, queue)
  }

  /// Leaves the commands to be kicked for.
  func prepare(_ commands: [[UInt8]]) { for command in commands { queue.send(command, answer: 24) } }

  /// The eventfd by which the back end is kicked.
  func withKick<Result>(_ body: (CInt) throws -> Result) rethrows -> Result {
    try frontEnd.line(0).kick.event.fd.withRaw { try body($0) }
  }

  /// Waits until so many commands are answered with `OK_NODATA`.
  func finish(_ count: Int) throws {
    let end = Instant.now + Self.patience
    var done = 0
    while true {
      done += try takeAnswers()
      // The driver has asked to be called; it looks once more, for what came before that was seen.
      fullMemoryFence()
      done += try takeAnswers()
      if done == count { return }
      try wait(until: end)
    }
  }

  private func takeAnswers() throws -> Int {
    var count = 0
    while let answer = queue.receive() {
      let type: UInt32 = answer.bytes.value(at: 0)
      try check(
        type == 0x1100 || type == 0x1106,
        "a command is answered with OK_NODATA or OK_MAP_INFO, not \(hex(type))")
      count += 1
    }
    return count
  }

  private func wait(until end: Instant) throws {
    try check(Instant.now < end, "the back end answers in time")
    try loop.turn(waiting: .seconds(1))
    try display.check()
  }

  /// Waits until the display was shown so many frames in all.
  func waitForFrames(_ count: Int) throws {
    let end = Instant.now + Self.patience
    while display.frames < count { try wait(until: end) }
  }

  /// Closes the connection, with which the back end ends.
  /// - Returns: its exit status.
  func end() -> CInt {
    loop.remove(tokens[0], frontEnd.socket.fd)
    loop.remove(tokens[1], frontEnd.line(0).call.event.fd)
    frontEnd = nil
    return child.wait()
  }
}

/// Commands of the driver, laid out as `linux/virtio_gpu.h` has them.
enum Command {
  private static func make(_ type: UInt32, _ words: [UInt32]) -> [UInt8] {
    type.bytes + [UInt8](repeating: 0, count: 20) + words.flatMap(\.bytes)
  }

  static func create(_ id: UInt32, _ width: UInt32, _ height: UInt32) -> [UInt8] {
    make(0x101, [id, 2, width, height])
  }

  static func unref(_ id: UInt32) -> [UInt8] { make(0x102, [id, 0]) }

  static func setScanout(_ id: UInt32, _ width: UInt32, _ height: UInt32) -> [UInt8] {
    make(0x103, [0, 0, width, height, 0, id])
  }

  static func flush(_ id: UInt32, _ width: UInt32, _ height: UInt32) -> [UInt8] {
    make(0x104, [0, 0, width, height, id, 0])
  }

  static func transfer(_ id: UInt32, _ width: UInt32, _ height: UInt32) -> [UInt8] {
    make(0x105, [0, 0, width, height, 0, 0, id, 0])
  }

  static func attach(_ id: UInt32, _ list: [(address: UInt64, length: UInt32)]) -> [UInt8] {
    make(0x106, [id, UInt32(list.count)])
      + list.flatMap { $0.address.bytes + $0.length.bytes + [0, 0, 0, 0] }
  }

  /// A blob of the guest's memory.
  static func createGuestBlob(_ id: UInt32, _ start: UInt64, _ size: UInt32) -> [UInt8] {
    make(0x10c, [id, 1, 0, 1]) + (0 as UInt64).bytes + UInt64(size).bytes + start.bytes + size.bytes + [
      0, 0, 0, 0,
    ]
  }

  /// A blob of the host's memory, which is offered under the same number.
  static func createHostBlob(_ id: UInt32, _ size: UInt64) -> [UInt8] {
    make(0x10c, [id, 2, 0, 0]) + UInt64(id).bytes + size.bytes
  }

  /// A blob of an offer that is not its own number, which can be mapped.
  static func createHostBlob(_ id: UInt32, _ size: UInt64, offer: UInt64) -> [UInt8] {
    make(0x10c, [id, 2, 1, 0]) + offer.bytes + size.bytes
  }

  /// Into the guest's region, where it begins.
  static func mapBlob(_ id: UInt32) -> [UInt8] { make(0x208, [id, 0]) + (0 as UInt64).bytes }

  static func unmapBlob(_ id: UInt32) -> [UInt8] { make(0x209, [id, 0]) }

  /// The whole of an XRGB image that fills the blob.
  static func setScanoutBlob(_ id: UInt32, _ width: UInt32, _ height: UInt32) -> [UInt8] {
    make(0x10d, [0, 0, width, height, 0, id, width, height, 2, 0, width * 4, 0, 0, 0, 0, 0, 0, 0])
  }

  /// The same command with a fence.
  static func fenced(_ command: [UInt8]) -> [UInt8] {
    command[..<4] + (1 as UInt32).bytes + (1 as UInt64).bytes + command[16...]
  }
}

/// A page list in which no page follows the one before.
func pagesApart(_ start: UInt64, _ bytes: Int) -> [(address: UInt64, length: UInt32)] {
  stride(from: 0, to: UInt64(bytes), by: Int(systemPageSize)).reversed().map {
    (start + $0, UInt32(systemPageSize))
  }
}
