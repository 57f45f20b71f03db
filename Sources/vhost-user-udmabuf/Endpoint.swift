import Consumers
import Linux
import Logging
import SystemPackage
import VhostUser
import VhostUserGPU
import VirtioGPU

/// One device, and QEMU's connection to it.
final class Endpoint {
  /// Where QEMU comes from.
  enum Address {
    case path(FilePath)
    /// An inherited descriptor, and the option that named it.
    case descriptor(CInt, option: String)
  }

  /// A socket that is listened on.
  private final class Listener {
    let socket: UnixSocket
    init(_ socket: consuming UnixSocket) { self.socket = socket }
  }

  let device: GPUDevice
  private let backEnd: GPUBackEnd
  private let address: Address
  private let known: KnownMemory
  private let display: QEMUDisplaySink?
  private let loop: EventLoop
  private let logger: Logger
  /// Kept until the first message: who connects without a word is not QEMU.
  private var listener: Listener?
  /// There while a connection is awaited.
  private var listenerToken: EventLoop.Token?
  private var session: VhostUserSession?
  /// QEMU is there: nothing more is accepted.
  var onConnection: () -> Void = {}
  /// The connection is over, with an error or without.
  var onEnd: ((any Error)?) -> Void = { _ in }

  /// - Parameters:
  ///   - known: shared by all devices of the guest.
  ///   - display: shows the device's frames on QEMU's own display.
  init(
    _ device: GPUDevice, at address: Address, known: KnownMemory, display: QEMUDisplaySink? = nil,
    loop: EventLoop, logger: Logger
  ) {
    (self.device, self.address, self.known, self.display) = (device, address, known, display)
    (self.loop, self.logger) = (loop, logger)
    backEnd = GPUBackEnd(device, loop: loop, logger: logger)
    if let display { backEnd.onDisplaySocket = { display.connect($0) } }
  }

  /// Serves the descriptor, or waits for a connection.
  func open() throws {
    switch address {
    case .descriptor(let number, let option):
      let fd: FD
      do throws(Errno) { fd = try FD.inherited(number) } catch {
        throw StartError("\(option) \(number): there is no such inherited descriptor (\(error))")
      }
      guard fd.isStreamSocket else { throw StartError("\(option) \(number) is not a stream socket") }
      try serve(UnixSocket(adopting: fd))
    case .path(let path): try listen(path)
    }
  }

  /// A connection may still be accepted.
  var isWaiting: Bool { listener != nil }

  /// QEMU is there.
  var isServing: Bool { session?.hasStarted ?? false }

  /// Forgets the connection, which is over, and all that its driver has left.
  func close() {
    session = nil
    display?.abandon()
    device.reset()
  }

  private func listen(_ path: FilePath) throws {
    listener = Listener(try listenOn(path))
    try awaitConnection()
    logger.info("listening on \(path)")
  }

  private func awaitConnection() throws(Errno) {
    guard let listener else { return }
    listenerToken = try loop.add(listener.socket.fd) { [unowned self] _ in accept() }
  }

  private func accept() {
    guard let listener else { return }
    let socket: UnixSocket
    do throws(Errno) { socket = try listener.socket.accept() } catch {
      if error != .wouldBlock && error != .connectionAbort {
        logger.error("a connection could not be taken: \(error)")
      }
      return
    }
    // One back end serves one connection; the next must wait until this one turns out to be nobody.
    pauseListening()
    do throws(Errno) {
      try serve(socket)
    } catch {
      logger.error("a connection could not be served: \(error)")
      goOnListening()
    }
  }

  private func serve(_ socket: consuming UnixSocket) throws(Errno) {
    session = try VhostUserSession(
      socket, loop: loop, device: backEnd, known: known, logger: logger,
      onFirstMessage: { [unowned self] in
        if listener == nil { return }
        stopListening()
        onConnection()
      },
      onEnd: { [unowned self] error in
        // A program that looked whether somebody listens, and hung up.
        if error == nil, session?.hasStarted == false, listener != nil { return goOnListening() }
        onEnd(error)
      })
    backEnd.session = session
  }

  private func pauseListening() {
    if let listener, let token = listenerToken.take() { loop.remove(token, listener.socket.fd) }
  }

  /// It is QEMU, or the end: nobody else is waited for.
  func stopListening() {
    pauseListening()
    guard listener.take() != nil, case .path(let path) = address else { return }
    removeFile(path)
  }

  private func goOnListening() {
    session = nil
    do throws(Errno) { try awaitConnection() } catch {
      logger.error("no further connection can be awaited: \(error)")
      onEnd(error)
    }
  }
}
