import Linux
import SystemPackage
import TestSupport
import Testing

@Suite struct EventLoopTests {
  @Test("the handler of a ready descriptor runs, and no other") func callsWhatIsReady() throws {
    let loop = try EventLoop()
    let a = try EventFD()
    let b = try EventFD()
    var calls: [String] = []
    let first = try loop.add(a.fd) { _ in calls.append("a") }
    let second = try loop.add(b.fd) { _ in calls.append("b") }
    #expect(try loop.turn(waiting: .zero) == 0)
    b.signal()
    #expect(try loop.turn(waiting: .zero) == 1)
    #expect(calls == ["b"])
    loop.remove(second, b.fd)
    a.signal()
    try loop.turn(waiting: .zero)
    #expect(calls == ["b", "a"])
    loop.remove(first, a.fd)
  }

  /// An event that was fetched in one batch with another, whose handler removes the source and adds one in
  /// its slot, does not reach the new source.
  @Test("an event that was fetched for a removed source does not reach the next source in its slot")
  func generationKeepsStaleEventsAway() throws {
    let loop = try EventLoop()
    let events = [Signal(), Signal()]
    let quiet = Signal()
    var tokens: [EventLoop.Token?] = [nil, nil]
    var calls: [Int] = []
    var stale = 0
    for index in 0...1 {
      tokens[index] = try loop.add(events[index].event.fd) { _ in
        calls.append(index)
        events[index].event.drain()
        let other = 1 - index
        loop.remove(tokens[other]!, events[other].event.fd)
        tokens[other] = try? loop.add(quiet.event.fd) { _ in stale += 1 }
      }
    }
    for signal in events { signal.event.signal() }
    #expect(try loop.turn(waiting: .zero) == 2)
    #expect(calls.count == 1)
    #expect(stale == 0)
  }

  private final class Signal {
    let event = try! EventFD()
  }

  @Test("the readiness to watch for can be changed") func modifyAndWritable() throws {
    let loop = try EventLoop()
    let event = try EventFD()
    var calls = 0
    let token = try loop.add(event.fd, []) { _ in calls += 1 }
    try loop.turn(waiting: .zero)
    #expect(calls == 0)
    try loop.modify(token, event.fd, .writable)
    try loop.turn(waiting: .zero)
    #expect(calls == 1)
    loop.remove(token, event.fd)
  }

  @Test("each change is reported once, even if nothing is read") func newsThatIsReportedOnceIsNotRead() throws
  {
    let loop = try EventLoop()
    let event = try EventFD()
    var calls = 0
    let token = try loop.add(event.fd, [.readable, .once]) { _ in calls += 1 }
    for expected in 1...3 {
      event.signal()
      #expect(try loop.turn(waiting: .zero) == 1)
      #expect(try loop.turn(waiting: .zero) == 0)
      #expect(calls == expected)
    }
    loop.remove(token, event.fd)
  }

  @Test("deferred handlers run once, at the end of the turn")
  func deferredHandlersRunAtTheEndOfTheTurnAndOnce() throws {
    let loop = try EventLoop()
    let event = try EventFD()
    var order: [String] = []
    var again = 2
    var deferred: Deferred?
    deferred = Deferred(loop) {
      order.append("deferred")
      again -= 1
      if again > 0 { deferred?.schedule() }
    }
    let token = try loop.add(event.fd, [.readable, .once]) { _ in
      deferred?.schedule()
      deferred?.schedule()
      order.append("event")
    }
    event.signal()
    #expect(try loop.turn(waiting: .zero) == 2)
    #expect(order == ["event", "deferred"])
    // What a deferred handler defers comes after the descriptors of the next turn, which does not wait for them.
    event.signal()
    #expect(try loop.turn() == 2)
    #expect(order == ["event", "deferred", "event", "deferred"])
    #expect(try loop.turn(waiting: .zero) == 0)
    loop.remove(token, event.fd)
  }

  @Test("a deferred handler that is gone does not run") func aDeferredHandlerThatIsGoneDoesNotRun() throws {
    let loop = try EventLoop()
    var deferred: Deferred? = Deferred(loop) { Issue.record("it was gone") }
    deferred?.schedule()
    deferred = nil
    try loop.turn()
  }

  @Test("a descriptor is watched only once") func refusesADescriptorTwice() throws {
    let loop = try EventLoop()
    let event = try EventFD()
    let token = try loop.add(event.fd) { _ in }
    #expect(throws: Errno.fileExists) { _ = try loop.add(event.fd) { _ in } }
    loop.remove(token, event.fd)
  }

  @Test("a timer fires once") func timerFiresOnce() throws {
    let loop = try EventLoop()
    var fired = 0
    let timer = try Timer(loop) {
      fired += 1
      loop.stop()
    }
    let start = Instant.now
    timer.arm(after: .milliseconds(20))
    #expect(timer.armed)
    try loop.run()
    #expect(fired == 1 && !timer.armed)
    #expect(.now - start >= .milliseconds(20))
    timer.arm(after: .zero)
    try loop.turn(until: "it fires again", isToldOf: true) { fired == 2 }
    timer.arm(after: .milliseconds(1))
    timer.disarm()
    try outlast(loop)
    #expect(fired == 2)
  }

  /// Turns the loop until a timer that was armed now and for longer than others has fired, and so have they.
  private func outlast(_ loop: EventLoop) throws {
    var isOver = false
    let timer = try Timer(loop) { isOver = true }
    timer.arm(after: .milliseconds(10))
    try loop.turn(until: "a timer fires", isToldOf: true) { isOver }
    try loop.turn(waiting: .zero)
  }

  @Test("a timer that is gone does not fire") func timerThatEndsLeavesTheLoop() throws {
    let loop = try EventLoop()
    var timer: Timer? = try Timer(loop) { Issue.record("it was gone") }
    timer?.arm(after: .milliseconds(1))
    timer = nil
    try outlast(loop)
  }
}
