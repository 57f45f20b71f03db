/// What happened since the start; one JSON object when encoded.
public struct Statistics: Encodable, Equatable, Sendable {
  /// RESOURCE_FLUSH commands that concerned a scanout, counted once for each scanout.
  public var flushes: UInt64 = 0
  /// Flushes whose frame was on the screen. Shown, coalesced and failed add up to `flushes` when all is quiet.
  public var framesShown: UInt64 = 0
  /// Flushes that were followed by another before the screen could show them.
  public var framesCoalesced: UInt64 = 0
  /// Flushes that the sink refused.
  public var framesFailed: UInt64 = 0
  /// Buffers whose own dma-buf was on the screen.
  public var buffersLent: UInt64 = 0
  /// Of these: the entries in the guest's page lists, the items that were left after joining neighbours,
  /// and what they make in pages and bytes.
  public var entriesReported: UInt64 = 0
  public var itemsJoined: UInt64 = 0
  public var pagesLent: UInt64 = 0
  public var bytesLent: UInt64 = 0
  /// Pixels' bytes that this process copied.
  public var bytesCopied: UInt64 = 0
  /// Dma-bufs that exist now, and the bytes of guest memory that they pin.
  public var liveDMABufs: UInt64 = 0
  public var pinnedBytes: UInt64 = 0
  /// Pictures that were shown by copying, by cause.
  public var shadows: [String: UInt64] = [:]
  /// Bytes of memory that copies take now.
  public var shadowBytes: UInt64 = 0
  /// Resources that exist now.
  public var liveResources: UInt64 = 0
  /// Buffers that a sink did not let go of in time and was cut off from, or that a device still read then.
  public var releasedLate: UInt64 = 0
  /// Buffers that devices still read when nobody showed or held them any more, and that were waited for.
  public var waitedForFence: UInt64 = 0
  /// What the guest did wrong, or asked for in vain, by kind.
  public var protocolErrors: [String: UInt64] = [:]

  public init() {}
}
