internal import Glibc
package import SystemPackage

/// Makes a file with this text, or gives this text to one that is there; through no link.
package func writeText(_ path: FilePath, _ text: String) throws(Errno) {
  let file = try FD.create(path)
  unsafe try file.write(Array(text.utf8).span.bytes)
}

/// Gives a text to a file that is there, all of it at once: another file takes its place, with its owner and its mode.
/// Of a link, the file that it leads to.
package func replaceText(_ path: FilePath, _ text: String) throws(Errno) {
  let path = resolvingLinks(path)
  let access = try FileAccess(of: path)
  let new = FilePath(path.string + ".udmabridge-new")
  do throws(Errno) {
    // The text comes last: until then others could read it.
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

/// Makes a file with this text that takes the place of another one at once.
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
