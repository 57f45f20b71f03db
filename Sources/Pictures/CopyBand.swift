/// A large copy is made in bands of so many bytes. After as many the time is looked at.
package enum CopyBand {
  package static let bytes = 1 << 20

  /// How many rows of `length` bytes are in a band, one at least.
  package static func rows(of length: Int, atMost count: Int) -> Int {
    min(count, max(1, bytes / max(1, length)))
  }
}
