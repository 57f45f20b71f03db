internal import Buffers
internal import Guest
internal import Linux

/// The bytes of a resource in memory of our own.
final class PixelStore {
  let bytes: ByteSource
  let mapping: Mapping
  /// Why pictures are copied from this store.
  let cause: ShadowCause

  init(_ mapping: Mapping, _ cause: ShadowCause) {
    (self.mapping, self.cause) = (mapping, cause)
    bytes = ByteSource([GuestWindow(mapping: mapping, start: 0, length: mapping.length)])
  }
}
