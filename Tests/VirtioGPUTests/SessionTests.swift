import Buffers
import Fixtures
import Guest
import Linux
import Scanout
import SystemPackage
import TestSupport
import Testing
import Udmabuf
import VhostUser
import VhostUserGPU
import Virtio

@testable import VirtioGPU

/// A front end with its guest, a session, the device, and a screen.
final class Machine {
  let link: Link
  let device: GPUDevice
  let screen: Screen
  let ram: GuestRAM
  private(set) var control: DriverQueue
  private(set) var cursor: DriverQueue
  let log = LogBook()
  /// Where the device asks the front end.
  let channel: RequestChannel

  init(
    _ memory: FrontEnd.MemoryStyle, ram: GuestRAM? = nil, udmabuf: Result<UdmabufDevice, Errno>,
    backing: BackingChoice = .lent, profile: Profile = .display, hostMemory: HostMemory? = nil,
    hasChannel: Bool = true
  ) throws {
    channel = try RequestChannel()
    self.ram = try ram ?? GuestRAM.likeQEMU()
    let loop = try EventLoop()
    screen = try Screen(Rig.outputs, loop)
    device = try GPUDevice(
      lender: Lender(device: udmabuf), sink: screen, outputs: Rig.outputs, backing: backing,
      profile: profile, hostMemory: hostMemory, loop: loop, logger: log.logger)
    device.patience = .endless
    device.mistakes.interval = GPUDevice.Patience.endless.pageReturn
    let backEnd = GPUBackEnd(device, loop: loop, logger: log.logger)
    link = try Link(backEnd, loop: loop, logger: log.logger)
    backEnd.session = link.session
    control = DriverQueue(self.ram)
    cursor = DriverQueue(self.ram, size: 16)
    try frontEnd.realize(
      memory: memory, backendRequests: hasChannel ? channel.number : nil, sharedObjects: true,
      sharedMemory: hostMemory != nil)
    try start()
  }

  var frontEnd: FrontEnd { link.frontEnd }

  func start() throws {
    try frontEnd.start([control, cursor])
    try link.settle()
  }

  /// A new driver takes over, with new rings.
  func replaceDriver() throws {
    control = DriverQueue(ram)
    cursor = DriverQueue(ram, size: 16)
    try start()
  }

  func post(_ request: [UInt8]) throws {
    control.send(request, answer: 2048)
    frontEnd.kickIfWanted(0, control)
    try link.settle()
  }

  func answer() -> Answer? {
    control.receive().map { Answer(head: $0.head, written: $0.written, bytes: $0.bytes) }
  }

  func ask(_ request: [UInt8], _ location: SourceLocation = #_sourceLocation) throws -> Answer {
    _ = frontEnd.called(0)
    #expect(control.receive() == nil, sourceLocation: location)
    try post(request)
    #expect(frontEnd.called(0), "the driver is called", sourceLocation: location)
    return try #require(answer(), sourceLocation: location)
  }
}

@Suite struct SessionTests {
  @Test(
    "a resource lasts over a pause of the VM, and a new driver does not find it",
    arguments: FrontEnd.MemoryStyle.allCases)
  func aDriverComesAndGoes(_ memory: FrontEnd.MemoryStyle)
    throws
  {
    let machine = try Machine(memory, udmabuf: .failure(.noSuchFileOrDirectory))
    #expect(
      machine.frontEnd.offeredFeatures & 0xffffff == 0b10_1110,
      "VIRTIO_GPU_F_EDID, _RESOURCE_UUID, _RESOURCE_BLOB, _BLOB_ALIGNMENT, and nothing else of virtio-gpu")
    #expect(try machine.frontEnd.config(size: 16) == Request.words([0, 0, 2, 0]))
    #expect(try machine.ask(Request.edid(0)).type == ResponseType.edid)
    #expect(try machine.ask(Request.displayInfo()).type == ResponseType.displayInfo)
    #expect(try machine.ask(Request.create(1)).type == ResponseType.ok)
    #expect(try machine.ask(Request.attach(1, [(0x1000, 0x3000)])).type == ResponseType.outOfMemory)
    #expect(machine.device.statistics.protocolErrors == ["noDevice": 1])
    machine.cursor.send(Request.moveCursor(0), answer: 0)
    machine.frontEnd.kickIfWanted(1, machine.cursor)
    try machine.link.settle()
    #expect(machine.cursor.receive()?.written == 0)

    // The VM pauses and goes on: resource 1 is still there.
    #expect(try machine.frontEnd.stop() == [4, 1])
    try machine.start()
    #expect(try machine.ask(Request.create(1)).type == ResponseType.invalidResource)

    // The driver is bound anew.
    _ = try machine.frontEnd.stop()
    try machine.replaceDriver()
    #expect(try machine.ask(Request.create(1)).type == ResponseType.ok)
    #expect(machine.link.end == nil)
  }

  @Test("RESET_DEVICE resets the device") func resetDevice() throws {
    let machine = try Machine(.slots, udmabuf: .failure(.noSuchFileOrDirectory))
    #expect(try machine.ask(Request.create(1)).type == ResponseType.ok)
    try machine.frontEnd.tell(FrontEnd.resetDevice)
    #expect(machine.device.resources.isEmpty)
    try machine.replaceDriver()
    #expect(try machine.ask(Request.create(1)).type == ResponseType.ok)
  }

  @Test("a front end that hangs up ends the session once, without an error") func theFrontEndHangsUp() throws
  {
    let machine = try Machine(.table, udmabuf: .failure(.noSuchFileOrDirectory))
    #expect(try machine.ask(Request.create(1)).type == ResponseType.ok)
    machine.link.hangUp()
    try machine.link.settle()
    #expect(machine.link.end == .some(nil) && machine.link.endCount == 1)
  }
}

@Suite(.testHost, .serialized) struct SessionLendTests {
  @Test(
    "a desktop's commands show its picture over a whole session", arguments: FrontEnd.MemoryStyle.allCases)
  func aDesktop(_ memory: FrontEnd.MemoryStyle) throws {
    let machine = try Machine(memory, udmabuf: Result { () throws(Errno) in try UdmabufDevice() })
    for id in 1...2 as ClosedRange<UInt32> {
      let entries = (0..<3).map {
        (address: 0x10_0000 * UInt64(id + 1) - UInt64($0) * 0x1000, length: UInt32(0x1000))
      }
      #expect(try machine.ask(Request.createBlob(id, size: 0x3000, entries)).type == ResponseType.ok)
    }
    for frame in 0..<20 as Range<UInt32> {
      let id = frame % 2 + 1
      machine.ram.write(frame, at: 0x10_0000 * UInt64(id + 1))
      #expect(try machine.ask(Request.transfer(id)).type == ResponseType.ok)
      #expect(try machine.ask(Request.setScanoutBlob(0, id)).type == ResponseType.ok)
      try machine.post(Request.flush(id, fence: UInt64(frame)))
      #expect(machine.answer() == nil)
      machine.screen.flip()
      #expect(machine.answer()?.fence == UInt64(frame))
      let view = try #require(machine.screen.shown()?.dmabuf).map()
      #expect(view.load(UInt32.self, at: 0) == frame)
      if frame == 9 {
        // A pause with a frame on the screen.
        _ = try machine.frontEnd.stop()
        try machine.start()
      }
    }
    let all = machine.device.statistics
    #expect(all.framesShown == 20 && all.flushes == 20 && all.buffersLent == 2 && all.bytesCopied == 0)

    // GET_VRING_BASE is answered when the pages are back.
    try machine.post(Request.unref(2))
    var bases: [UInt16] = []
    #expect(throws: FrontEndError.noReply(FrontEnd.getVringBase)) { bases = try machine.frontEnd.stop() }
    #expect(bases.isEmpty)
    machine.screen.flip()
    #expect(
      try machine.frontEnd.reply(to: FrontEnd.getVringBase).value(at: 4) as UInt32
        == UInt32(machine.control.availableIndex))
    #expect(machine.answer()?.type == ResponseType.ok)
    #expect(machine.device.statistics.liveDMABufs == 1)
    #expect(machine.device.statistics.protocolErrors.isEmpty && machine.link.end == nil)
  }

  /// A ring that is disabled is not looked at, whatever else happens.
  @Test("a disabled ring is not read, and commands that were taken before are answered") func aDisabledRing()
    throws
  {
    let machine = try Machine(.slots, udmabuf: Result { () throws(Errno) in try UdmabufDevice() })
    for request in [
      Request.create(1), Request.attach(1, [(0x10_0000, 0x3000)]), Request.setScanout(0, 1), Request.flush(1),
    ] { #expect(try machine.ask(request).type == ResponseType.ok) }
    machine.screen.flip()
    try machine.post(Request.unref(1))
    try machine.frontEnd.enable(0, false)
    try machine.post(Request.create(2))
    machine.screen.flip()
    try machine.link.settle()
    #expect(machine.answer()?.type == ResponseType.ok, "what was taken is answered")
    #expect(machine.answer() == nil && machine.device.resources.isEmpty)
    try machine.frontEnd.enable(0, true)
    try machine.link.settle()
    #expect(machine.answer()?.type == ResponseType.ok)
    #expect(machine.device.resources.values.map(\.id.rawValue) == [2])
  }

  /// Memory is unplugged and plugged while a buffer of it is shown.
  @Test("a shown buffer keeps its unplugged memory, which new lists cannot name until it is plugged")
  func memorySlots() throws {
    let ram = try GuestRAM([
      .init(at: 0, length: 8 << 20), .init(at: 1 << 30, length: 4 << 20, file: 1),
    ])
    let machine = try Machine(.slots, ram: ram, udmabuf: Result { () throws(Errno) in try UdmabufDevice() })
    let entries = [(address: UInt64(1 << 30), length: UInt32(0x3000))]
    for request in [
      Request.create(1), Request.attach(1, entries), Request.setScanout(0, 1), Request.flush(1),
      Request.create(2),
    ] { #expect(try machine.ask(request).type == ResponseType.ok) }
    machine.screen.flip()
    try machine.frontEnd.remove(ram.blocks[1])
    #expect(try machine.ask(Request.attach(2, entries)).type == ResponseType.invalidParameter)
    #expect(machine.device.statistics.protocolErrors == ["memory": 1])
    ram.write(UInt32(5), at: 1 << 30)
    #expect(try machine.ask(Request.flush(1)).type == ResponseType.ok)
    machine.screen.flip()
    #expect(try #require(machine.screen.shown()?.dmabuf).map().load(UInt32.self, at: 0) == 5)
    try machine.frontEnd.add(ram, ram.blocks[1])
    #expect(try machine.ask(Request.attach(2, entries)).type == ResponseType.ok)
  }
}
