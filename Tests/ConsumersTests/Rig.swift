import DisplayProtocol
import Fixtures
import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

@testable import Consumers
@testable import Scanout
@testable import Varlink

/// A sink whose frames are offered on a socket, and what it reports.
final class Rig: ScanoutObserver {
  let directory: FilePath
  let loop: EventLoop
  let sink: ControlSink
  let server: VarlinkServer
  var reports: [String] = []
  private var lastFrame: UInt64 = 0
  private var sequences: [UInt32: UInt64] = [:]

  init(scanouts: Int = 1, limit: Int = 8, watchers: Int = 8) throws {
    directory = try makeTemporaryDirectory()
    loop = try EventLoop()
    let mode = DisplayMode.reducedBlanking(width: 640, height: 480)!
    sink = try ControlSink(
      outputs: (0..<scanouts).map { SinkOutput(name: "out-\($0)", modes: [mode], hasCursor: true) },
      loop: loop)
    // Longer than any test takes, so that none depends on how busy the machine is.
    sink.patience = .seconds(3600)
    let interface = DisplayInterface(sink, watchers: WatcherLimit(watchers)) { _ in
      Array(#"{"flushes":3}"#.utf8)
    }
    server = try VarlinkServer(
      UnixSocket.listen(directory.appending("socket")),
      info: VarlinkInfo(vendor: "udmabridge", product: "test", version: "1", url: ""),
      interfaces: [interface],
      limit: limit, loop: loop
    ) { _ in true }
    interface.server = server
    sink.observer = self
  }

  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID) {
    reports.append("presented \(sequence) of \(frame.id)")
  }
  func replaced(_ sequence: UInt64, on scanout: ScanoutID) { reports.append("replaced \(sequence)") }
  func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError) {
    reports.append("failed \(sequence)")
  }
  func outputsChanged() { reports.append("outputs") }

  /// Handles what there is to do.
  func settle() throws {
    for _ in 0..<10_000 where try loop.turn(waiting: .zero) == 0 { return }
    Issue.record("the loop does not come to rest")
  }

  /// Waits for what follows the end of a connection (`UnixSocket.shutDown`).
  func waitUntil(_ what: String, _ condition: () throws -> Bool) throws {
    try loop.turn(until: what, condition)
  }

  /// A frame of memory of its own, each pixel its number.
  func frame(_ width: UInt32 = 64, _ height: UInt32 = 48) throws -> Frame {
    lastFrame += 1
    let canvas = try sink.allocate(width: width, height: height, format: .xrgb8888, on: ScanoutID(0))
    for pixel in 0..<UInt32(width * height) {
      canvas.memory.mapping.store(pixel ^ UInt32(lastFrame) << 24, at: Int(pixel) * 4)
    }
    let frame = Frame(id: lastFrame, memory: .shadow(canvas.memory), layout: canvas.layout)
    try sink.prepare(frame, source: frame.layout.bounds, on: ScanoutID(0))
    return frame
  }

  func present(_ frame: Frame, _ damage: Rectangle? = nil, on scanout: UInt32 = 0) {
    sequences[scanout, default: 0] += 1
    sink.present(
      Presentation(
        frame: frame, source: frame.layout.bounds, damage: damage ?? frame.layout.bounds,
        sequence: sequences[scanout]!), on: ScanoutID(scanout))
  }

  func connect() throws -> Caller {
    let caller = Caller(try UnixSocket.connect(directory.appending("socket")), self)
    try settle()
    return caller
  }
}

/// Another process, as it were.
final class Caller {
  private var socket: UnixSocket?
  private unowned let rig: Rig
  private var input: [UInt8] = []
  private(set) var isClosed = false
  private(set) var descriptor: FD?

  init(_ socket: consuming UnixSocket, _ rig: Rig) {
    self.socket = consume socket
    self.rig = rig
  }

  deinit { socket?.shutDown() }

  func takeDescriptor() -> FD? { descriptor.take() }

  /// The connection after an upgrade.
  func takeSocket() throws -> UnixSocket {
    guard let socket = socket.take() else { throw TroubleInTest("the socket is gone") }
    return socket
  }

  func send(
    _ method: String, _ parameters: String = "{}", more: Bool = false, upgrade: Bool = false,
    oneway: Bool = false
  ) throws {
    let flags = [("more", more), ("oneway", oneway), ("upgrade", upgrade)].filter(\.1)
      .map { #","\#($0.0)":true"# }.joined()
    let call = #"{"method":"io.udmabridge.Display.\#(method)","parameters":\#(parameters)\#(flags)}"#
    _ = unsafe try socket?.send(Array((call + "\0").utf8).span.bytes)
    try rig.settle()
  }

  /// What has come, message by message.
  func messages(upTo limit: Int = .max) throws -> [[UInt8]] {
    try rig.settle()
    var left = limit
    while !isClosed, left > 0 {
      var descriptors = ReceivedDescriptors()
      do throws(Errno) {
        let count =
          try socket?.receive(into: &input, upTo: min(left, 8192), descriptors: &descriptors) ?? 0
        isClosed = count == 0
        left -= count
      } catch {
        if error == .wouldBlock { break }
        isClosed = true
      }
      if let fd = descriptors.take(0) { descriptor = consume fd }
      try rig.settle()
    }
    guard let last = input.lastIndex(of: 0) else { return [] }
    let whole = input[..<last].split(separator: 0).map(Array.init)
    input.removeFirst(last + 1)
    return whole
  }

  private struct Reply<Parameters: Decodable>: Decodable { let parameters: Parameters }
  private struct ErrorReply: Decodable {
    let error: String
    let parameters: [String: Int]
  }

  func ask<Parameters: Decodable>(
    _ method: String, _ parameters: String = "{}", as type: Parameters.Type = Parameters.self
  ) throws -> Parameters {
    try send(method, parameters)
    let message = try #require(try messages().first, "no answer")
    do { return try JSONDecoder().decode(Reply<Parameters>.self, from: Data(message)).parameters } catch {
      throw TroubleInTest(String(decoding: message, as: UTF8.self))
    }
  }

  /// The error's name without its interface, and its number.
  func fail(_ method: String, _ parameters: String = "{}") throws -> String {
    try send(method, parameters)
    let message = try #require(try messages().first, "no answer")
    let reply = try JSONDecoder().decode(ErrorReply.self, from: Data(message))
    return "\(reply.error.split(separator: ".").last!) \(reply.parameters.values.first!)"
  }

  /// The events of a call of Watch.
  func events(upTo limit: Int = .max) throws -> [DisplayEvent] {
    try messages(upTo: limit).map {
      try JSONDecoder().decode(Reply<DisplayEvent>.self, from: Data($0)).parameters
    }
  }
}
