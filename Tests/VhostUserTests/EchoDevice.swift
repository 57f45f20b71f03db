import Fixtures
import Guest
import Linux
import Virtio

@testable import VhostUser

/// A device with two queues that answers each request with its bytes in reverse, and notes what it is told.
final class EchoDevice: VhostUserDevice {
  enum Event: Equatable {
    case features(UInt64)
    case configWritten(offset: UInt32, [UInt8])
    case started(Int, fresh: Bool, at: UInt16)
    case unusable(Int, VhostUserError)
    case stopping(Int)
    case display
    case dropped(Int)
    case reset
  }

  static let configuration: [UInt8] = (1...16).map { $0 }

  let queueCount = 2
  var deviceFeatures: UInt64 = 1 << 1
  var sharedMemory: [UInt8: UInt64] = [:]
  private(set) var events: [Event] = []
  private(set) var kicks = [0, 0]
  private(set) var vrings: [Vring?] = [nil, nil]
  private(set) var displayBytes: [UInt8] = []
  var shared: [ObjectUUID: Memfd] = [:]

  /// Chains are taken and kept until `release`.
  var holds = false
  private var held:
    [(vring: Vring, queue: VirtQueue, head: UInt16, writable: [GuestRange], answer: [UInt8])] = []
  private var finish: (() -> Void)? = nil
  private var chain = DescriptorChain()
  private(set) var chainErrors: [VirtQueueError] = []

  /// What was noted since the last call.
  func takeEvents() -> [Event] {
    defer { events = [] }
    return events
  }

  func featuresChanged(_ acked: UInt64) { events.append(.features(acked)) }

  func config(offset: UInt32, size: UInt32) -> [UInt8] {
    (0..<Int(size)).map {
      let index = Int(offset) + $0
      return index < Self.configuration.count ? Self.configuration[index] : 0
    }
  }

  func writeConfig(offset: UInt32, _ bytes: [UInt8]) { events.append(.configWritten(offset: offset, bytes)) }

  func started(_ vring: Vring, index: Int, fresh: Bool) {
    vrings[index] = vring
    events.append(.started(index, fresh: fresh, at: vring.queue.position))
  }

  func unusable(_ index: Int, _ error: VhostUserError) { events.append(.unusable(index, error)) }

  func kicked(_ index: Int) {
    kicks[index] += 1
    let vring = vrings[index]!
    while true {
      do {
        guard try vring.queue.next(into: &chain) else { break }
        var reader = ChainReader(chain, vring.queue.memory)
        var request: [UInt8] = []
        try reader.read(Int(reader.remaining), into: &request)
        held.append((vring, vring.queue, chain.head, chain.writable, request.reversed()))
      } catch {
        chainErrors.append(error)
        if error.breaksRing {
          vring.reportError()
        } else {
          vring.queue.complete(head: chain.head, written: 0)
        }
      }
    }
    if !holds { release() }
  }

  func stopping(_ index: Int, _ finished: @escaping () -> Void) {
    events.append(.stopping(index))
    if held.contains(where: { $0.vring.index == index }) { finish = finished } else { finished() }
  }

  /// Answers all that is held, and finishes the stop that waits for it.
  func release() {
    for (vring, queue, head, writable, answer) in held {
      var writer = ChainWriter(writable, queue.memory)
      try? unsafe writer.write(answer.span.bytes)
      queue.complete(head: head, written: writer.written)
      vring.notify()
    }
    held = []
    let finish = finish
    self.finish = nil
    finish?()
  }

  func displaySocket(_ socket: consuming UnixSocket) {
    events.append(.display)
    var descriptors = ReceivedDescriptors()
    displayBytes = []
    _ = try? socket.receive(into: &displayBytes, upTo: 100, descriptors: &descriptors)
  }

  func sharedObject(_ uuid: ObjectUUID) -> FD? {
    shared[uuid]?.withDescriptor { try? $0.duplicate() }
  }

  func dropped(_ index: Int) {
    held.removeAll { $0.vring.index == index }
    events.append(.dropped(index))
  }

  func reset() {
    held = []
    events.append(.reset)
  }
}

/// An echo device, its session, a front end and a driver with two queues.
final class Setup {
  let device = EchoDevice()
  let link: Link
  let ram: GuestRAM
  var queues: [DriverQueue]
  var frontEnd: FrontEnd { link.frontEnd }
  /// What the session has of the guest's memory.
  var memory: GuestMemory { link.session!.table.memory }

  init(ram: GuestRAM? = nil, eventIndex: Bool = true, start: UInt16 = 0) throws {
    link = try Link(device)
    let memory = try ram ?? GuestRAM(size: 4 << 20)
    self.ram = memory
    queues = [64, 16].map { DriverQueue(memory, size: $0, eventIndex: eventIndex, start: start) }
  }

  /// Goes all the way to running rings.
  static func running(
    _ style: FrontEnd.MemoryStyle = .table, ram: GuestRAM? = nil, eventIndex: Bool = true, start: UInt16 = 0
  ) throws -> Setup {
    let setup = try Setup(ram: ram, eventIndex: eventIndex, start: start)
    try setup.frontEnd.realize(memory: style)
    try setup.frontEnd.start(setup.queues)
    try setup.link.settle()
    _ = setup.device.takeEvents()
    _ = setup.frontEnd.called(0)
    _ = setup.frontEnd.called(1)
    return setup
  }

  /// One request and its answer, with the notifications that driver and device ask for.
  func echo(_ request: [UInt8] = [1, 2, 3], on index: Int = 0) throws -> [UInt8]? {
    queues[index].send(request, answer: request.count)
    frontEnd.kickIfWanted(index, queues[index])
    try link.settle()
    guard frontEnd.called(index) else { return nil }
    let answer = queues[index].receive()?.bytes
    _ = queues[index].receive()
    return answer
  }

  /// The error with which the session ended.
  var error: VhostUserError? { link.end.flatMap { $0 } }
}
