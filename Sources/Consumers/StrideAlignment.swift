/// A number of bytes. The card that draws QEMU's window takes in a dma-buf whose rows are a multiple of it.
package struct StrideAlignment: Equatable, Sendable, CustomStringConvertible {
  /// A power of two.
  package let bytes: UInt32
  /// What people know it by, such as the option that said so.
  package var origin: String?

  /// Any row will do.
  package static let none = StrideAlignment(known: 1)
  /// Every driver below takes such rows.
  package static let strictest = StrideAlignment(known: 256)

  /// Nobody wants more than a page.
  package static let largest: UInt32 = 4096

  /// Nil unless it is a power of two, at most `largest`.
  package init?(bytes: UInt32) {
    guard bytes.nonzeroBitCount == 1, bytes <= Self.largest else { return nil }
    self.bytes = bytes
  }

  private init(known bytes: UInt32) { self.bytes = bytes }

  /// Of a card, by the name of its driver in the kernel; nil for one of which nothing is known. docs/display.md says
  /// where these numbers come from.
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
