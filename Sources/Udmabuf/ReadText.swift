package import SystemPackage

/// The first `limit` bytes of a small text file, such as those of procfs and sysfs.
package func readText(_ path: FilePath, upTo limit: Int = 1 << 20) throws(Errno) -> String {
  let file = try FD.open(path, writable: false)
  var bytes: [UInt8] = []
  while bytes.count < limit {
    let more = try file.read(upTo: min(limit - bytes.count, 1 << 16))
    if more.isEmpty { break }
    bytes += more
  }
  return String(decoding: bytes, as: UTF8.self)
}
