internal import Guest
public import Linux
public import Udmabuf

/// A piece of guest memory that the host's graphics stack may see.
public final class Buffer {
  public enum Backing {
    /// A dma-buf over the guest's own pages, nothing copied.
    case lent(DMABuf)
    /// What is shown is a copy, and why.
    case shadow(ShadowCause)
  }

  /// The ranges that it is made of, as few as can be.
  public let ranges: [MemfdRange]
  /// How many entries the guest's page list had.
  public let entries: Int
  /// In bytes. Whole pages if it is lent.
  public let size: UInt64
  public internal(set) var backing: Backing
  /// It was counted as lent: its dma-buf has been on a screen.
  public var wasShown = false
  /// The table that `ranges` are of.
  private let memory: GuestMemory
  /// Its bytes, for the CPU; made when they are first read.
  public private(set) lazy var bytes = ByteSource(memory.windows(of: ranges))

  init(ranges: [MemfdRange], of memory: GuestMemory, entries: Int, backing: Backing) {
    (self.ranges, self.memory, self.entries, self.backing) = (ranges, memory, entries, backing)
    size = ranges.reduce(0) { $0 + $1.length }
  }

  public var dmabuf: DMABuf? { if case .lent(let dmabuf) = backing { dmabuf } else { nil } }

  /// What keeping account of it costs this process, in bytes.
  var bookkeeping: UInt64 { Self.bookkeeping(ranges: ranges.count) }

  static func bookkeeping(ranges: Int) -> UInt64 { UInt64(ranges * MemoryLayout<MemfdRange>.stride) }
}
