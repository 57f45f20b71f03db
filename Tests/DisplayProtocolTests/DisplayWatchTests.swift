import DisplayProtocol
import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing
import Varlink

@Suite final class DisplayWatchTests {
  private let directory: FilePath
  private let loop: EventLoop
  private let listener: UnixSocket
  private var heard = 0
  private var ends: [(any Error)?] = []

  init() throws {
    directory = try makeTemporaryDirectory()
    loop = try EventLoop()
    listener = try UnixSocket.listen(directory.appending("control"))
  }

  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  private func watch(_ onEvent: @escaping (DisplayEvent) throws -> Void = { _ in }) throws -> DisplayWatch {
    let client = try VarlinkClient(directory.appending("control"))
    return try DisplayWatch(client, loop: loop) { [unowned self] event in
      heard += 1
      try onEvent(event)
    } onEnd: { [unowned self] in
      ends.append($0)
    }
  }

  /// Sends that a scanout is dark, again and again.
  private func send(_ count: Int, to socket: borrowing UnixSocket) throws {
    for _ in 0..<count {
      let event = Array(#"{"parameters":{"event":"off","scanout":0},"continues":true}"#.utf8) + [0]
      try #require(unsafe try socket.send(event.span.bytes) == event.count)
    }
  }

  @Test("one turn of the loop takes a part of many events, and no event is lost") func partOfMany() throws {
    let watch = try watch()
    let service = try listener.accept()
    try send(200, to: service)
    _ = try loop.turn(waiting: .zero)
    #expect(heard > 0 && heard < 200)
    try loop.turn(until: "all are heard") { heard == 200 }
    #expect(watch.isActive && ends.isEmpty)
  }

  @Test("a watch that is stopped while it hears an event hears no other") func stopped() throws {
    var watch: DisplayWatch?
    watch = try self.watch { _ in watch?.stop() }
    let service = try listener.accept()
    try send(2, to: service)
    try loop.turn(until: "one is heard") { heard == 1 }
    _ = try loop.turn(waiting: .zero)
    #expect(heard == 1 && ends.isEmpty && watch?.isActive == false)
  }

  @Test("an error of the receiver, and the end of the connection, end the watch once") func endsOnce() throws
  {
    let failing = try watch { _ in throw Errno.permissionDenied }
    let service = try listener.accept()
    try send(2, to: service)
    try loop.turn(until: "the first watch ends") { !ends.isEmpty }
    #expect(ends.first as? Errno == .permissionDenied && heard == 1 && !failing.isActive)

    let closed = try watch()
    do { _ = try listener.accept() }
    try loop.turn(until: "the second watch ends") { ends.count == 2 }
    #expect(ends.last is VarlinkClientError && !closed.isActive)
  }
}
