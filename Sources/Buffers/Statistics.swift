/// What happened since the start; one JSON object when encoded.
package struct Statistics: Encodable, Equatable, Sendable {
  /// RESOURCE_FLUSH commands that concerned a scanout, counted once for each scanout.
  package var flushes: UInt64 = 0
  /// Flushes whose frame was on the screen. Shown, coalesced and failed add up to `flushes` when all is quiet.
  package var framesShown: UInt64 = 0
  /// Flushes that were followed by another before the screen could show them.
  package var framesCoalesced: UInt64 = 0
  /// Flushes that the sink refused.
  package var framesFailed: UInt64 = 0
  /// Buffers whose own dma-buf was on the screen.
  package var buffersLent: UInt64 = 0
  /// Of these: the entries in the guest's page lists, the items that were left after joining neighbours,
  /// and what they make in pages and bytes.
  package var entriesReported: UInt64 = 0
  package var itemsJoined: UInt64 = 0
  package var pagesLent: UInt64 = 0
  package var bytesLent: UInt64 = 0
  /// Pixels' bytes that this process copied.
  package var bytesCopied: UInt64 = 0
  /// Dma-bufs that exist now, and the bytes of guest memory that they pin.
  package var liveDMABufs: UInt64 = 0
  package var pinnedBytes: UInt64 = 0
  /// Pictures that were shown by copying, by cause.
  package var shadows: [String: UInt64] = [:]
  /// Bytes of memory that copies take now.
  package var shadowBytes: UInt64 = 0
  /// Resources that exist now.
  package var liveResources: UInt64 = 0
  /// Buffers that a sink did not let go of in time and was cut off from, or that a device still read then.
  package var releasedLate: UInt64 = 0
  /// Buffers that devices still read when nobody showed or held them any more, and that were waited for.
  package var waitedForFence: UInt64 = 0
  /// What the guest did wrong, or asked for in vain, by kind.
  package var protocolErrors: [String: UInt64] = [:]

  package init() {}
}
