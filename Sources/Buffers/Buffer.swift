public import Linux
public import Udmabuf

/// A piece of guest memory that the host's graphics stack may use.
///
/// Its backing is `lent`: a dma-buf over the guest's own pages, nothing copied.
public final class Buffer {
  /// The ranges that it is made of, as few as can be.
  public let ranges: [MemfdRange]
  public let dmabuf: DMABuf
  /// In bytes; whole pages.
  public var size: UInt64 { dmabuf.size }
  /// Identifies its dma-buf on this host.
  public var inode: UInt64 { dmabuf.inode }
  /// How many entries the guest's page list had.
  public let entries: Int
  /// It was counted as lent: its dma-buf has been on a screen.
  public var wasShown = false

  init(ranges: [MemfdRange], dmabuf: DMABuf, entries: Int) {
    (self.ranges, self.dmabuf, self.entries) = (ranges, dmabuf, entries)
  }

  /// What keeping account of it costs this process, in bytes.
  var bookkeeping: UInt64 { UInt64(ranges.count * MemoryLayout<MemfdRange>.stride) }
}
