internal import Linux
internal import SystemPackage
internal import VhostUser

// What QEMU, or whoever has its place, answers on the display socket, and how fast it reads.

func fuzzReplies(_ input: inout Input) throws {
  let loop = try EventLoop()
  let descriptors = try Descriptors()
  for _ in 0..<4 where !input.isEmpty {
    try UnixSocket.pair { mine, theirs in
      try theirs.fd.setNonblocking()
      let back = try Back(mine, loop)
      try talk(&input, back, theirs, descriptors, loop)
      try hangUp(theirs, back, loop)
    }
  }
}

/// The back end's side, which keeps account of what it was told.
private final class Back {
  let pixels: Mapping
  let buffer: Memfd
  private(set) var connection: QEMUDisplayConnection?
  private(set) var ends = 0
  private var asked = 0
  private var heard = 0

  init(_ socket: consuming UnixSocket, _ loop: EventLoop) throws {
    let buffer = try Memfd.create(name: "fuzz", size: 16 * systemPageSize)
    self.buffer = buffer
    pixels = try buffer.withDescriptor { fd throws(Errno) in
      try Mapping(fd, offset: 0, length: Int(16 * systemPageSize), writable: false)
    }
    connection = try QEMUDisplayConnection(
      socket, loop: loop, onReady: {}, onEnd: { [unowned self] _ in ends += 1 })
  }

  func send(_ input: inout Input) {
    guard let connection else { return }
    let scanout = UInt32(input.byte())
    let place = QEMUDisplayCursorPlace(scanout: scanout, x: Int32(input.byte()), y: -1)
    // As many pixels as there are.
    let area = QEMUDisplayArea(
      x: 0, y: 0, width: UInt32(input.byte() % 128), height: UInt32(input.byte() % 128))
    switch input.byte() % 11 {
    case 0: ask(.getProtocolFeatures)
    case 1: _ = connection.send(.setProtocolFeatures([.edid]))
    case 2: ask(.getDisplayInfo)
    case 3: _ = connection.send(.cursorPosition(place))
    case 4: _ = connection.send(.cursorHide(place))
    case 5:
      let image = [UInt8](repeating: 1, count: QEMUDisplayMessage.cursorBytes)
      _ = connection.send(.cursorUpdate(place, hotX: 1, hotY: 2, image: image))
    case 6: _ = connection.send(.scanout(scanout, width: area.width, height: area.height))
    case 7: _ = connection.send(.update(scanout, area, QEMUDisplayPixels(pixels, offset: 0, stride: 128 * 4)))
    case 8:
      let layout = QEMUDisplayBuffer(
        area: area, width: area.width, height: area.height, stride: 512, fourcc: 1)
      buffer.withDescriptor {
        _ = connection.send(.dmabufScanout2(scanout, layout, modifier: 0), passing: $0)
      }
    case 9: ask(.dmabufUpdate(scanout, area))
    default: ask(.getEDID(scanout))
    }
  }

  private func ask(_ message: QEMUDisplayMessage) {
    let isAsked = connection?.ask(message) { [unowned self] reply in
      expect(ends == 0, "a reply comes after the end")
      heard += 1
      expect(heard <= asked, "more is answered than was asked")
      if case .edid(let bytes) = reply { expect(bytes.count <= 1024, "an EDID of \(bytes.count) bytes") }
      if case .displayInfo(let screens) = reply { expect(screens.count == 16, "\(screens.count) screens") }
    }
    if isAsked == true { asked += 1 }
  }
}

private func talk(
  _ input: inout Input, _ back: Back, _ socket: borrowing UnixSocket, _ descriptors: Descriptors,
  _ loop: EventLoop
) throws {
  /// The sizes of replies that are well formed.
  let sizes: [(code: UInt32, size: Int)] = [(1, 8), (3, 408), (10, 0), (11, 1056)]
  for _ in 0..<64 where !input.isEmpty {
    let kind = input.byte()
    switch kind % 8 {
    case 0, 1, 2: back.send(&input)
    case 3: try read(socket, Int(input.number(UInt16.self)))
    case 4:
      let passed = kind & 8 == 0 ? [] : descriptors.several(&input)
      try reply(input.take(Int(input.byte())), socket, passed)
    default:
      let (code, size) = input.one(of: sizes)
      var payload = [UInt8](repeating: 0, count: size)
      // The type that virtio wants, and then what the input says.
      let start: [UInt8] = code == 3 ? [1, 0x11] : code == 11 ? [4, 0x11] : []
      for (index, byte) in start.enumerated() { payload[index] = byte }
      for place in start.count..<max(start.count, min(size, 48)) { payload[place] = input.byte() }
      let header = [code, 4, UInt32(size)].flatMap { word in (0..<4).map { UInt8(word >> (8 * $0) & 0xff) } }
      try reply(header + payload, socket, [])
    }
    if kind & 16 != 0 { try settle(loop) }
  }
  try settle(loop)
  expect((back.ends == 0) == (back.connection?.isOpen ?? false), "the end is told once")
}

private func reply(_ bytes: [UInt8], _ socket: borrowing UnixSocket, _ passed: [CInt]) throws {
  if bytes.isEmpty { return }
  do throws(Errno) {
    _ = unsafe try socket.send(bytes.span.bytes, rawDescriptors: passed)
  } catch {
    expect(
      [.wouldBlock, .tooManyReferences, .brokenPipe, .connectionReset].contains(error), "sending: \(error)")
  }
}

private func read(_ socket: borrowing UnixSocket, _ count: Int) throws {
  var bytes: [UInt8] = []
  var descriptors = ReceivedDescriptors()
  do throws(Errno) {
    _ = try socket.receive(into: &bytes, upTo: max(1, count), descriptors: &descriptors)
  } catch { expect(error == .wouldBlock || error == .connectionReset, "receiving: \(error)") }
}

private func hangUp(_ socket: consuming UnixSocket, _ back: Back, _ loop: EventLoop) throws {
  discard(socket)
  try settle(loop)
  expect(back.ends == 1, "the end is told \(back.ends) times")
}

private func discard(_ socket: consuming UnixSocket) {}

private func settle(_ loop: EventLoop) throws {
  for _ in 0..<1000 where try loop.turn(waiting: .zero) == 0 { return }
  fail("the loop does not come to rest")
}
