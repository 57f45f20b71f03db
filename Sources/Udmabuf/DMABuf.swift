internal import CUdmabuf
internal import Synchronization
public import SystemPackage

/// A dma-buf: memory that devices and processes share by a descriptor. It closes with the last reference.
///
/// Its pages stay pinned until every holder, in every process and in the kernel, has let go.
public final class DMABuf: Sendable {
  private let fd: FD
  /// In bytes.
  public let size: UInt64
  /// Identifies the dma-buf on this host for as long as it lives; every descriptor of it shows the same.
  public let inode: UInt64
  private let shared = Atomic(false)

  /// Adopts a dma-buf that was made here or received.
  public convenience init(adopting fd: consuming FD) throws(Errno) {
    let size = try fd.seekToEnd()
    try self.init(adopting: fd, size: size)
  }

  init(adopting fd: consuming FD, size: UInt64) throws(Errno) {
    self.size = size
    inode = try fd.status().inode
    self.fd = fd
  }

  /// Lends the descriptor, to import it or to send it.
  public func withDescriptor<Result: ~Copyable, Failure: Error>(
    _ body: (borrowing FD) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try body(fd)
  }

  // MARK: Name

  /// Sets the name that debugfs and `/proc/PID/fdinfo` show, at most 31 bytes.
  /// - Throws: `invalidArgument` for a longer name.
  /// - The corresponding ioctl is `DMA_BUF_SET_NAME`.
  public func setName(_ name: String) throws(Errno) {
    guard name.utf8.count < CU_DMA_BUF_NAME_LEN else { throw .invalidArgument }
    _ = try fd.withRaw { raw throws(Errno) in
      try retrying { unsafe name.withCString { unsafe cu_dma_buf_set_name(raw, $0) } }
    }
  }

  /// The name that a holder set, or nil. Read from `/proc/self/fdinfo`.
  public func name() throws(Errno) -> String? { try information("name:") }

  /// The kernel driver that made it, such as `udmabuf`. Read from `/proc/self/fdinfo`.
  public func exporter() throws(Errno) -> String? { try information("exp_name:") }

  private func information(_ key: String) throws(Errno) -> String? {
    let text = try fd.withRaw { raw throws(Errno) in try readText(FilePath("/proc/self/fdinfo/\(raw)")) }
    return Self.line(key, of: text)
  }

  /// The value of a key in fdinfo.
  static func line(_ key: String, of text: String) -> String? {
    for line in text.split(separator: "\n") where line.hasPrefix(key) {
      let value = line.dropFirst(key.count)
      return String(value.drop(while: \.isWhitespace))
    }
    return nil
  }

  // MARK: CPU access

  /// How the CPU, or a fence, uses the memory. The corresponding C constants are `DMA_BUF_SYNC_*`.
  public struct Access: OptionSet, Sendable {
    /// The bits of `DMA_BUF_SYNC_*`.
    public let rawValue: UInt64
    /// Takes the bits of `DMA_BUF_SYNC_*`.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    /// Reads the memory.
    public static let read = Access(rawValue: CU_DMA_BUF_SYNC_READ)
    /// Writes the memory.
    public static let write = Access(rawValue: CU_DMA_BUF_SYNC_WRITE)
  }

  /// Announces that the CPU will use a mapping, and waits for devices that write. Pair this with `endCPUAccess`.
  /// The corresponding ioctl is `DMA_BUF_IOCTL_SYNC`.
  public func beginCPUAccess(_ access: Access) throws(Errno) {
    try sync(access.rawValue | CU_DMA_BUF_SYNC_START)
  }

  /// Ends the access that `beginCPUAccess` began. udmabuf answers `invalidArgument` if none was begun.
  /// The corresponding ioctl is `DMA_BUF_IOCTL_SYNC`.
  public func endCPUAccess(_ access: Access) throws(Errno) {
    try sync(access.rawValue | CU_DMA_BUF_SYNC_END)
  }

  private func sync(_ flags: UInt64) throws(Errno) {
    _ = try fd.withRaw { raw throws(Errno) in try retrying { cu_dma_buf_sync(raw, flags) } }
  }

  /// Maps the whole dma-buf. Put reads and writes between `beginCPUAccess` and `endCPUAccess`.
  public func map(writable: Bool = false) throws(Errno) -> Mapping {
    guard let length = Int(exactly: size) else { throw .fileTooLarge }
    return try Mapping(fd, offset: 0, length: length, writable: writable)
  }

  // MARK: Other users

  /// Lends the descriptor to give it to another process, which may use the pages from then on.
  package func withSharedDescriptor<Result: ~Copyable, Failure: Error>(
    _ body: (borrowing FD) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    shared.store(true, ordering: .relaxed)
    return try body(fd)
  }

  /// Whether another process may have it.
  package var isShared: Bool { shared.load(ordering: .relaxed) }

  /// Whether no device works on the pages: all fences have signalled. Does not wait.
  /// The corresponding call is `poll` with `POLLOUT`.
  package var isIdle: Bool {
    fd.withRaw { raw in (try? retrying { cu_pollable(raw, CU_POLLOUT, 0) }) != 0 }
  }

  // MARK: Fences

  /// A sync_file that signals once `access` is safe: for reading, when the writers are done; for writing, when all
  /// users are done. The caller owns it.
  /// The corresponding ioctl is `DMA_BUF_IOCTL_EXPORT_SYNC_FILE`.
  public func exportSyncFile(_ access: Access) throws(Errno) -> FD {
    let raw = try fd.withRaw { raw throws(Errno) in
      try retrying { cu_dma_buf_export_sync_file(raw, UInt32(truncatingIfNeeded: access.rawValue)) }
    }
    return FD(adopting: raw)
  }

  /// Makes later users of the dma-buf wait for `syncFile`, as for a user that reads or writes.
  /// The corresponding ioctl is `DMA_BUF_IOCTL_IMPORT_SYNC_FILE`.
  public func importSyncFile(_ syncFile: borrowing FD, _ access: Access) throws(Errno) {
    _ = try syncFile.withRaw { fence throws(Errno) in
      try fd.withRaw { raw throws(Errno) in
        try retrying { cu_dma_buf_import_sync_file(raw, UInt32(truncatingIfNeeded: access.rawValue), fence) }
      }
    }
  }
}
