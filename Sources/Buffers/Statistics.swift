/// Counts since the start, and present values; encoded as one JSON object.
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
  /// For these buffers: the entries in the guest's page lists, the items after joining neighbours, their pages and bytes.
  package var entriesReported: UInt64 = 0
  package var itemsJoined: UInt64 = 0
  package var pagesLent: UInt64 = 0
  package var bytesLent: UInt64 = 0
  /// Bytes of pixels that this process copied.
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
  /// Buffers from which a sink was cut off because it held them too long, or that a device still read then.
  package var releasedLate: UInt64 = 0
  /// Buffers whose return waited for devices that still read them after all users had let go.
  package var waitedForFence: UInt64 = 0
  /// The guest's mistakes and vain requests, by kind.
  package var protocolErrors: [String: UInt64] = [:]

  package init() {}
}
