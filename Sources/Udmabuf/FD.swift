internal import CUdmabuf
internal import Glibc
public import SystemPackage

/// A file descriptor with exactly one owner: it closes when its owner ends, and handing it over consumes it.
public struct FD: ~Copyable, Sendable {
  private let raw: CInt

  /// Takes ownership of an open descriptor. Nobody else may close it from now on.
  public init(adopting raw: CInt) {
    precondition(raw >= 0, "a descriptor number is never negative")
    self.raw = raw
  }

  deinit { close(raw) }

  /// Takes ownership of a descriptor that this process inherited, after checking that it is open, and
  /// marks it close-on-exec.
  /// - Throws: `badFileDescriptor` if there is none of that number.
  package static func inherited(_ number: CInt) throws(Errno) -> FD {
    _ = try retrying { fcntl(number, F_SETFD, FD_CLOEXEC) }
    return FD(adopting: number)
  }

  /// Duplicates a descriptor that this process inherited, which stays as it is.
  /// - Throws: `badFileDescriptor` if there is none of that number.
  package static func copy(ofInherited number: CInt) throws(Errno) -> FD {
    FD(adopting: try retrying { cu_dup(number) })
  }

  /// Opens a file, close-on-exec. The corresponding C function is `open`.
  public static func open(_ path: FilePath, writable: Bool, nonblocking: Bool = false) throws(Errno) -> FD {
    let flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | (nonblocking ? O_NONBLOCK : 0)
    return FD(adopting: try retrying { unsafe path.withPlatformString { unsafe Glibc.open($0, flags) } })
  }

  /// Creates or empties a file for writing, with the rights that the umask leaves of 0666. A link is not followed: in
  /// a directory that others may write to it could lead to any file of this process's user.
  /// - Throws: `tooManySymbolicLinkLevels` for a link.
  package static func create(_ path: FilePath) throws(Errno) -> FD {
    let flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW
    return FD(
      adopting: try retrying { unsafe path.withPlatformString { unsafe Glibc.open($0, flags, 0o666) } })
  }

  /// The text for an error of `create`.
  package static func whyNotCreated(_ error: Errno) -> String {
    error == .tooManySymbolicLinkLevels
      ? "it is a link, and links are not followed; name the file that it leads to" : "\(error)"
  }

  /// Whether standard error leads nowhere: it is closed, or `/dev/null`.
  package static var standardErrorIsLost: Bool {
    do throws(Errno) {
      let status = try standardError { fd throws(Errno) in try fd.status() }
      return status.number == DeviceNumber(major: 1, minor: 3)
    } catch { return true }
  }

  /// Lends standard error, which stays open.
  package static func standardError<Result>(
    _ body: (borrowing FD) throws(Errno) -> Result
  ) throws(Errno) -> Result {
    try lend(2, body)
  }

  /// Lends standard output, which stays open.
  package static func standardOutput<Result>(
    _ body: (borrowing FD) throws(Errno) -> Result
  ) throws(Errno) -> Result {
    try lend(1, body)
  }

  private static func lend<Result>(
    _ number: CInt, _ body: (borrowing FD) throws(Errno) -> Result
  ) throws(Errno) -> Result {
    let fd = FD(adopting: number)
    do throws(Errno) {
      let result = try body(fd)
      _ = fd.relinquish()
      return result
    } catch {
      _ = fd.relinquish()
      throw error
    }
  }

  /// Lends the number for the length of one call. It must not be stored.
  public borrowing func withRaw<Result: ~Copyable, Failure: Error>(
    _ body: (CInt) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try body(raw)
  }

  /// Whether its number is below `bound`. The kernel hands out the lowest free number, so if a new descriptor's number
  /// is not below `bound`, `bound` others are open.
  package borrowing func isBelow(_ bound: Int) -> Bool { Int(raw) < bound }

  /// Gives the number to a new owner outside of Swift; this value no longer closes it.
  public consuming func relinquish() -> CInt {
    let number = raw
    discard self
    return number
  }

  /// Opens the same file once more, with an offset of its own. Works for a memfd or a file, but not for a nameless object.
  package borrowing func reopen(writable: Bool) throws(Errno) -> FD {
    try FD.open(FilePath("/proc/self/fd/\(raw)"), writable: writable)
  }

  /// Whether it was opened for writing too. The corresponding call is `F_GETFL`.
  package var isWritable: Bool {
    get throws(Errno) { try retrying { fcntl(raw, F_GETFL) } & O_ACCMODE == O_RDWR }
  }

  /// A second descriptor for the same open file, close-on-exec.
  public borrowing func duplicate() throws(Errno) -> FD {
    FD(adopting: try retrying { cu_dup(raw) })
  }

  /// Keeps all other status flags.
  package borrowing func setNonblocking() throws(Errno) {
    _ = try retrying { cu_set_nonblocking(raw) }
  }

  /// Device, inode, size and kind of the open file (`fstat`).
  public borrowing func status() throws(Errno) -> FileStatus {
    var status = stat()
    _ = try retrying { unsafe fstat(raw, &status) }
    return FileStatus(status)
  }

  /// The kind of the file, as far as that matters for sharing memory. The corresponding C function is `fstatfs`.
  package borrowing func fileKind() throws(Errno) -> FileKind {
    var (kind, block): (UInt32, UInt64) = (0, 0)
    _ = try retrying { unsafe cu_file_system(raw, &kind, &block) }
    return switch kind {
    case CU_DMA_BUF_MAGIC: .dmaBuf
    case CU_TMPFS_MAGIC: .sharedMemory
    case CU_HUGETLBFS_MAGIC: .hugePages(block)
    default: .other
    }
  }

  /// Moves the file offset to the end, and returns it in bytes. A dma-buf tells its size only this way.
  package borrowing func seekToEnd() throws(Errno) -> UInt64 {
    UInt64(try retrying { lseek(raw, 0, SEEK_END) })
  }

  /// Reads up to `capacity` bytes; fewer at the end of the file, none at its very end.
  package borrowing func read(upTo capacity: Int) throws(Errno) -> [UInt8] {
    unsafe try filled(capacity) { raw, buffer in unsafe Glibc.read(raw, buffer, capacity) }
  }

  /// Reads from `offset` on, otherwise as `read(upTo:)`. A file of sysfs gives its present text each time.
  /// The corresponding C function is `pread`.
  package borrowing func read(upTo capacity: Int, at offset: Int64) throws(Errno) -> [UInt8] {
    unsafe try filled(capacity) { raw, buffer in unsafe pread(raw, buffer, capacity, Int(offset)) }
  }

  /// Reads up to `capacity` bytes to the start of `buffer`, which grows to that size once and can be reused.
  /// - Returns: how many bytes; 0 at the end of the file.
  package borrowing func read(into buffer: inout [UInt8], upTo capacity: Int) throws(Errno) -> Int {
    if buffer.count < capacity { buffer.append(contentsOf: repeatElement(0, count: capacity - buffer.count)) }
    return try retrying {
      unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(raw, $0.baseAddress, capacity) }
    }
  }

  private borrowing func filled(
    _ capacity: Int, _ call: (CInt, UnsafeMutablePointer<UInt8>?) -> Int
  ) throws(Errno) -> [UInt8] {
    var failure: Errno?
    let bytes = unsafe [UInt8](unsafeUninitializedCapacity: capacity) { buffer, count in
      do throws(Errno) {
        count = try retrying { unsafe call(raw, buffer.baseAddress) }
      } catch { failure = error }
    }
    if let failure { throw failure }
    return bytes
  }

  /// Makes `bytes` the whole content of a regular file.
  package borrowing func replaceContent(_ bytes: RawSpan) throws(Errno) {
    let count = try retrying {
      unsafe bytes.withUnsafeBytes { unsafe pwrite(raw, $0.baseAddress, $0.count, 0) }
    }
    guard count == bytes.byteCount else { throw .noSpace }
    _ = try retrying { cu_truncate(raw, Int64(count)) }
  }

  /// Writes as many bytes as there is room for, in one call; `wouldBlock` without any room.
  /// - Returns: the number of bytes written.
  package borrowing func writeSome(_ bytes: RawSpan) throws(Errno) -> Int {
    try retrying { unsafe bytes.withUnsafeBytes { unsafe Glibc.write(raw, $0.baseAddress, $0.count) } }
  }

  /// Writes all bytes, however many calls it takes.
  package borrowing func write(_ bytes: RawSpan) throws(Errno) {
    var rest = bytes
    while rest.byteCount > 0 {
      let count = try retrying {
        unsafe rest.withUnsafeBytes { unsafe Glibc.write(raw, $0.baseAddress, $0.count) }
      }
      rest = rest.extracting(droppingFirst: count)
    }
  }
}
