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
  try writeText(new, text)
  try rename(new, to: path)
}

/// The corresponding C function is `rename`.
private func rename(_ old: FilePath, to new: FilePath) throws(Errno) {
  _ = try retrying {
    unsafe old.withPlatformString { old in unsafe new.withPlatformString { unsafe Glibc.rename(old, $0) } }
  }
}

/// Writes a line to standard error, in one call where the system lets it. A standard error that is closed
/// or full of trouble is not ours to report.
package func printError(_ line: String) {
  let bytes = Array(line.utf8) + [0x0a]
  _ = try? FD.standardError { fd throws(Errno) in unsafe try fd.write(bytes.span.bytes) }
}

/// Writes a line to standard output, past the C library, which asks of a new standard output whether it is a terminal.
package func printLine(_ line: String) throws(Errno) {
  let bytes = Array(line.utf8) + [0x0a]
  try FD.standardOutput { fd throws(Errno) in unsafe try fd.write(bytes.span.bytes) }
}

/// The path without links in it; as it is, if there is no such file. The corresponding C function is `realpath`.
package func resolvingLinks(_ path: FilePath) -> FilePath {
  unsafe path.withPlatformString { name in
    guard let resolved = unsafe realpath(name, nil) else { return path }
    defer { unsafe free(resolved) }
    return unsafe FilePath(platformString: resolved)
  }
}

/// Where a link points, as it says; nil if it is none. The corresponding C function is `readlink`.
package func linkTarget(_ path: FilePath) -> String? {
  unsafe path.withPlatformString { name in
    unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(PATH_MAX)) { buffer in
      let count = unsafe readlink(name, buffer.baseAddress!, buffer.count)
      if count < 0 { return nil }
      return unsafe String(decoding: UnsafeRawBufferPointer(buffer).prefix(count), as: UTF8.self)
    }
  }
}

/// Removes a file, if it is there. The corresponding C function is `unlink`.
package func removeFile(_ path: FilePath) {
  _ = unsafe path.withPlatformString { unsafe unlink($0) }
}
