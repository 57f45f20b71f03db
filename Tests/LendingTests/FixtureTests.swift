import Buffers
import Fixtures
import Linux
import Testing

@Suite struct FixtureTests {
  @Test("a busy device is waited for until it has finished") func busyDevice() throws {
    let (loop, device) = (try EventLoop(), try BusyDevice())
    var told = 0
    let wait = try #require(device.wait(loop) { told += 1 })
    while try loop.turn(waiting: .zero) > 0 {}
    #expect(!wait.isOver && told == 0)
    try device.finish()
    while try loop.turn(waiting: .zero) > 0 {}
    #expect(wait.isOver && told == 1)
    #expect(device.wait(loop) {} == nil)
  }

  @Test("what a test writes into a lendable buffer is in its pages") func bytes() throws {
    let lendable = try LendableBuffer(pages: 2)
    let text: [UInt8] = [1, 2, 3]
    unsafe lendable.memory.store(text.span.bytes, at: 5000)
    let dmabuf = try #require(lendable.buffer.dmabuf)
    #expect(
      try lendable.buffer.size == 8192 && dmabuf.size == 8192
        && dmabuf.map().bytes(at: 5000, count: 3) == text)
  }
}
