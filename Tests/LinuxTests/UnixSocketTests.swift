import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

@Suite struct UnixSocketTests {
  private func receive(
    _ socket: borrowing UnixSocket, _ descriptors: inout ReceivedDescriptors
  ) throws(Errno) -> [UInt8] {
    var bytes: [UInt8] = [0xaa]
    let count = try socket.receive(into: &bytes, upTo: 64, descriptors: &descriptors)
    #expect(bytes.count == count + 1 && bytes[0] == 0xaa)
    return Array(bytes.dropFirst())
  }

  @Test("a descriptor that is passed is the same file, and can be taken once") func passesADescriptor() throws
  {
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

  @Test("at most eight descriptors are taken, and the loss of more is noticed", arguments: [8, 9, 20])
  func takesEightAtMost(_ count: Int) throws {
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

  @Test("the descriptors of two messages are joined in order") func joinsDescriptorsOfTwoMessages() throws {
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

  @Test("nothing yet and the end of the stream are told apart") func nothingYetAndTheEnd() throws {
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

  @Test("a client connects to a listener") func listensAndConnects() throws {
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
    removeFile(path)
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
      removeFile(path)
      let result =
        unsafe isLink ? symlink(other.string, path.string) : link(other.string, path.string)
      #expect(result == 0)
      #expect(throws: Errno.fileExists) { try setSocketGroup(path, getegid()) }
    }
    // A second name of another socket.
    removeFile(path)
    let second = try UnixSocket.listen(path)
    removeFile(other)
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

  @Test("a connection to a full queue is given up when its time is over")
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
    removeFile(path)
  }
}
