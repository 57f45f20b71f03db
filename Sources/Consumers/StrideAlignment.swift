/// A number of bytes. The card that draws QEMU's window takes dma-bufs whose stride is a multiple of it.
package struct StrideAlignment: Equatable, Sendable, CustomStringConvertible {
  /// A power of two.
  package let bytes: UInt32
  /// Its source for people, such as the option that set it.
  package var origin: String?

  /// Any stride.
  package static let none = StrideAlignment(known: 1)
  /// A stride that every driver below takes.
  package static let strictest = StrideAlignment(known: 256)

  /// No driver needs more than a page.
  package static let largest: UInt32 = 4096

  /// Nil unless it is a power of two, at most `largest`.
  package init?(bytes: UInt32) {
    guard bytes.nonzeroBitCount == 1, bytes <= Self.largest else { return nil }
    self.bytes = bytes
  }

  private init(known bytes: UInt32) { self.bytes = bytes }

  /// The alignment of a card, by the name of its driver in the kernel; nil for an unknown one. docs/display.md has the
  /// sources of these numbers.
  package static func ofDriver(_ name: String) -> StrideAlignment? {
    switch name {
    case "amdgpu", "radeon": StrideAlignment(known: 256)
    case "nvidia-drm", "nouveau": StrideAlignment(known: 256)
    case "i915", "xe": StrideAlignment(known: 64)
    default: nil
    }
  }

  func allows(_ stride: UInt32) -> Bool { stride % bytes == 0 }

  package var description: String { String(bytes) }
}
