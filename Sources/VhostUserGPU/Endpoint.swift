package import Linux
package import Logging
package import SystemPackage
package import VhostUser
package import VirtioGPU

/// Why an inherited descriptor cannot be QEMU's connection.
package enum EndpointError: Error, Equatable, CustomStringConvertible {
  case noDescriptor(Errno)
  case notAStreamSocket

  package var description: String {
    switch self {
    case .noDescriptor(let errno): "there is no such inherited descriptor (\(errno))"
    case .notAStreamSocket: "it is not a stream socket"
    }
  }
}

/// Shows a device's frames on QEMU's own display.
package protocol QEMUDisplay: AnyObject {
  /// QEMU has sent this socket, which replaces an earlier one.
  func connect(_ socket: consuming UnixSocket)
  /// QEMU's connection for the device is over.
  func abandon()
}

/// One device, and QEMU's connection to it.
package final class Endpoint {
  /// The way by which QEMU connects.
  package enum Address {
    case path(FilePath)
    /// Inherited by this process.
    case descriptor(CInt)
  }

  /// At most this many connections may have sent nothing yet. One more replaces the oldest.
  static let maxCallers = 8

  /// A socket that is listened on.
  package final class Listener {
    let socket: UnixSocket
    /// - Throws: `ListenError`.
    package init(_ path: FilePath) throws { socket = try listenOn(path) }
  }

  package let device: GPUDevice
  private let backEnd: GPUBackEnd
  private let address: Address
  /// Whether it serves one connection after the other.
  private let keeps: Bool
  private let known: KnownMemory
  private let display: (any QEMUDisplay)?
  private let loop: EventLoop
  private let logger: Logger
  private var listener: Listener?
  /// Non-nil while a connection is awaited.
  private var listenerToken: EventLoop.Token?
  /// Connections without a whole message yet, in the order of their numbers. Any of them may be QEMU.
  private var callers: [Int: VhostUserSession] = [:]
  private var lastCaller = 0
  /// QEMU's connection.
  private var session: VhostUserSession?
  /// Whether QEMU has not connected yet.
  package private(set) var isWaiting = false
  /// Called when QEMU has connected.
  package var onConnection: () -> Void = {}
  /// Called when the connection is over, with an error or without.
  package var onEnd: ((any Error)?) -> Void = { _ in }

  /// - Parameters:
  ///   - listener: the listening socket of its path, if there is one already.
  ///   - keeps: whether it goes on listening after a connection.
  ///   - known: shared by all devices of the guest.
  package init(
    _ device: GPUDevice, at address: Address, listener: Listener? = nil, keeps: Bool, known: KnownMemory,
    display: (any QEMUDisplay)? = nil, loop: EventLoop, logger: Logger
  ) {
    (self.device, self.address, self.keeps, self.known, self.display) = (
      device, address, keeps, known, display
    )
    (self.listener, self.loop, self.logger) = (listener, loop, logger)
    backEnd = GPUBackEnd(device, loop: loop, logger: logger)
    if let display { backEnd.onDisplaySocket = { display.connect($0) } }
  }

  /// Serves the descriptor, or waits for a connection.
  /// - Throws: `EndpointError`, `ListenError` or `Errno`.
  package func open() throws {
    switch address {
    case .descriptor(let number):
      let fd: FD
      do throws(Errno) { fd = try FD.inherited(number) } catch { throw EndpointError.noDescriptor(error) }
      guard fd.isStreamSocket else { throw EndpointError.notAStreamSocket }
      session = try session(UnixSocket(adopting: fd))
      backEnd.session = session
    case .path(let path): try listen(path)
    }
  }

  /// Whether QEMU is connected.
  package var isServing: Bool { session?.hasStarted ?? false }

  /// Forgets the connection, which is over, and everything that its driver left.
  package func close() {
    session = nil
    display?.abandon()
    device.reset()
  }

  /// Forgets the connection in the same way, and waits for the next one.
  package func serveNext() throws(Errno) {
    close()
    for caller in callers.values { try caller.pauseReading(false) }
    try awaitConnection()
  }

  private func listen(_ path: FilePath) throws {
    listener = try listener ?? Listener(path)
    isWaiting = true
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
        logger.error("a connection could not be accepted: \(error)")
      }
      return
    }
    do throws(Errno) {
      let caller = try session(socket)
      if callers.count == Self.maxCallers, let oldest = callers.keys.min() { callers[oldest] = nil }
      callers[lastCaller] = caller
    } catch {
      logger.error("a connection could not be served: \(error)")
    }
  }

  private func session(_ socket: consuming UnixSocket) throws(Errno) -> VhostUserSession {
    lastCaller += 1
    let number = lastCaller
    return try VhostUserSession(
      socket, loop: loop, device: backEnd, known: known, logger: logger,
      onFirstMessage: { [unowned self] in begin(number) },
      onEnd: { [unowned self] error in ended(number, error) })
  }

  /// QEMU has sent its first message on this connection. The others are served after it, or never, because a back end
  /// serves one connection.
  private func begin(_ number: Int) {
    guard let caller = callers.removeValue(forKey: number) else { return }
    (session, backEnd.session, isWaiting) = (caller, caller, false)
    if keeps {
      pauseListening()
      for (number, caller) in callers {
        do throws(Errno) { try caller.pauseReading(true) } catch { callers[number] = nil }
      }
    } else {
      stopListening(removing: true)
    }
    onConnection()
  }

  private func ended(_ number: Int, _ error: VhostUserError?) {
    guard callers.removeValue(forKey: number) != nil else { return onEnd(error) }
    logger.info("a connection was not a front end's: \(error.map { "\($0)" } ?? "it sent nothing")")
  }

  private func pauseListening() {
    if let listener, let token = listenerToken.take() { loop.remove(token, listener.socket.fd) }
  }

  /// Stops listening.
  /// - Parameter removing: whether the socket's file may be removed.
  package func stopListening(removing: Bool) {
    pauseListening()
    callers = [:]
    isWaiting = false
    guard listener.take() != nil, removing, case .path(let path) = address else { return }
    removeFile(path)
  }
}
