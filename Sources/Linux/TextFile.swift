internal import Glibc
public import SystemPackage

/// The first `limit` bytes of a small text file, such as those of procfs and sysfs.
public func readText(_ path: FilePath, upTo limit: Int = 1 << 20) throws(Errno) -> String {
  let file = try FD.open(path, writable: false)
  var bytes: [UInt8] = []
  while bytes.count < limit {
    let more = try file.read(upTo: min(limit - bytes.count, 1 << 16))
    if more.isEmpty { break }
    bytes += more
  }
  return String(decoding: bytes, as: UTF8.self)
}

/// Makes a file with this text, or gives this text to one that is there; through no link.
public func writeText(_ path: FilePath, _ text: String) throws(Errno) {
  let file = try FD.create(path)
  unsafe try file.write(Array(text.utf8).span.bytes)
}

/// Gives a text to a file that is there, all of it at once: another file takes its place, with its owner and its mode.
/// Of a link, the file that it leads to.
public func replaceText(_ path: FilePath, _ text: String) throws(Errno) {
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
public func replaceFile(_ path: FilePath, _ text: String) throws(Errno) {
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
public func printError(_ line: String) {
  let bytes = Array(line.utf8) + [0x0a]
  _ = try? FD.standardError { fd throws(Errno) in unsafe try fd.write(bytes.span.bytes) }
}

/// Writes a line to standard output, past the C library, which asks of a new standard output whether it is a terminal.
public func printLine(_ line: String) throws(Errno) {
  let bytes = Array(line.utf8) + [0x0a]
  try FD.standardOutput { fd throws(Errno) in unsafe try fd.write(bytes.span.bytes) }
}

/// The path without links in it; as it is, if there is no such file. The corresponding C function is `realpath`.
public func resolvingLinks(_ path: FilePath) -> FilePath {
  unsafe path.withPlatformString { name in
    guard let resolved = unsafe realpath(name, nil) else { return path }
    defer { unsafe free(resolved) }
    return unsafe FilePath(platformString: resolved)
  }
}

/// Where a link points, as it says; nil if it is none. The corresponding C function is `readlink`.
public func linkTarget(_ path: FilePath) -> String? {
  unsafe path.withPlatformString { name in
    unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(PATH_MAX)) { buffer in
      let count = unsafe readlink(name, buffer.baseAddress!, buffer.count)
      if count < 0 { return nil }
      return unsafe String(decoding: UnsafeRawBufferPointer(buffer).prefix(count), as: UTF8.self)
    }
  }
}

/// Removes a file, if it is there. The corresponding C function is `unlink`.
public func removeFile(_ path: FilePath) {
  _ = unsafe path.withPlatformString { unsafe unlink($0) }
}
