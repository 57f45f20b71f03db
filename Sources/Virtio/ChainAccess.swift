package import Guest

/// Reads the device-readable part of a chain from its start, over any number of descriptors.
///
/// Guest memory changes under us: each byte is copied in once, and only the copy may be parsed. It holds the
/// chain's array; let it end before the chain is filled again, or that array is copied.
package struct ChainReader {
  private var cursor: ChainCursor
  package let memory: GuestMemory

  package init(_ chain: DescriptorChain, _ memory: GuestMemory) { self.init(chain.readable, memory) }

  package init(_ readable: [GuestRange], _ memory: GuestMemory) {
    cursor = ChainCursor(readable)
    self.memory = memory
  }

  /// In bytes.
  package var remaining: UInt64 { cursor.remaining }

  /// Appends the next `count` bytes to `bytes`.
  /// - Throws: `readPastEnd` before anything is read, or `memory`; the reader has then passed some of them,
  ///   and `bytes` holds these.
  package mutating func read(_ count: Int, into bytes: inout [UInt8]) throws(VirtQueueError) {
    guard count >= 0, UInt64(count) <= remaining else { throw .readPastEnd(count: count, left: remaining) }
    var left = UInt64(count)
    while left > 0 {
      let piece = try cursor.take(upTo: left)
      do throws(GuestMemoryError) { try memory.append(piece, to: &bytes) } catch { throw .memory(error) }
      left -= piece.length
    }
  }
}

/// Writes the device-writable part of a chain from its start, over any number of descriptors.
///
/// An answer may come long after the chain was taken: its head and a copy of its `writable` are all that is
/// needed then.
package struct ChainWriter {
  private var cursor: ChainCursor
  private let memory: GuestMemory
  /// How many bytes were written: what `VirtQueue.complete` wants to know.
  package private(set) var written: UInt32 = 0

  package init(_ chain: DescriptorChain, _ memory: GuestMemory) { self.init(chain.writable, memory) }

  package init(_ writable: [GuestRange], _ memory: GuestMemory) {
    cursor = ChainCursor(writable)
    self.memory = memory
  }

  /// The room left, in bytes.
  package var remaining: UInt64 { cursor.remaining }

  /// Writes all of `bytes`.
  /// - Throws: `writePastEnd` before anything is written, or `memory`, when only the bytes counted in
  ///   `written` arrived.
  package mutating func write(_ bytes: RawSpan) throws(VirtQueueError) {
    guard UInt64(bytes.byteCount) <= remaining, UInt64(bytes.byteCount) <= UInt64(UInt32.max - written) else {
      throw .writePastEnd(count: bytes.byteCount, left: remaining)
    }
    var rest = bytes
    while rest.byteCount > 0 {
      let piece = try cursor.take(upTo: UInt64(rest.byteCount))
      let count = Int(piece.length)
      do throws(GuestMemoryError) {
        try memory.store(rest.extracting(first: count), at: piece.address)
      } catch {
        throw .memory(error)
      }
      written += UInt32(count)
      rest = rest.extracting(droppingFirst: count)
    }
  }
}

/// A place in a list of ranges.
private struct ChainCursor {
  private let ranges: [GuestRange]
  private var index = 0
  /// How much of `ranges[index]` was taken.
  private var taken: UInt64 = 0
  private(set) var remaining: UInt64

  init(_ ranges: [GuestRange]) {
    self.ranges = ranges
    remaining = ranges.totalLength
  }

  /// The next piece, of one range. `limit` and `remaining` are more than zero.
  mutating func take(upTo limit: UInt64) throws(VirtQueueError) -> GuestRange {
    while ranges[index].length == taken {
      index += 1
      taken = 0
    }
    let range = ranges[index]
    let length = min(limit, range.length - taken)
    guard let address = range.address.advanced(by: taken) else {
      throw .memory(.overflow(item: index, range))
    }
    let piece = GuestRange(address: address, length: length)
    taken += length
    remaining -= length
    return piece
  }
}
