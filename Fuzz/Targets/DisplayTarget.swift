internal import Linux
internal import SystemPackage
internal import VhostUser

// What QEMU, or whoever has its place, sends on the display socket.

func fuzzDisplay(_ input: inout Input) throws {
  let loop = try EventLoop()
  let descriptors = try Descriptors()
  for _ in 0..<4 where !input.isEmpty {
    try UnixSocket.pair { mine, theirs in
      try theirs.fd.setNonblocking()
      let drain = try QEMUDisplayDrain(mine, loop: loop)
      try send(&input, to: theirs, descriptors, drain, loop)
      expect(drain.isOpen, "the socket is closed while the peer has it open")
      try hangUp(theirs, drain, loop)
    }
  }
}

private func send(
  _ input: inout Input, to socket: borrowing UnixSocket, _ descriptors: Descriptors,
  _ drain: QEMUDisplayDrain,
  _ loop: EventLoop
) throws {
  for _ in 0..<64 where !input.isEmpty {
    let kind = input.byte()
    if kind & 7 == 7 { return }
    let passed = kind & 1 == 0 ? [] : descriptors.several(&input)
    var bytes = input.take(Int(input.byte()))
    // Pixels come in long messages.
    if kind & 8 != 0 { bytes += [UInt8](repeating: kind, count: Int(input.number(UInt16.self))) }
    if bytes.isEmpty { continue }
    do throws(Errno) {
      _ = unsafe try socket.send(bytes.span.bytes, rawDescriptors: passed)
    } catch {
      // Descriptors on their way are counted: the kernel allows no end of them.
      expect(error == .wouldBlock || error == .tooManyReferences, "sending: \(error)")
    }
    if kind & 2 != 0 { try settle(loop) }
  }
  // The peer never waits for room.
  try settle(loop)
  let long = [UInt8](repeating: 0, count: 32 << 10)
  let sent = unsafe try socket.send(long.span.bytes)
  expect(sent == long.count, "what was sent is not taken")
}

private func hangUp(_ socket: consuming UnixSocket, _ drain: QEMUDisplayDrain, _ loop: EventLoop) throws {
  discard(socket)
  try settle(loop)
  expect(!drain.isOpen, "the socket stays open when the peer is gone")
}

private func discard(_ socket: consuming UnixSocket) {}

private func settle(_ loop: EventLoop) throws {
  for _ in 0..<1000 where try loop.turn(waiting: .zero) == 0 { return }
  fail("the loop does not come to rest")
}
