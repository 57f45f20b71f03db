internal import Glibc
package import SystemPackage

/// Makes a directory; one that is there already stays as it is. The corresponding C function is `mkdir`.
package func makeDirectory(_ path: FilePath, mode: UInt32) throws(Errno) {
  do throws(Errno) {
    _ = try retrying { unsafe path.withPlatformString { unsafe mkdir($0, mode) } }
  } catch { if error != .fileExists { throw error } }
}

/// Holds a directory for as long as the descriptor lives: of the processes that ask for it so, one has it at a time.
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

/// Gives a file to a user and a group; of a link, the link itself. The corresponding C function is `lchown`.
package func setOwner(_ path: FilePath, user: UInt32, group: UInt32) throws(Errno) {
  _ = try retrying { unsafe path.withPlatformString { unsafe lchown($0, user, group) } }
}

/// Removes a directory and the files in it, if it is there; one with directories in it stays. The corresponding C
/// function is `rmdir`.
package func removeDirectory(_ path: FilePath) {
  for name in directoryEntries(path) { removeFile(path.appending(name)) }
  _ = unsafe path.withPlatformString { unsafe rmdir($0) }
}

/// Removes a directory that has nothing in it; any other stays. The corresponding C function is `rmdir`.
package func removeEmptyDirectory(_ path: FilePath) {
  _ = unsafe path.withPlatformString { unsafe rmdir($0) }
}

/// Sets the permission bits of a file. The corresponding C function is `chmod`.
package func setMode(_ path: FilePath, _ mode: UInt32) throws(Errno) {
  _ = try retrying { unsafe path.withPlatformString { unsafe chmod($0, mode) } }
}
