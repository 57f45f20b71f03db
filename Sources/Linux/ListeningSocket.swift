package import SystemPackage

/// Why this process cannot listen on a path.
package enum ListenError: Error, Equatable, CustomStringConvertible {
  case inUse(FilePath)
  /// Another file has that name.
  case notASocket(FilePath)
  case system(FilePath, Errno)

  package var description: String {
    switch self {
    case .inUse(let path):
      "\(path) is in use by another process; choose another path for the socket or end that process"
    case .notASocket(let path):
      "\(path) is a file, not a socket; choose another path for the socket, or remove the file if nobody needs it"
    case .system(let path, let errno): "cannot listen on \(path): \(errno)"
    }
  }
}

/// Listens on a Unix socket. Replaces a socket that a killed process left behind.
/// - Parameters:
///   - mode: of the socket's file; by default the umask decides.
///   - group: of the socket's file; by default this process's.
///   - neverMissing: whether the file must exist at every moment. A socket that replaced another one is then called `.new` in
///     lists of sockets.
package func listenOn(
  _ path: FilePath, mode: UInt32? = nil, group: UInt32? = nil, neverMissing: Bool = false
) throws(ListenError) -> UnixSocket {
  do throws(Errno) {
    let socket = try bind(path, mode, neverMissing)
    if let group {
      do throws(Errno) { try setSocketGroup(path, group) } catch {
        removeFile(path)
        throw error
      }
    }
    return socket
  } catch {
    guard error == .addressInUse else { throw .system(path, error) }
    throw (try? FileStatus(of: path))?.isSocket == false ? .notASocket(path) : .inUse(path)
  }
}

private func bind(_ path: FilePath, _ mode: UInt32?, _ neverMissing: Bool) throws(Errno) -> UnixSocket {
  do throws(Errno) { return try .listen(path, mode: mode) } catch {
    guard error == .addressInUse, UnixSocket.isStale(path) else { throw error }
  }
  // If two processes found the old socket at once, the second would remove the socket that the first has just bound.
  let folder = path.removingLastComponent()
  return try lockDirectory(folder.isEmpty ? "." : folder).withRaw { _ throws(Errno) in
    guard UnixSocket.isStale(path) else { return try .listen(path, mode: mode) }
    if neverMissing { return try listen(inPlaceOf: path, beside: folder.appending(".new"), mode) }
    removeFile(path)
    return try .listen(path, mode: mode)
  }
}

/// - Parameter new: the name of the socket's file before it is renamed.
private func listen(inPlaceOf path: FilePath, beside new: FilePath, _ mode: UInt32?) throws(Errno)
  -> UnixSocket
{
  if UnixSocket.isStale(new) { removeFile(new) }
  let socket = try UnixSocket.listen(new, mode: mode)
  do throws(Errno) { try rename(new, to: path) } catch {
    removeFile(new)
    throw error
  }
  return socket
}
