internal import Glibc
package import SystemPackage

/// Makes a directory; an existing one stays as it is. The corresponding C function is `mkdir`.
package func makeDirectory(_ path: FilePath, mode: UInt32) throws(Errno) {
  do throws(Errno) {
    _ = try retrying { unsafe path.withPlatformString { unsafe mkdir($0, mode) } }
  } catch { if error != .fileExists { throw error } }
}

/// Locks a directory for as long as the descriptor lives. Only one process at a time has this lock.
/// The corresponding C function is `flock`.
/// - Throws: `timedOut` when another process has it for five seconds.
package func lockDirectory(_ path: FilePath) throws(Errno) -> FD {
  let directory = try FD.open(path, writable: false)
  let deadline = Instant.now + .seconds(5)
  while true {
    do throws(Errno) {
      _ = try directory.withRaw { raw throws(Errno) in try retrying { flock(raw, LOCK_EX | LOCK_NB) } }
      return directory
    } catch {
      guard error == .wouldBlock else { throw error }
      guard Instant.now < deadline else { throw .timedOut }
    }
    usleep(10_000)
  }
}

/// Gives a file to a user and a group; a link is not followed. The corresponding C function is `lchown`.
package func setOwner(_ path: FilePath, user: UInt32, group: UInt32) throws(Errno) {
  _ = try retrying { unsafe path.withPlatformString { unsafe lchown($0, user, group) } }
}

/// Removes a directory and the files in it, if it exists; one with directories in it stays. The corresponding C
/// function is `rmdir`.
package func removeDirectory(_ path: FilePath) {
  for name in directoryEntries(path) { removeFile(path.appending(name)) }
  _ = unsafe path.withPlatformString { unsafe rmdir($0) }
}

/// Removes an empty directory; any other stays. The corresponding C function is `rmdir`.
package func removeEmptyDirectory(_ path: FilePath) {
  _ = unsafe path.withPlatformString { unsafe rmdir($0) }
}

/// Sets the permission bits of a file. The corresponding C function is `chmod`.
package func setMode(_ path: FilePath, _ mode: UInt32) throws(Errno) {
  _ = try retrying { unsafe path.withPlatformString { unsafe chmod($0, mode) } }
}
