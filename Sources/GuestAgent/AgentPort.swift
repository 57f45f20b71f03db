package import Linux
package import SystemPackage

/// The port to the helper, as lines.
///
/// The other end can come and go while the port is open. As long as nobody is there, the kernel reports a hangup, and reads
/// give nothing. The loop therefore reports each change only once.
package final class AgentPort {
  enum Change {
    case connected, disconnected
    /// The kernel reported a change, but none is visible: a line was taken, or another helper came at once.
    case stirred
    /// The port was unplugged, or is broken.
    case gone
  }

  /// The longest line of the helper in bytes; a longer one is dropped.
  static let longestLine = 64 << 10
  private static let bytesPerRead = 4 << 10
  private static let readsPerTurn = 64

  private let fd: FD
  private let loop: EventLoop
  private var token: EventLoop.Token?
  private var more: Deferred?
  private var input: [UInt8] = []
  /// Whether the rest of a too long line is being dropped.
  private var isDropping = false
  private var output: [UInt8] = []
  private(set) var isConnected = false

  var whenLine: (([UInt8]) -> Void)?
  var whenChanged: ((Change) -> Void)?

  /// - Parameter fd: a virtio-serial port, or a socket, that nobody else reads.
  package init(_ fd: consuming FD, loop: EventLoop) throws(Errno) {
    self.fd = fd
    self.loop = loop
    try self.fd.setNonblocking()
    more = Deferred(loop) { [unowned self] in receive() }
  }

  /// Begins to watch. The first report says whether anybody is there.
  func open() throws(Errno) {
    token = try loop.add(fd, [.readable, .writable, .once]) { [unowned self] in ready($0) }
  }

  deinit { close() }

  func close() {
    if let token = token.take() { loop.remove(token, fd) }
    (input, output) = ([], [])
  }

  /// Sends as soon as there is room. Bytes for a helper that goes away are dropped.
  func send(_ bytes: [UInt8]) {
    guard isConnected else { return }
    output += bytes
    flush()
  }

  private func ready(_ readiness: Readiness) {
    let isThere = !readiness.contains(.hangup)
    let wasQuiet = isConnected && output.isEmpty
    if isThere { connect() }
    let hasRead = receive()
    if !isThere { disconnect() }
    flush()
    if wasQuiet, isConnected, !hasRead { whenChanged?(.stirred) }
  }

  private func connect() {
    if isConnected { return }
    // Earlier bytes belong to an earlier connection.
    (input, isDropping, isConnected) = ([], false, true)
    whenChanged?(.connected)
  }

  private func disconnect() {
    guard isConnected else { return }
    (output, isConnected) = ([], false)
    whenChanged?(.disconnected)
  }

  private func end() {
    guard token != nil else { return }
    close()
    isConnected = false
    whenChanged?(.gone)
  }

  /// Reads everything, because the loop reports it only once.
  /// - Returns: whether any bytes came.
  @discardableResult
  private func receive() -> Bool {
    var buffer: [UInt8] = []
    var hasRead = false
    do throws(Errno) {
      for _ in 0..<Self.readsPerTurn {
        guard token != nil else { return hasRead }
        let count = try fd.read(into: &buffer, upTo: Self.bytesPerRead)
        if count == 0 {
          disconnect()
          return hasRead
        }
        hasRead = true
        take(buffer[..<count])
      }
      more?.schedule()
    } catch {
      if error != .wouldBlock { end() }
    }
    return hasRead
  }

  private func take(_ bytes: ArraySlice<UInt8>) {
    var rest = bytes
    while let end = rest.firstIndex(of: 0x0a) {
      if !isDropping { input += rest[..<end] }
      rest = rest[(end + 1)...]
      let line = input
      input = []
      if !isDropping, line.count <= Self.longestLine { whenLine?(line) }
      isDropping = false
    }
    if !isDropping { input += rest }
    if input.count > Self.longestLine { (input, isDropping) = ([], true) }
  }

  private func flush() {
    do throws(Errno) {
      while isConnected, !output.isEmpty {
        output.removeFirst(unsafe try fd.writeSome(output.span.bytes))
      }
    } catch {
      switch error {
      case .wouldBlock: break
      // The peer of a socket is gone, which the loop reports too.
      case .brokenPipe, .connectionReset: disconnect()
      default: end()
      }
    }
  }
}
