package import Linux
package import SystemPackage

/// The port to the helper, as lines.
///
/// Whether anybody is at its other end changes while it is open: the kernel then reports a hangup for as long as nobody is, and
/// reads nothing. So the loop is told of each change once, and waits for the next.
package final class AgentPort {
  enum Change {
    case connected, disconnected
    /// The kernel told of something, and nothing is to be seen: a line was taken, or the helper went and another one came.
    case stirred
    /// The port was unplugged, or is broken.
    case gone
  }

  /// A longer line of the helper's is dropped, in bytes.
  static let longestLine = 64 << 10
  private static let bytesPerRead = 4 << 10
  private static let readsPerTurn = 64

  private let fd: FD
  private let loop: EventLoop
  private var token: EventLoop.Token?
  private var more: Deferred?
  private var input: [UInt8] = []
  /// The rest of a line that is too long is dropped.
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
    // What was there before is no line of this connection's.
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

  /// Reads all that there is: the loop tells of it once.
  /// - Returns: whether there was something.
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
      // A socket's peer that has gone; the loop tells of it too.
      case .brokenPipe, .connectionReset: disconnect()
      default: end()
      }
    }
  }
}
