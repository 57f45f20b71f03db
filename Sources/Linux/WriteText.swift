internal import Glibc
package import SystemPackage

/// Writes this text into a new or an existing file. Links are not followed.
package func writeText(_ path: FilePath, _ text: String) throws(Errno) {
  let file = try FD.create(path)
  unsafe try file.write(Array(text.utf8).span.bytes)
}

/// Replaces the text of an existing file at once: a new file with the same owner and mode takes its place. A link is
/// followed.
package func replaceText(_ path: FilePath, _ text: String) throws(Errno) {
  let path = resolvingLinks(path)
  let access = try FileAccess(of: path)
  let new = FilePath(path.string + ".udmabridge-new")
  do throws(Errno) {
    // The text comes last, because others could read it before the mode is set.
    try writeText(new, "")
    try setOwner(new, user: access.user, group: access.group)
    try setMode(new, access.mode)
    try writeText(new, text)
    try rename(new, to: path)
  } catch {
    removeFile(new)
    throw error
  }
}

/// Makes a file with this text, which replaces another one at once.
package func replaceFile(_ path: FilePath, _ text: String) throws(Errno) {
  let new = FilePath(path.string + ".new")
  let file = try FD.create(new)
  do throws(Errno) {
    unsafe try file.write(Array(text.utf8).span.bytes)
    try rename(new, to: path)
  } catch {
    removeFile(new)
    throw error
  }
}

/// The corresponding C function is `rename`.
func rename(_ old: FilePath, to new: FilePath) throws(Errno) {
  _ = try retrying {
    unsafe old.withPlatformString { old in unsafe new.withPlatformString { unsafe Glibc.rename(old, $0) } }
  }
}

/// Removes a file, if it is there. The corresponding C function is `unlink`.
package func removeFile(_ path: FilePath) {
  _ = unsafe path.withPlatformString { unsafe unlink($0) }
}
