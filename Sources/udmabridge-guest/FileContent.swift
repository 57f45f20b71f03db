import Linux
import SystemPackage

/// A file's bytes, read piece by piece into a buffer.
final class FileContent {
  private static let piece = 1 << 20
  private let file: FD
  /// In bytes.
  let size: UInt64

  init(_ path: FilePath) throws(Errno) {
    let file = try FD.open(path, writable: false)
    size = try file.status().size
    self.file = file
  }

  /// Stores as many bytes as the file had when it was opened, or fewer if it has become shorter.
  func store(in dmabuf: DMABuf, at offset: Int) throws(Errno) {
    let mapping = try dmabuf.map(writable: true)
    try dmabuf.beginCPUAccess(.write)
    var (place, left): (Int, UInt64) = (offset, size)
    while left > 0 {
      let bytes = try file.read(upTo: Int(min(left, UInt64(Self.piece))))
      if bytes.isEmpty { break }
      unsafe mapping.store(bytes.span.bytes, at: place)
      (place, left) = (place + bytes.count, left - UInt64(bytes.count))
    }
    try dmabuf.endCPUAccess(.write)
  }
}
