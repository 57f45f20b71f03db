internal import Glibc
package import SystemPackage

/// Runs a command through the shell. Returns at most `limit` bytes of its standard output, and its exit status, which is
/// nil if a signal ended it.
/// The corresponding C function is `popen`.
package func runShell(_ command: StaticString, upTo limit: Int = 1 << 20) throws(Errno) -> (
  output: String, status: CInt?
) {
  guard let stream = unsafe popen(command.description, "r") else { throw Errno(rawValue: errno) }
  var bytes: [UInt8] = []
  while bytes.count < limit {
    let piece = unsafe [UInt8](unsafeUninitializedCapacity: 1 << 14) { buffer, count in
      count = unsafe fread(buffer.baseAddress, 1, 1 << 14, stream)
    }
    if piece.isEmpty { break }
    bytes += piece
  }
  let status = unsafe pclose(stream)
  let exited = status >= 0 && status & 0x7f == 0
  return (String(decoding: bytes, as: UTF8.self), exited ? status >> 8 & 0xff : nil)
}

/// The names in a directory, sorted; none if it cannot be read.
package func directoryEntries(_ path: FilePath) -> [String] {
  guard let directory = unsafe path.withPlatformString({ unsafe opendir($0) }) else { return [] }
  defer { unsafe closedir(directory) }
  var names: [String] = []
  while let entry = unsafe readdir(directory) {
    let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
      unsafe String(cString: UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self))
    }
    if name != "." && name != ".." { names.append(name) }
  }
  return names.sorted()
}
