internal import CLinux
package import SystemPackage

/// An address by which only the host itself reaches it.
package enum Loopback: String, Sendable, CaseIterable {
  case v4 = "127.0.0.1"
  case v6 = "[::1]"

  /// Listens there for TCP, nonblocking. A connection works like a Unix stream socket that passes no descriptors.
  /// - Parameter port: 0 lets the kernel choose one.
  package func listen(port: UInt16) throws(Errno) -> UnixSocket {
    UnixSocket(adopting: FD(adopting: try retrying { cl_loopback_listen(self == .v6 ? 1 : 0, port) }))
  }
}

extension UnixSocket {
  /// The port that a TCP socket is bound to. The corresponding C function is `getsockname`.
  package var port: UInt16 {
    get throws(Errno) {
      UInt16(try fd.withRaw { raw throws(Errno) in try retrying { cl_local_port(raw) } })
    }
  }
}
