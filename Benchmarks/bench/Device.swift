import Buffers
import Consumers
import Fixtures
import Guest
import Linux
import Logging
import Scanout
import SystemPackage
import Udmabuf
import Virtio
import VirtioGPU

/// The virtio-gpu device in this process, between a driver that lays out its chains once and the sink of the control
/// socket, which nobody watches.
final class Device {
  static let width: UInt32 = 1024
  static let height: UInt32 = 768
  /// Of an image of this size.
  static let pages = 768
  static let bytes = UInt64(pages) * systemPageSize

  /// A command that lies in the guest's memory, to be sent again and again.
  struct Chain {
    let head: UInt16
    let answer: UInt64
  }

  let ram: GuestRAM
  private let loop: EventLoop
  private let queue: DriverQueue
  private let device: GPUDevice
  private var calls = 0

  init(backing: BackingChoice) throws {
    loop = try EventLoop()
    ram = try GuestRAM(size: 16 << 20)
    queue = DriverQueue(ram)
    let outputs = [
      SinkOutput(
        name: "bench", modes: [.reducedBlanking(width: Self.width, height: Self.height)!])
    ]
    device = try GPUDevice(
      lender: Lender(device: .failure(.noSuchFileOrDirectory)),
      sink: ControlSink(outputs: outputs, loop: loop), outputs: outputs, backing: backing, profile: .share,
      hostMemory: Self.hostMemory(), loop: loop,
      logger: Logger(label: "bench") { _ in SwiftLogNoOpLogHandler() })
    // No time runs out, however slow the machine is: everything would take another way then.
    (device.patience.fence, device.patience.turn) = (.seconds(3600), .seconds(3600))
    device.featuresChanged(device.features)
    let ring = try VirtQueue(
      size: queue.size, rings: queue.rings, memory: ram.memory, eventIndex: queue.eventIndex,
      start: queue.seenUsed)
    device.start(
      GPUQueue(queue: ring) { [unowned self] in if ring.shouldNotify() { calls += 1 } },
      index: GPUDevice.controlQueue, fresh: true)
  }

  /// Two buffers that the guest may show. They are lent as a udmabuf is: the device hands on a descriptor. It is a memfd's,
  /// at which a flush never looks.
  private static func hostMemory() throws -> HostMemory {
    let offers = try (1...2).map { id in
      let memfd = try Memfd.create(name: "bench", size: bytes)
      let offered = try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }
      let shown = try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }
      let mapping = try Mapping(offered, offset: 0, length: Int(bytes), writable: true)
      let buffer = Buffer(host: mapping, backing: .lent(try DMABuf(adopting: shown)))
      return HostOffer(id: UInt64(id), offered, buffer, isWritable: true, limit: 1)
    }
    return HostMemory(size: 2 * bytes, offers: offers)
  }

  // MARK: Commands

  /// Makes a buffer of an offer and shows it.
  func show(_ id: UInt32) throws -> (setScanout: Chain, flush: Chain) {
    _ = try layOut(Command.createHostBlob(id, Self.bytes))
    return (
      try layOut(Command.setScanoutBlob(id, Self.width, Self.height)),
      try layOut(Command.fenced(Command.flush(id, Self.width, Self.height)))
    )
  }

  /// Sends a command for the first time.
  func layOut(_ command: [UInt8]) throws -> Chain {
    let (request, answer) = (ram.allocate(command.count), ram.allocate(24))
    ram.write(command, at: request)
    let head = queue.add(
      readable: [GuestRange(address: GuestAddress(request), length: UInt64(command.count))],
      writable: [GuestRange(address: GuestAddress(answer), length: 24)], indirect: true)
    let chain = Chain(head: head, answer: answer)
    try finish(chain)
    return chain
  }

  /// Sends it again, and turns the loop until it is answered with `OK_NODATA`.
  func run(_ chain: Chain) throws {
    queue.makeAvailable(chain.head)
    try finish(chain)
  }

  private func finish(_ chain: Chain) throws {
    let before = calls
    device.kicked(GPUDevice.controlQueue)
    while calls == before { try check(try loop.turn(waiting: .seconds(1)) > 0, "the device answers") }
    try check(queue.nextUsed()?.head == chain.head, "the command is answered that was sent")
    queue.usedEvent = queue.seenUsed
    let type: UInt32 = ram.number(at: chain.answer)
    try check(type == 0x1100, "a command is answered with OK_NODATA, not \(hex(type))")
  }
}
