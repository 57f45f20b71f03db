import Linux
import SystemPackage

/// Listens on a Unix socket, in whose place may be one that a killed process left behind.
/// - Parameters:
///   - mode: of its file; what the umask leaves, if none is given.
///   - group: that the file belongs to; this process's, if none is given.
func listenOn(_ path: FilePath, mode: UInt32? = nil, group: UInt32? = nil) throws -> UnixSocket {
  do throws(Errno) {
    let socket = try bind(path, mode)
    if let group {
      do throws(Errno) { try setSocketGroup(path, group) } catch {
        removeFile(path)
        throw error
      }
    }
    return socket
  } catch {
    guard error == .addressInUse else { throw StartError("cannot listen on \(path): \(error)") }
    throw StartError(
      (try? FileStatus(of: path))?.isSocket == false
        ? "\(path) is a file and no socket; choose another path for the socket, or remove the file if nobody needs it"
        : "\(path) is in use by another process; choose another path for the socket or end that process")
  }
}

private func bind(_ path: FilePath, _ mode: UInt32?) throws(Errno) -> UnixSocket {
  do throws(Errno) { return try .listen(path, mode: mode) } catch {
    guard error == .addressInUse, UnixSocket.isStale(path) else { throw error }
  }
  // Of two that find it at once, the second would remove the socket that the first has bound by then.
  let folder = path.removingLastComponent()
  return try lockDirectory(folder.isEmpty ? "." : folder).withRaw { _ throws(Errno) in
    if UnixSocket.isStale(path) { removeFile(path) }
    return try .listen(path, mode: mode)
  }
}
