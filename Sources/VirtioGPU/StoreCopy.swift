internal import Buffers
internal import Linux
internal import Pictures

/// Bytes on their way into a store: first those of earlier transfers, then the part that was transferred now.
struct StoreCopy {
  /// Rows that lie one behind the other on both sides, in bytes from the start of each.
  struct Rows {
    var count: Int
    let length: Int
    var from, to: Int
  }

  let source: ByteSource
  let store: PixelStore
  let stride: Int
  /// Whether the guest gets its pages back with the command's answer.
  let isLast: Bool
  var before: Rows?
  var part: Rows
  /// The bytes copied so far.
  private(set) var copied: UInt64 = 0

  init(_ source: ByteSource, _ store: PixelStore, stride: Int, before: Rows?, part: Rows) {
    (self.source, self.store, self.stride, isLast) = (source, store, stride, false)
    (self.before, self.part) = (before, part)
  }

  /// A copy of all that there is room for, from pages that then go back to the guest.
  init(all source: ByteSource, _ store: PixelStore) {
    let (piece, size) = (4096, store.mapping.length)
    let whole = size / piece
    (self.source, self.store, stride, isLast) = (source, store, piece, true)
    before = whole > 0 ? Rows(count: whole, length: piece, from: 0, to: 0) : nil
    part = Rows(
      count: size % piece > 0 ? 1 : 0, length: size % piece, from: whole * piece, to: whole * piece)
  }

  /// Copies at least one band, and goes on until `end`.
  /// - Returns: true if all is copied.
  mutating func proceed(until end: Instant) -> Bool {
    var sinceLook = 0
    while var rows = before ?? (part.count > 0 ? part : nil) {
      let count = CopyBand.rows(of: rows.length, atMost: rows.count)
      copied += source.copyRows(
        count, of: rows.length, from: rows.from, stride: stride, to: store.mapping, at: rows.to,
        targetStride: stride)
      rows.count -= count
      rows.from += count * stride
      rows.to += count * stride
      if before == nil { part = rows } else { before = rows.count > 0 ? rows : nil }
      sinceLook += count * rows.length
      guard sinceLook >= CopyBand.bytes else { continue }
      sinceLook = 0
      if Instant.now >= end { return before == nil && part.count == 0 }
    }
    return true
  }
}
