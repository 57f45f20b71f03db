internal import CLinux
internal import Glibc
package import SystemPackage

/// The descriptors that came with one message, at most eight. Those that nobody takes are closed with this value.
package struct ReceivedDescriptors: ~Copyable {
  /// The most that are kept of one message.
  package static let capacity = 8
  private var slots: InlineArray<8, FD?> = InlineArray { _ in nil }
  /// The number that arrived, taken or not.
  package private(set) var count = 0
  /// Whether more arrived than fit, or the kernel dropped some.
  package var overflowed = false

  /// An empty set.
  package init() {}

  package mutating func append(_ fd: consuming FD) {
    slots[count] = consume fd
    count += 1
  }

  /// Hands over the descriptor at `index`; nil if it was taken before or never came.
  package mutating func take(_ index: Int) -> FD? {
    index < count ? slots[index].take() : nil
  }

  /// Takes over all of `other`'s descriptors, behind those already here.
  package mutating func append(contentsOf other: consuming ReceivedDescriptors) {
    overflowed = overflowed || other.overflowed
    for index in 0..<other.count {
      guard let fd = other.slots[index].take() else { continue }
      if count < Self.capacity { append(fd) } else { overflowed = true }
    }
  }
}

/// The numbers of this process's datagram and raw sockets. Such a socket could send a message, even with descriptors, to
/// any other socket. Netlink sockets do not count, because there the kernel asks for privileges.
package func unboundSockets() -> [CInt] {
  let kinds = [SOCK_DGRAM, SOCK_RAW].map { CInt($0.rawValue) }
  return directoryEntries("/proc/self/fd").compactMap { CInt($0) }.sorted().filter { number in
    guard let type = socketOption(number, SO_TYPE) else { return false }
    return kinds.contains(type) && socketOption(number, SO_DOMAIN) != AF_NETLINK
  }
}

/// A socket option's value; nil if the descriptor is not a socket. The corresponding C function is `getsockopt`.
func socketOption(_ number: CInt, _ option: CInt) -> CInt? {
  var (value, size) = (CInt(0), socklen_t(MemoryLayout<CInt>.size))
  return unsafe getsockopt(number, SOL_SOCKET, option, &value, &size) == 0 ? value : nil
}

/// A Unix stream socket that carries descriptors.
package struct UnixSocket: ~Copyable, Sendable {
  /// The socket itself.
  package let fd: FD

  /// Adopts a connected or a listening socket.
  package init(adopting fd: consuming FD) { self.fd = fd }

  /// Binds `path` and listens, nonblocking. An existing file is not removed.
  /// - Parameter mode: of the socket's file, from its first moment on; by default the umask decides. With a mode, the
  ///   process must have only one thread.
  package static func listen(_ path: FilePath, mode: UInt32? = nil) throws(Errno) -> UnixSocket {
    let mode = mode.map(CInt.init) ?? -1
    return unsafe try at(path) { unsafe cl_unix_listen($0, $1, mode) }
  }

  /// Connects to the listener at `path`.
  /// - Parameter limit: how long to wait for a place in a full queue, at least a millisecond.
  /// - Throws: `timedOut` if there is no place after that time.
  package static func connect(
    _ path: FilePath, within limit: TimeSpan = .seconds(5)
  ) throws(Errno) -> UnixSocket {
    let milliseconds = UInt32(clamping: max(1, limit.milliseconds))
    return unsafe try at(path) { unsafe cl_unix_connect($0, $1, milliseconds) }
  }

  /// Whether `path` is a socket that nobody has open any more, as a killed process leaves it. A listener at `path` does
  /// not notice the check.
  package static func isStale(_ path: FilePath) -> Bool {
    // The kernel refuses a connection to any other file too.
    guard (try? FileStatus(of: path))?.isSocket == true else { return false }
    do throws(Errno) {
      // The kernel looks for the listener before it compares the types, so a listener gives another error.
      _ = unsafe try at(path, cl_unix_connect_datagram)
      return false
    } catch { return error == .connectionRefused }
  }

  private static func at(
    _ path: FilePath, _ call: (UnsafePointer<CChar>?, Int) -> CInt
  ) throws(Errno) -> UnixSocket {
    let length = path.string.utf8.count
    let raw = try retrying { unsafe path.withPlatformString { unsafe call($0, length) } }
    return UnixSocket(adopting: FD(adopting: raw))
  }

  /// The next connection, nonblocking; `wouldBlock` if there is none yet.
  package borrowing func accept() throws(Errno) -> UnixSocket {
    let raw = try fd.withRaw { raw throws(Errno) in try retrying { cl_unix_accept(raw) } }
    return UnixSocket(adopting: FD(adopting: raw))
  }

  /// Sends as many bytes as fit, without descriptors; `wouldBlock` on a full nonblocking socket.
  package borrowing func send(_ bytes: RawSpan) throws(Errno) -> Int {
    try send(bytes, rawDescriptors: [])
  }

  /// Sends with one descriptor; the peer gets a copy of it.
  package borrowing func send(_ bytes: RawSpan, passing passed: borrowing FD) throws(Errno) -> Int {
    let number = passed.withRaw { $0 }
    return try send(bytes, rawDescriptors: [number])
  }

  package borrowing func send(_ bytes: RawSpan, rawDescriptors: [CInt]) throws(Errno) -> Int {
    let socket = fd.withRaw { $0 }
    return try retrying {
      unsafe bytes.withUnsafeBytes { bytes in
        unsafe rawDescriptors.withUnsafeBufferPointer { descriptors in
          unsafe cl_send(socket, bytes.baseAddress, bytes.count, descriptors.baseAddress, descriptors.count)
        }
      }
    }
  }

  /// Appends up to `capacity` received bytes to `bytes`, without waiting, and takes the descriptors that come with them.
  ///
  /// - Returns: the number of bytes; 0 at the end of the stream.
  /// - Throws: `wouldBlock` if nothing has come yet.
  package borrowing func receive(
    into bytes: inout [UInt8], upTo capacity: Int, descriptors: inout ReceivedDescriptors
  ) throws(Errno) -> Int {
    let socket = fd.withRaw { $0 }
    let old = bytes.count
    bytes.append(contentsOf: repeatElement(0, count: capacity))
    var numbers = InlineArray<8, CInt>(repeating: -1)
    var (arrived, lost) = (0, CInt(0))
    let size: Int
    do {
      size = try retrying {
        unsafe bytes.withUnsafeMutableBytes { buffer in
          var span = numbers.mutableSpan
          return unsafe span.withUnsafeMutableBufferPointer { numbers in
            unsafe cl_receive(
              socket, buffer.baseAddress! + old, capacity, numbers.baseAddress, numbers.count, &arrived, &lost
            )
          }
        }
      }
    } catch {
      bytes.removeLast(capacity)
      throw error
    }
    bytes.removeLast(capacity - size)
    for index in 0..<arrived {
      let fd = FD(adopting: numbers[index])
      if descriptors.count < ReceivedDescriptors.capacity {
        descriptors.append(fd)
      } else {
        descriptors.overflowed = true
      }
    }
    if lost != 0 { descriptors.overflowed = true }
    return size
  }

  /// Ends sending: the peer sees the end of the stream. The corresponding C function is `shutdown`.
  package borrowing func endSending() { fd.withRaw { _ = shutdown($0, CInt(SHUT_WR)) } }

  /// Waits until there is something to receive, or the peer is gone.
  package borrowing func waitUntilReadable() throws(Errno) { _ = try fd.isReadable() }

  /// The process at the other end, or the one that listened there; nil if it is in another pid namespace.
  /// The corresponding socket option is `SO_PEERCRED`.
  package borrowing func peerProcess() throws(Errno) -> Int32? {
    let pid = try fd.withRaw { raw throws(Errno) in try retrying { cl_unix_peer(raw) } }
    return pid > 0 ? pid : nil
  }

  /// Two connected sockets; blocking ones, for a test or for handing one end to another process.
  package static func pair(_ body: (consuming UnixSocket, consuming UnixSocket) throws -> Void) throws {
    var numbers = InlineArray<2, CInt>(repeating: -1)
    _ = try retrying {
      var span = numbers.mutableSpan
      return unsafe span.withUnsafeMutableBufferPointer { unsafe cl_unix_pair($0.baseAddress) }
    }
    try body(UnixSocket(adopting: FD(adopting: numbers[0])), UnixSocket(adopting: FD(adopting: numbers[1])))
  }
}

extension FD {
  /// Waits until something can be read. The corresponding C function is `poll`.
  /// - Parameter limit: how long; nil: without limit.
  /// - Returns: false when the time is up.
  package borrowing func isReadable(within limit: TimeSpan? = nil) throws(Errno) -> Bool {
    var item = pollfd(fd: withRaw { $0 }, events: Int16(POLLIN), revents: 0)
    return try retrying { unsafe poll(&item, 1, limit.timeout) } > 0
  }

  /// Whether it is a stream socket. The corresponding socket option is `SO_TYPE`.
  package var isStreamSocket: Bool { withRaw { socketOption($0, SO_TYPE) } == CInt(SOCK_STREAM.rawValue) }
}
