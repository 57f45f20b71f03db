/// A large copy is made in bands of this many bytes. The time is checked after each band.
package enum CopyBand {
  package static let bytes = 1 << 20

  /// The number of rows of `length` bytes in a band, at least one.
  package static func rows(of length: Int, atMost count: Int) -> Int {
    min(count, max(1, bytes / max(1, length)))
  }
}
