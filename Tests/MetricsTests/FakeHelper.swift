import Fixtures
import Foundation
import Linux
import SystemPackage
import TestSupport
import Udmabuf

@testable import Metrics

/// Whoever listens where a helper should: it does with each caller what it is made to do.
final class FakeHelper {
  enum Behaviour: Sendable {
    /// Answers each call with these bytes.
    case answers([UInt8])
    /// The same, with a descriptor.
    case passes([UInt8])
    /// Ends the connection as soon as it is there.
    case closes
    /// Ends it behind these bytes.
    case breaksOff([UInt8])
    /// Reads, and says nothing until `speak`.
    case silent
    /// Sends bytes that are no end of a message, as many as go.
    case floods
    /// Accepts nobody.
    case isStopped
  }

  let path: FilePath
  private(set) var calls = 0
  private let loop: EventLoop
  private let behaviour: Behaviour
  private var acceptor: Acceptor?
  private var stopped: Box?
  private var callers: [Caller] = []

  private final class Box {
    let socket: UnixSocket
    init(_ socket: consuming UnixSocket) { self.socket = socket }
  }

  private final class Caller {
    let socket: UnixSocket
    var token: EventLoop.Token?
    init(_ socket: consuming UnixSocket) { self.socket = socket }
  }

  init(_ path: FilePath, _ behaviour: Behaviour, loop: EventLoop) throws {
    (self.path, self.behaviour, self.loop) = (path, behaviour, loop)
    let socket = try UnixSocket.listen(path)
    if case .isStopped = behaviour {
      stopped = Box(socket)
      return
    }
    acceptor = try Acceptor(socket, loop: loop) { [unowned self] connected throws(Errno) in
      try take(connected)
    } whenFailed: { _ in
    }
  }

  deinit { for caller in callers { end(caller) } }

  private func take(_ connected: consuming UnixSocket) throws(Errno) {
    let caller = Caller(connected)
    if case .closes = behaviour { return caller.socket.shutDown() }
    var readiness = Readiness.readable
    if case .floods = behaviour { readiness.insert(.writable) }
    caller.token = try loop.add(caller.socket.fd, readiness) { [unowned self, unowned caller] in
      ready(caller, $0)
    }
    callers.append(caller)
  }

  private func ready(_ caller: Caller, _ readiness: Readiness) {
    if readiness.contains(.writable) {
      _ = try? unsafe caller.socket.send([UInt8](repeating: 0x78, count: 4096).span.bytes)
    }
    var bytes: [UInt8] = []
    var descriptors = ReceivedDescriptors()
    do throws(Errno) {
      if try caller.socket.receive(into: &bytes, upTo: 4096, descriptors: &descriptors) == 0 {
        return end(caller)
      }
    } catch {
      if error != .wouldBlock { end(caller) }
      return
    }
    guard bytes.last == 0 else { return }
    calls += 1
    switch behaviour {
    case .answers(let answer): send(answer, to: caller)
    case .passes(let answer):
      let memfd = try? Memfd.create(name: "passed", size: 4096)
      memfd?.withDescriptor { fd in _ = try? unsafe caller.socket.send(answer.span.bytes, passing: fd) }
    case .breaksOff(let answer):
      send(answer, to: caller)
      end(caller)
    case .closes, .silent, .floods, .isStopped: break
    }
  }

  private func send(_ answer: [UInt8], to caller: Caller) {
    _ = try? unsafe caller.socket.send(answer.span.bytes)
  }

  /// Answers all who have called.
  func speak(_ answer: [UInt8] = FakeHelper.good) { for caller in callers { send(answer, to: caller) } }

  private func end(_ caller: Caller) {
    if let token = caller.token.take() { loop.remove(token, caller.socket.fd) }
    caller.socket.shutDown()
    callers.removeAll { $0 === caller }
  }

  /// A reply with these parameters.
  static func reply(_ parameters: String) -> [UInt8] { Array("{\"parameters\":\(parameters)}\0".utf8) }

  /// As a helper answers.
  static let good = reply(
    #"{"device":{"flushes":3,"shadows":{"noDevice":1},"protocolErrors":{}},"control":{"frames":3}}"#)
}
