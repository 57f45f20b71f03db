internal import Buffers
internal import Consumers
internal import Fixtures
internal import Glibc
internal import Lending
internal import LendingService
internal import Linux
internal import Scanout
internal import SystemPackage
internal import Varlink

// What callers send on the control socket, when they read and when they go, while frames come and are taken back, and what they offer
// to the guest.

func fuzzControl(_ input: inout Input) throws {
  let room = try ControlRoom()
  while !input.isEmpty { try room.step(&input) }
  try room.end()
}

/// A sink, its socket, and callers of all kinds.
private final class ControlRoom: ScanoutObserver {
  private static let calls = [
    "org.varlink.service.GetInfo", "org.varlink.service.GetInterfaceDescription",
    "io.udmabridge.Display.GetOutputs",
    "io.udmabridge.Display.GetFrame", "io.udmabridge.Display.GetCursor", "io.udmabridge.Display.Hold",
    "io.udmabridge.Display.Release", "io.udmabridge.Display.Watch", "io.udmabridge.Display.Statistics",
    "io.udmabridge.Display.Stream", "io.udmabridge.Display.Nothing", "nothing",
    "io.udmabridge.Display.GetOffer", "io.udmabridge.Buffers.Offer", "io.udmabridge.Buffers.Offer",
    "io.udmabridge.Buffers.Withdraw", "io.udmabridge.Buffers.ListOffers", "io.udmabridge.Buffers.WatchOffers",
    "io.udmabridge.Buffers.List", "io.udmabridge.Buffers.Watch",
  ]
  private static let parameters = [
    "", #","parameters":{}"#, #","parameters":{"hold":true}"#,
    #","parameters":{"scanout":N,"since":N,"hold":true}"#,
    #","parameters":{"scanout":N}"#, #","parameters":{"buffer":N}"#, #","parameters":{"interface":"N"}"#,
    #","parameters":[N]"#, #","parameters":{"buffer":-N}"#, #","parameters":{"buffer":"N"}"#,
    #","parameters":{"offer":N}"#, #","parameters":{"offer":-N}"#,
    #","parameters":{"fileDescriptor":N,"uses":N}"#,
    #","parameters":{"token":1}"#, #","parameters":{"id":429496729N}"#,
    #","parameters":{"id":429496729N,"patience":0}"#,
  ]
  private static let flags = ["", #","more":true"#, #","oneway":true"#, #","upgrade":true"#]

  private final class Caller {
    let socket: UnixSocket
    init(_ socket: consuming UnixSocket) { self.socket = socket }
  }

  private let path = FilePath("/tmp/udmabridge-fuzz-\(getpid())")
  private let loop: EventLoop
  private let sink: ControlSink
  private let server: VarlinkServer
  private let offers: OfferTable
  private let sharing = FakeOfferDevice(pages: 4)
  /// Callers pass these: a memfd that can be offered, one that cannot, and a file that is no memory.
  private let files: [Memfd]
  private var callers: [Caller] = []
  private var frames: [Frame] = []
  private var lastFrame: UInt64 = 0
  private var sequences: [UInt64] = [0, 0]
  /// Presentations that nothing was heard of yet.
  private var awaited: [Set<UInt64>] = [[], []]

  init() throws {
    loop = try EventLoop()
    sink = try ControlSink(
      outputs: [SinkOutput(name: "a", modes: []), SinkOutput(name: "b", modes: [])], loop: loop)
    removeFile(path)
    let offer = try Memfd.create(name: "fuzz-offer", size: systemPageSize, seals: [.shrink])
    let interface = DisplayInterface(sink, offers: [1: offer]) { _ in Array("{}".utf8) }
    var limits = OfferLimits()
    limits.offers = 5
    offers = OfferTable(sharing, number: 0, limits: limits)
    let maker = try OfferMaker(udmabuf: .failure(.noSuchFileOrDirectory), copied: nil)
    let service = OffersService(offers, loop: loop) { id, fd, uses, token throws(OfferObstacle) in
      try maker.make(id, of: fd, uses: uses, token: token)
    }
    files = try [
      Memfd.create(name: "good", size: systemPageSize, seals: .shrink),
      Memfd.create(name: "shrinking", size: systemPageSize),
      Memfd(adopting: .open("/dev/null", writable: true)),
    ]
    server = try VarlinkServer(
      UnixSocket.listen(path), info: VarlinkInfo(vendor: "", product: "", version: "", url: ""),
      interfaces: [interface, BuffersInterface(Registry(), service, loop: loop)], limit: 4,
      takesDescriptors: true,
      loop: loop
    ) { _ in true }
    interface.server = server
    sink.observer = self
    for _ in 0..<3 { frames.append(try makeFrame()) }
  }

  deinit { removeFile(path) }

  private func makeFrame() throws -> Frame {
    lastFrame += 1
    let canvas = try MemfdShadow.canvas(width: 4, height: 4, format: .xrgb8888)
    return Frame(id: lastFrame, memory: .shadow(canvas.memory), layout: canvas.layout)
  }

  // MARK: What is heard

  private func hear(_ sequence: UInt64, _ scanout: ScanoutID) {
    expect(awaited[Int(scanout.rawValue)].remove(sequence) != nil, "a presentation is reported once")
  }
  func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID) { hear(sequence, scanout) }
  func replaced(_ sequence: UInt64, on scanout: ScanoutID) { hear(sequence, scanout) }
  func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError) { hear(sequence, scanout) }
  func outputsChanged() {}

  // MARK: What happens

  func step(_ input: inout Input) throws {
    switch input.byte() % 13 {
    case 0, 1: try connect()
    case 2, 3, 4: try call(&input)
    case 5:
      try with(&input) { input, caller in
        let bytes = input.take(Int(input.byte()))
        if !bytes.isEmpty { try write(bytes, to: caller) }
      }
    case 6: try with(&input) { input, caller in try read(upTo: Int(input.byte()) * 16 + 1, from: caller) }
    case 7:
      // The guest takes something, or lets go of it.
      for offer in sharing.offers.values where !offer.isOver {
        if offer.uses > 0 {
          offer.endUse()
        } else if !offer.isWithdrawn, input.byte() & 1 == 0 {
          offer.beginUse()
        }
      }
      if !callers.isEmpty { callers.remove(at: Int(input.byte()) % callers.count) }
    case 8, 9: present(&input)
    case 10:
      let number = Int(input.byte())
      if number & 1 == 0 {
        sink.turnOff(ScanoutID(UInt32(number >> 1) & 1))
      } else {
        sink.forget(frames[number % frames.count])
        expect(frames[number % frames.count].uses == 0, "what is forgotten is not in use")
        frames[number % frames.count] = try makeFrame()
      }
    case 11: cursor(&input)
    default: try settle()
    }
  }

  private func connect() throws {
    guard callers.count < 6 else { return }
    do throws(Errno) {
      let socket = try UnixSocket.connect(path)
      try socket.fd.setNonblocking()
      callers.append(Caller(socket))
    } catch { expect(error == .wouldBlock, "connecting: \(error)") }
    try settle()
  }

  private func with(_ input: inout Input, _ body: (inout Input, Caller) throws -> Void) throws {
    if callers.isEmpty { try connect() }
    let caller = callers[Int(input.byte()) % callers.count]
    try body(&input, caller)
  }

  private func call(_ input: inout Input) throws {
    let choice = Int(input.byte())
    let number = String(choice % 8)
    // One or two files most often, now and then none.
    let passed = [[0], [0, 2], [1], [2], [], [0, 1], [0], [0]][choice >> 3 & 7]
    let parameters = input.one(of: Self.parameters).split(separator: "N", omittingEmptySubsequences: false)
      .joined(separator: number)
    let text =
      #"{"method":""# + input.one(of: Self.calls) + #"""# + parameters + input.one(of: Self.flags) + "}"
    try with(&input) { _, caller in
      try write(Array(text.utf8) + [0], to: caller, passing: passed.map { files[$0] })
    }
  }

  private func write(_ bytes: [UInt8], to caller: Caller, passing files: [Memfd] = []) throws {
    do throws(Errno) {
      let numbers = files.map { file in file.withDescriptor { fd in fd.withRaw { $0 } } }
      _ = unsafe try caller.socket.send(bytes.span.bytes, rawDescriptors: numbers)
    } catch {
      expect(error == .wouldBlock || error == .brokenPipe || error == .connectionReset, "sending: \(error)")
    }
  }

  private func read(upTo count: Int, from caller: Caller) throws {
    var bytes: [UInt8] = []
    var descriptors = ReceivedDescriptors()
    do throws(Errno) {
      _ = try caller.socket.receive(into: &bytes, upTo: count, descriptors: &descriptors)
    } catch { expect(error == .wouldBlock || error == .connectionReset, "receiving: \(error)") }
  }

  private func present(_ input: inout Input) {
    let (scanout, frame) = (Int(input.byte() & 1), frames[Int(input.byte()) % frames.count])
    sequences[scanout] += 1
    awaited[scanout].insert(sequences[scanout])
    let damage = Rectangle(x: UInt32(input.byte() & 3), y: 0, width: 1, height: 2)
    sink.present(
      Presentation(frame: frame, source: frame.layout.bounds, damage: damage, sequence: sequences[scanout]),
      on: ScanoutID(UInt32(scanout)))
    expect(frame.uses > 0, "what is shown is in use")
  }

  private func cursor(_ input: inout Input) {
    let (kind, place) = (input.byte(), CursorPosition(x: Int32(input.byte()) - 100, y: 0))
    let scanout = ScanoutID(UInt32(kind & 1))
    switch kind >> 1 & 3 {
    case 0: sink.moveCursor(to: place, on: scanout)
    case 1: sink.setCursor(nil, at: place, on: scanout)
    case 2:
      let image = CursorImage(pixels: [UInt8](repeating: kind, count: 64 * 64 * 4), hotX: 1, hotY: 2)
      sink.setCursor(image, at: place, on: scanout)
    default: sink.outputs[Int(kind & 1)].name = kind & 8 == 0 ? "a" : "\"\u{1}é"
    }
  }

  private func settle() throws {
    for _ in 0..<10_000 where try loop.turn(waiting: .zero) == 0 { return }
    fail("the loop does not come to rest")
  }

  func end() throws {
    callers = []
    sink.end()
    try settle()
    expect(server.connectionCount == 0, "who is gone is forgotten")
    expect(
      offers.all.isEmpty && sharing.offers.values.allSatisfy(\.isOver), "what callers offer goes with them")
    for frame in frames {
      sink.forget(frame)
      expect(frame.uses == 0, "nothing is in use at the end")
    }
    try settle()
    expect(awaited.allSatisfy(\.isEmpty), "every presentation is reported")
  }
}
