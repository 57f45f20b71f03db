import Glibc
import SystemPackage
import TestSupport
import Testing

@testable import Linux

@Suite struct MemfdTests {
  @Test func sizeAndSeals() throws {
    let memfd = try Memfd.create(name: "size", size: 3 * systemPageSize, seals: [.shrink, .grow])
    #expect(memfd.status.size == 3 * systemPageSize)
    #expect(try memfd.currentSize() == 3 * systemPageSize)
    #expect(try memfd.seals() == [.shrink, .grow])
    #expect(throws: Errno.notPermitted) { try memfd.withDescriptor { try resize($0, 0) } }
    try memfd.add(.seal)
    #expect(throws: Errno.notPermitted) { try memfd.add(.write) }
    #expect(try memfd.seals().description == "SEAL|SHRINK|GROW")
    #expect(Seals().description == "none")
  }

  @Test func refusals() throws {
    #expect(throws: Errno.fileTooLarge) { try Memfd.create(name: "huge", size: .max) }
    #expect(throws: Errno.invalidArgument) {
      try Memfd.create(name: "odd", size: 4096, pages: .huge(3 << 20))
    }
    let file = try Memfd(adopting: FD.open("/proc/self/exe", writable: false))
    #expect(throws: Errno.invalidArgument) { try file.seals() }
  }

  @Test func rangesAreEqualWithinOneMemfdOnly() throws {
    let (a, b) = (try Memfd.create(name: "a", size: 8192), try Memfd.create(name: "b", size: 8192))
    let range = MemfdRange(memfd: a, offset: 4096, length: 4096)
    #expect(range == MemfdRange(memfd: a, offset: 4096, length: 4096))
    #expect(range != MemfdRange(memfd: b, offset: 4096, length: 4096))
    #expect(range.description == "0x1000:0x1000 of memfd inode \(a.status.inode)")
  }
}

@Suite struct FDTests {
  /// The other end of a socket sees that the last descriptor is gone.
  @Test func closesWithItsOwner() throws {
    try UnixSocket.pair { a, b in
      var bytes: [UInt8] = []
      var descriptors = ReceivedDescriptors()
      let copy = try a.fd.duplicate()
      end(a)
      #expect(throws: Errno.wouldBlock) {
        _ = try b.receive(into: &bytes, upTo: 1, descriptors: &descriptors)
      }
      end(copy)
      // A process that another test starts just then has it for a moment longer.
      try waitUntil("the end") { try b.fd.isReadable(within: .zero) }
      #expect(try b.receive(into: &bytes, upTo: 1, descriptors: &descriptors) == 0)
    }
  }

  private func end(_: consuming FD) {}
  private func end(_: consuming UnixSocket) {}

  @Test func inheritedMustBeOpen() {
    #expect(throws: Errno.badFileDescriptor) { _ = try FD.inherited(1 << 20).status() }
  }

  @Test func relinquishKeepsItOpen() throws {
    let raw = try EventFD().fd.duplicate().relinquish()
    let again = FD(adopting: raw)
    #expect(try again.status().isSocket == false)
  }

  @Test func duplicateIsTheSameFile() throws {
    let memfd = try Memfd.create(name: "dup", size: 4096)
    let copy = try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }
    #expect(try copy.status() == memfd.status)
  }

  @Test func readsAndWritesWhole() throws {
    let memfd = try Memfd.create(name: "text", size: 0)
    let text = Array("0123456789".utf8)
    try memfd.withDescriptor { fd in
      try fd.write(unsafe text.span.bytes)
      #expect(try fd.seekToEnd() == 10)
      #expect(try fd.read(upTo: 4) == [])
      #expect(try fd.read(upTo: 4, at: 3) == Array("3456".utf8))
      #expect(try fd.read(upTo: 4, at: 8) == Array("89".utf8))
    }
  }

  @Test func readIntoKeepsItsBuffer() throws {
    let event = try EventFD()
    var buffer: [UInt8] = []
    #expect(throws: Errno.wouldBlock) { try event.fd.read(into: &buffer, upTo: 64) }
    event.signal()
    #expect(try event.fd.read(into: &buffer, upTo: 64) == 8)
    #expect(buffer.count == 64 && buffer[0] == 1)
  }
}

@Suite struct MappingTests {
  private func mapping(offset: UInt64 = 0, length: Int = 8192) throws -> (Memfd, Mapping) {
    let memfd = try Memfd.create(name: "map", size: 16384)
    return (
      memfd, try memfd.withDescriptor { try Mapping($0, offset: offset, length: length, writable: true) }
    )
  }

  @Test func seesTheFile() throws {
    let (memfd, mapping) = try mapping(offset: 100)
    mapping.store(UInt32(0x1122_3344), at: 4)
    #expect(try memfd.withDescriptor { try $0.read(upTo: 4, at: 104) } == [0x44, 0x33, 0x22, 0x11])
    #expect(mapping.load(UInt32.self, at: 4) == 0x1122_3344)
    #expect(mapping.load(UInt16.self, at: 5) == 0x2233)
  }

  @Test func bytesAtBothEnds() throws {
    let (_, mapping) = try mapping()
    mapping.store(unsafe ([1, 2, 3] as [UInt8]).span.bytes, at: 8189)
    #expect(mapping.bytes(at: 8188, count: 4) == [0, 1, 2, 3])
    #expect(mapping.bytes(at: 8192, count: 0) == [])
    var all: [UInt8] = [9]
    mapping.append(to: &all, from: 8190, count: 2)
    #expect(all == [9, 2, 3])
  }

  @Test func ringIndices() throws {
    let (_, mapping) = try mapping()
    mapping.storeRelease(0xfffe, at: 2)
    #expect(mapping.loadAcquire(at: 2) == 0xfffe)
    #expect(mapping.load(UInt16.self, at: 2) == 0xfffe)
  }

  @Test(arguments: [(-1, 1), (8192, 1), (8190, 4), (0, 8193)])
  func outsideTraps(_ offset: Int, _ count: Int) async {
    await #expect(processExitsWith: .failure) { [offset, count] in
      let memfd = try Memfd.create(name: "map", size: 16384)
      let mapping = try memfd.withDescriptor { try Mapping($0, offset: 0, length: 8192, writable: false) }
      _ = mapping.bytes(at: offset, count: count)
    }
  }

  @Test("what is mapped is in no core file")
  func isNotDumped() throws {
    let memfd = try Memfd.create(name: "secret", size: 8192)
    let mapping = try memfd.withDescriptor { try Mapping($0, offset: 4096, length: 100, writable: true) }
    let regions = try readText("/proc/self/smaps", upTo: 1 << 24).split(separator: "\n")
    let first = try #require(regions.firstIndex { $0.contains("/memfd:secret") })
    let flags = regions[first...].first { $0.hasPrefix("VmFlags:") }
    // Its name for MADV_DONTDUMP.
    #expect(flags?.split(separator: " ").contains("dd") == true, "\(flags ?? "")")
    _ = mapping.length
  }

  @Test func refusesNoLength() throws {
    let memfd = try Memfd.create(name: "map", size: 4096)
    #expect(throws: Errno.invalidArgument) {
      try memfd.withDescriptor { _ = try Mapping($0, offset: 0, length: 0, writable: false) }
    }
  }
}

@Suite struct EventLoopTests {
  @Test func callsWhatIsReady() throws {
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
  @Test func generationKeepsStaleEventsAway() throws {
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

  @Test func modifyAndWritable() throws {
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

  @Test func newsThatIsReportedOnceIsNotRead() throws {
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

  @Test func deferredHandlersRunAtTheEndOfTheTurnAndOnce() throws {
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

  @Test func aDeferredHandlerThatIsGoneDoesNotRun() throws {
    let loop = try EventLoop()
    var deferred: Deferred? = Deferred(loop) { Issue.record("it was gone") }
    deferred?.schedule()
    deferred = nil
    try loop.turn()
  }

  @Test func refusesADescriptorTwice() throws {
    let loop = try EventLoop()
    let event = try EventFD()
    let token = try loop.add(event.fd) { _ in }
    #expect(throws: Errno.fileExists) { _ = try loop.add(event.fd) { _ in } }
    loop.remove(token, event.fd)
  }

  @Test func timerFiresOnce() throws {
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

  @Test func timerThatEndsLeavesTheLoop() throws {
    let loop = try EventLoop()
    var timer: Timer? = try Timer(loop) { Issue.record("it was gone") }
    timer?.arm(after: .milliseconds(1))
    timer = nil
    try outlast(loop)
  }
}

@Suite struct UnixSocketTests {
  private func receive(
    _ socket: borrowing UnixSocket, _ descriptors: inout ReceivedDescriptors
  ) throws(Errno) -> [UInt8] {
    var bytes: [UInt8] = [0xaa]
    let count = try socket.receive(into: &bytes, upTo: 64, descriptors: &descriptors)
    #expect(bytes.count == count + 1 && bytes[0] == 0xaa)
    return Array(bytes.dropFirst())
  }

  @Test func passesADescriptor() throws {
    let memfd = try Memfd.create(name: "passed", size: 4096)
    try UnixSocket.pair { a, b in
      let sent = try memfd.withDescriptor { fd throws(Errno) in
        try a.send(unsafe ([1, 2] as [UInt8]).span.bytes, passing: fd)
      }
      #expect(sent == 2)
      var descriptors = ReceivedDescriptors()
      #expect(try receive(b, &descriptors) == [1, 2])
      #expect(descriptors.count == 1 && !descriptors.overflowed)
      guard let fd = descriptors.take(0) else { throw Errno.badFileDescriptor }
      #expect(try fd.status() == memfd.status)
      let again = descriptors.take(0) == nil
      let beyond = descriptors.take(1) == nil
      #expect(again && beyond)
    }
  }

  @Test(arguments: [8, 9, 20]) func takesEightAtMost(_ count: Int) throws {
    let event = try EventFD()
    let raw = event.fd.withRaw { $0 }
    try UnixSocket.pair { a, b in
      _ = try a.send(unsafe ([7] as [UInt8]).span.bytes, rawDescriptors: Array(repeating: raw, count: count))
      var descriptors = ReceivedDescriptors()
      #expect(try receive(b, &descriptors) == [7])
      #expect(descriptors.count == 8)
      #expect(descriptors.overflowed == (count > 8))
    }
  }

  @Test func joinsDescriptorsOfTwoMessages() throws {
    let event = try EventFD()
    let raw = event.fd.withRaw { $0 }
    try UnixSocket.pair { a, b in
      var all = ReceivedDescriptors()
      for count in [5, 2, 4] {
        _ = try a.send(
          unsafe ([7] as [UInt8]).span.bytes, rawDescriptors: Array(repeating: raw, count: count))
        var more = ReceivedDescriptors()
        _ = try receive(b, &more)
        all.append(contentsOf: more)
      }
      #expect(all.count == 8 && all.overflowed)
    }
  }

  @Test func nothingYetAndTheEnd() throws {
    try UnixSocket.pair { a, b in
      var descriptors = ReceivedDescriptors()
      #expect(throws: Errno.wouldBlock) { _ = try receive(b, &descriptors) }
      close(a)
      // A process that another test starts just then has it for a moment longer.
      try waitUntil("the end") { try b.fd.isReadable(within: .zero) }
      let rest = try receive(b, &descriptors)
      #expect(rest == [])
      #expect(throws: Errno.brokenPipe) { _ = try b.send(unsafe ([1] as [UInt8]).span.bytes) }
    }
  }

  private func close(_: consuming UnixSocket) {}

  @Test func listensAndConnects() throws {
    let directory = try makeTemporaryDirectory()
    defer { removeDirectory(directory) }
    let path = directory.appending("socket")
    let listener = try UnixSocket.listen(path)
    #expect(throws: Errno.wouldBlock) { _ = try listener.accept().fd.status() }
    let client = try UnixSocket.connect(path)
    let server = try listener.accept()
    _ = try server.send(unsafe ([5] as [UInt8]).span.bytes)
    var descriptors = ReceivedDescriptors()
    #expect(try receive(client, &descriptors) == [5])
    #expect(throws: Errno.addressInUse) { _ = try UnixSocket.listen(path).fd.status() }
    let long = FilePath("/tmp/" + String(repeating: "x", count: 200))
    #expect(throws: Errno.fileNameTooLong) { _ = try UnixSocket.listen(long).fd.status() }
    remove(path)
  }

  @Test("only a socket of this process's own is given to a group, and no link is followed")
  func socketGroup() throws {
    let directory = try makeTemporaryDirectory()
    defer { removeDirectory(directory) }
    let path = directory.appending("file")
    let other = FilePath("\(path).other")
    let listener = try UnixSocket.listen(path)
    try setSocketGroup(path, getegid())
    #expect(try FileStatus(of: path).isSocket)
    _ = unsafe try FD.create(other).write(([1] as [UInt8]).span.bytes)
    // What may come in its place, by whoever may write in its directory.
    for isLink in [false, true] {
      remove(path)
      let result =
        unsafe isLink ? symlink(other.string, path.string) : link(other.string, path.string)
      #expect(result == 0)
      #expect(throws: Errno.fileExists) { try setSocketGroup(path, getegid()) }
    }
    // A second name of another socket.
    remove(path)
    let second = try UnixSocket.listen(path)
    remove(other)
    let result = unsafe link(path.string, other.string)
    #expect(result == 0)
    #expect(throws: Errno.fileExists) { try setSocketGroup(other, getegid()) }
    _ = (listener.fd.isStreamSocket, second.fd.isStreamSocket)
  }

  @Test("a file is not written through a link")
  func noLink() throws {
    let directory = try makeTemporaryDirectory()
    defer { removeDirectory(directory) }
    let path = directory.appending("file")
    let target = FilePath("\(path).target")
    unsafe try FD.create(target).write(([1, 2] as [UInt8]).span.bytes)
    try makeLink(path, to: target)
    #expect(throws: Errno.tooManySymbolicLinkLevels) { _ = try FD.create(path).status() }
    #expect(try FD.open(target, writable: false).read(upTo: 9) == [1, 2])
  }

  @Test("who listens and accepts nobody is not waited for for ever")
  func fullQueue() throws {
    let directory = try makeTemporaryDirectory()
    defer { removeDirectory(directory) }
    let path = directory.appending("socket")
    let listener = try UnixSocket.listen(path)
    #expect(throws: Errno.timedOut) {
      // Those that are gone keep their places until they are accepted.
      for _ in 0..<100 { _ = try UnixSocket.connect(path, within: .milliseconds(10)).fd.status() }
    }
    _ = try listener.accept()
    _ = try UnixSocket.connect(path).fd.status()
    remove(path)
  }
}
