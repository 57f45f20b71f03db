import ArgumentParser
import Linux
import Programs
import SystemPackage

/// Where metrics are served: on a Unix socket, or to this host alone.
enum ScrapeAddress: Equatable, CustomStringConvertible {
  case unix(FilePath)
  /// The kernel chooses a port for 0.
  case loopback(Loopback, port: UInt16)

  static func read(_ text: String) throws -> ScrapeAddress {
    if text.hasPrefix("unix:") {
      let path = text.dropFirst("unix:".count)
      guard !path.isEmpty else { throw ValidationError("unix: which socket? Give unix:PATH") }
      return .unix(FilePath(String(path)))
    }
    guard let colon = text.lastIndex(of: ":") else {
      throw ValidationError("\(text) is not an address: give unix:PATH, 127.0.0.1:PORT or [::1]:PORT")
    }
    let (host, port) = (text[..<colon], text[text.index(after: colon)...])
    guard let loopback = Loopback(rawValue: String(host)) else {
      throw ValidationError(
        "«\(host)» is not 127.0.0.1 or [::1]: metrics tell about guests, and are served to this host alone; give one of these "
          + "or unix:PATH, and let a proxy with authentication serve other hosts")
    }
    guard let number = UInt16(port), port.allSatisfy(\.isNumber) else {
      throw ValidationError("\(port) is not a port: give a number from 1 to 65535, or 0 for any free port")
    }
    return .loopback(loopback, port: number)
  }

  var description: String {
    switch self {
    case .unix(let path): "unix:\(path)"
    case .loopback(let address, let port): "\(address.rawValue):\(port)"
    }
  }

  func listen() throws -> UnixSocket {
    switch self {
    case .unix(let path): return try listenOn(path)
    case .loopback(let address, let port):
      do throws(Errno) { return try address.listen(port: port) } catch {
        throw Trouble("cannot listen on \(self): \(error)")
      }
    }
  }

  /// The address of a listening socket, with the port that the kernel may have chosen.
  func bound(_ socket: borrowing UnixSocket) throws(Errno) -> ScrapeAddress {
    guard case .loopback(let address, _) = self else { return self }
    return .loopback(address, port: try socket.port)
  }

  /// Removes the socket's file, after it has stopped listening.
  func remove() { if case .unix(let path) = self { removeFile(path) } }
}
