import Fixtures
import Linux
import SystemPackage
import TestSupport
import Testing
import VhostUser

/// What a peer sends on the display socket.
struct DisplayCase: CustomTestStringConvertible, Sendable {
  let testDescription: String
  let bytes: [UInt8]
  let descriptors: Int

  init(_ name: String, _ bytes: [UInt8], descriptors: Int = 0) {
    (testDescription, self.bytes, self.descriptors) = (name, bytes, descriptors)
  }
}

@Suite struct DisplayDrainTests {
  static let cases = [
    DisplayCase("a message", numbers(1, 0, 0)),
    DisplayCase("a part of a header", [1, 0]),
    DisplayCase("more than one turn reads", [UInt8](repeating: 7, count: 20_000)),
    DisplayCase("a message with a descriptor", numbers(9, 0, 0), descriptors: 1),
    DisplayCase("more descriptors than fit", numbers(9, 0, 0), descriptors: 12),
  ]

  @Test("everything that QEMU sends is taken", arguments: cases) func takesAll(_ item: DisplayCase) throws {
    let loop = try EventLoop()
    let event = try EventFD()
    let number = event.fd.withRaw { $0 }
    try UnixSocket.pair { mine, theirs in
      try theirs.fd.setNonblocking()
      let drain = try QEMUDisplayDrain(mine, loop: loop)
      // So often that the socket would be full many times.
      for _ in 0..<100 {
        let sent = unsafe try theirs.send(
          item.bytes.span.bytes, rawDescriptors: [CInt](repeating: number, count: item.descriptors))
        #expect(sent == item.bytes.count)
        while try loop.turn(waiting: .zero) > 0 {}
      }
      #expect(drain.isOpen)
    }
  }

  /// The other end of a socket that was sent along sees that nobody has it any more.
  @Test("descriptors that QEMU sends are closed", arguments: [1, 8, 12]) func closesWhatItIsSent(_ count: Int)
    throws
  {
    let loop = try EventLoop()
    try UnixSocket.pair { mine, theirs in
      let drain = try QEMUDisplayDrain(mine, loop: loop)
      try UnixSocket.pair { passed, watched in
        let number = passed.fd.withRaw { $0 }
        let bytes: [UInt8] = [1]
        _ = unsafe try theirs.send(
          bytes.span.bytes, rawDescriptors: [CInt](repeating: number, count: count))
        discard(passed)
        // A process that another test starts just then has it for a moment longer.
        try loop.turn(until: "its end") { try watched.fd.isReadable(within: .zero) }
        var rest: [UInt8] = []
        var descriptors = ReceivedDescriptors()
        #expect(try watched.receive(into: &rest, upTo: 1, descriptors: &descriptors) == 0)
      }
      #expect(drain.isOpen)
    }
  }

  private func discard(_ socket: consuming UnixSocket) {}

  @Test("the drain ends with its peer") func endsWithItsPeer() throws {
    let loop = try EventLoop()
    var drain: QEMUDisplayDrain?
    try UnixSocket.pair { mine, _ in drain = try QEMUDisplayDrain(mine, loop: loop) }
    #expect(try #require(drain).isOpen)
    let last = try #require(drain)
    try loop.turn(until: "the end of its peer") { !last.isOpen }
  }

  /// A replaced one is let go of at once.
  @Test("the socket closes with its owner") func closesWithItsOwner() throws {
    let loop = try EventLoop()
    try UnixSocket.pair { mine, theirs in
      try theirs.fd.setNonblocking()
      var drain: QEMUDisplayDrain? = try QEMUDisplayDrain(mine, loop: loop)
      #expect(drain != nil)
      drain = nil
      // A process that another test starts just then has it for a moment longer.
      try waitUntil("its end") { try theirs.fd.isReadable(within: .zero) }
      var bytes: [UInt8] = []
      var descriptors = ReceivedDescriptors()
      #expect(try theirs.receive(into: &bytes, upTo: 1, descriptors: &descriptors) == 0)
      #expect(try loop.turn(waiting: .zero) == 0)
    }
  }

  @Test("a descriptor that cannot be watched is refused") func refusesWhatCannotBeWatched() throws {
    let loop = try EventLoop()
    let file = try Memfd.create(name: "no socket", size: 1)
    #expect(throws: Errno.notPermitted) {
      let fd = try file.withDescriptor { fd throws(Errno) in try fd.duplicate() }
      _ = try QEMUDisplayDrain(UnixSocket(adopting: fd), loop: loop)
    }
  }
}
