import Buffers
import Fixtures
import Foundation
import Linux
import Logging
import Scanout
import SystemPackage
import TestSupport
import Testing
import VhostUser
import VirtioGPU

@testable import VhostUserGPU

/// How QEMU comes to a device, and goes.
@Suite final class EndpointTests {
  private let directory: FilePath
  private var path: FilePath { directory.appending("socket") }
  private let loop: EventLoop
  private let log = LogBook()
  /// How often QEMU has come, and how often it has gone.
  private var (begun, ended) = (0, 0)
  private var error: (any Error)?

  init() throws {
    directory = try makeTemporaryDirectory()
    loop = try EventLoop()
  }

  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  private func endpoint(
    at address: Endpoint.Address? = nil, keeps: Bool = false, display: (any QEMUDisplay)? = nil
  ) throws -> Endpoint {
    let output = SinkOutput(name: "none", modes: [])
    let device = try GPUDevice(
      lender: Lender(device: .failure(.noSuchFileOrDirectory)), sink: nil, outputs: [output],
      loop: loop, logger: log.logger)
    let endpoint = Endpoint(
      device, at: address ?? .path(path), keeps: keeps, known: KnownMemory(), display: display, loop: loop,
      logger: log.logger)
    endpoint.onConnection = { [unowned self] in begun += 1 }
    endpoint.onEnd = { [unowned self] error in
      ended += 1
      self.error = error
    }
    return endpoint
  }

  private func settle() throws {
    for _ in 0..<10_000 where try loop.turn(waiting: .zero) == 0 { return }
    Issue.record("the loop does not come to rest")
  }

  /// Somebody who has connected. It may be QEMU: it says so when it speaks.
  private final class Caller {
    let frontEnd: FrontEnd

    init(_ path: FilePath, _ loop: EventLoop) throws {
      frontEnd = try FrontEnd(UnixSocket.connect(path)) { try loop.turn(waiting: .zero) > 0 }
    }

    func speak() throws { _ = try frontEnd.askWord(FrontEnd.getFeatures) }

    /// The connection is over: what is there to read is its end.
    var isClosed: Bool { frontEnd.hasInput }
  }

  private func call() throws -> Caller {
    let caller = try Caller(path, loop)
    try settle()
    return caller
  }

  private func hasFile(_ path: FilePath) -> Bool { FileManager.default.fileExists(atPath: path.string) }

  @Test("the caller that sends the first message is QEMU, and the others are hung up on")
  func firstMessage() throws {
    let endpoint = try endpoint()
    try endpoint.open()
    let (silent, gone) = (try call(), try call())
    gone.frontEnd.socket.shutDown()
    try settle()
    #expect(endpoint.isWaiting && !endpoint.isServing && begun == 0 && ended == 0)
    let qemu = try call()
    try qemu.speak()
    #expect(!endpoint.isWaiting && endpoint.isServing && begun == 1)
    #expect(silent.isClosed && !qemu.isClosed)
    #expect(!hasFile(path), "nobody else is waited for")
    qemu.frontEnd.socket.shutDown()
    try settle()
    #expect(ended == 1 && error == nil)
    endpoint.close()
    #expect(!endpoint.isServing)
  }

  @Test("if QEMU breaks the protocol, the end has an error")
  func mistake() throws {
    let endpoint = try endpoint()
    try endpoint.open()
    let qemu = try call()
    try qemu.speak()
    try qemu.frontEnd.send(FrontEnd.getFeatures, flags: 2)
    try settle()
    #expect(ended == 1 && begun == 1)
    #expect(error is VhostUserError)
  }

  @Test("of too many silent callers the oldest is hung up on, and QEMU gets through")
  func callers() throws {
    let endpoint = try endpoint()
    try endpoint.open()
    let silent = try (0...Endpoint.maxCallers).map { _ in try call() }
    #expect(silent.map(\.isClosed) == [true] + silent.dropFirst().map { _ in false })
    try silent[Endpoint.maxCallers].speak()
    #expect(begun == 1)
    #expect(silent.dropLast().allSatisfy { $0.isClosed })
  }

  @Test("an endpoint that keeps listening serves the next caller after the end of the first")
  func keep() throws {
    let display = Display()
    let endpoint = try endpoint(keeps: true, display: display)
    try endpoint.open()
    let first = try call()
    let early = try call()
    try first.speak()
    let late = try call()
    // Neither is answered, and the second is not even taken.
    try early.frontEnd.send(FrontEnd.getFeatures)
    try late.frontEnd.send(FrontEnd.getFeatures)
    try settle()
    #expect(begun == 1 && !early.isClosed && !late.isClosed)
    #expect(hasFile(path))
    first.frontEnd.socket.shutDown()
    try settle()
    #expect(ended == 1 && display.abandoned == 0)
    try endpoint.serveNext()
    #expect(display.abandoned == 1)
    _ = try early.frontEnd.reply(to: FrontEnd.getFeatures)
    #expect(begun == 2 && endpoint.isServing)
    endpoint.stopListening(removing: false)
    #expect(hasFile(path))
  }

  @Test("the display gets the socket that QEMU sends for it")
  func displaySocket() throws {
    let display = Display()
    let endpoint = try endpoint(display: display)
    try endpoint.open()
    let qemu = try call()
    try qemu.speak()
    try UnixSocket.pair { mine, theirs in
      try theirs.fd.withRaw { raw in
        try qemu.frontEnd.send(FrontEnd.setDisplaySocket, descriptors: [raw])
      }
      try settle()
      #expect(display.connected == 1)
      _ = consume mine
    }
  }

  /// Counts what it is told.
  private final class Display: QEMUDisplay {
    private(set) var (connected, abandoned) = (0, 0)
    func connect(_ socket: consuming UnixSocket) { connected += 1 }
    func abandon() { abandoned += 1 }
  }

  @Test(
    "a killed process' socket is taken over; a living one's and another file are refused")
  func places() throws {
    // Its file stays without it.
    do { _ = try UnixSocket.listen(path) }
    #expect(hasFile(path))
    let first = try endpoint()
    try first.open()
    #expect(throws: ListenError.inUse(path)) { try endpoint().open() }
    first.stopListening(removing: true)
    #expect(!hasFile(path))
    try Data("notes".utf8).write(to: URL(fileURLWithPath: path.string))
    #expect(throws: ListenError.notASocket(path)) { try endpoint().open() }
    let nowhere = directory.appending("none/socket")
    #expect(throws: ListenError.system(nowhere, .noSuchFileOrDirectory)) {
      try endpoint(at: .path(nowhere)).open()
    }
  }

  @Test("an inherited descriptor serves QEMU if it is a stream socket")
  func inherited() throws {
    #expect(throws: EndpointError.noDescriptor(.badFileDescriptor)) {
      try endpoint(at: .descriptor(CInt.max)).open()
    }
    // The endpoint owns what it is given, whatever it is.
    let number = try FD.open("/dev/null", writable: false).relinquish()
    #expect(throws: EndpointError.notAStreamSocket) { try endpoint(at: .descriptor(number)).open() }
    try UnixSocket.pair { mine, theirs in
      let endpoint = try endpoint(at: .descriptor(mine.fd.duplicate().relinquish()))
      try endpoint.open()
      #expect(!endpoint.isServing && !endpoint.isWaiting)
      let qemu = try FrontEnd(theirs) { [loop] in try loop.turn(waiting: .zero) > 0 }
      _ = try qemu.askWord(FrontEnd.getFeatures)
      #expect(endpoint.isServing)
      _ = consume mine
    }
  }
}
