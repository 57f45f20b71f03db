import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

@Suite struct PipeTests {
  private final class ReadEnd {
    var fd: FD?
    init(_ fd: consuming FD) { self.fd = consume fd }
  }

  /// A pipe's two ends.
  private func pipe() throws -> (ReadEnd, writtenEnd: ReadEnd) {
    var reading: ReadEnd?
    let written = try makePipe { reading = ReadEnd($0) }
    return (try #require(reading), ReadEnd(written))
  }

  private func state(_ fd: borrowing FD) -> Int32 {
    var one = pollfd(fd: fd.withRaw { $0 }, events: 0, revents: 0)
    return unsafe poll(&one, 1, 0) == 1 ? Int32(one.revents) : 0
  }

  @Test("a pipe's reader sees when the last copy of the other end closes, and nothing before")
  func hangup() throws {
    let loop = try EventLoop()
    let (read, written) = try pipe()
    var events: [Readiness] = []
    let token = try loop.add(read.fd!, []) { events.append($0) }
    var copy: FD? = try written.fd!.duplicate()
    try copy!.write(unsafe ([1, 2, 3] as [UInt8]).span.bytes)
    try loop.turn(waiting: .zero)
    written.fd = nil
    try loop.turn(waiting: .zero)
    #expect(events.isEmpty)
    copy = nil
    try loop.turn(waiting: .zero)
    #expect(events.map { $0.contains(.hangup) } == [true])
    loop.remove(token, read.fd!)
  }

  @Test("a pipe's writer sees when nobody reads any more")
  func brokenPipe() throws {
    let (read, written) = try pipe()
    #expect(state(written.fd!) == 0)
    read.fd = nil
    #expect(state(written.fd!) & POLLERR != 0)
  }

  @Test("a write into a full pipe fails at once")
  func nonblocking() throws {
    let (read, written) = try pipe()
    let bytes = [UInt8](repeating: 0, count: 4096)
    #expect(throws: Errno.wouldBlock) {
      // More than root may make of a pipe at once (pipe-max-size).
      for _ in 0..<(1 << 20) { try written.fd!.write(unsafe bytes.span.bytes) }
    }
    #expect(try read.fd!.read(upTo: 1) == [0])
  }
}
