/// One of the outputs of the guest's device, counted from 0 (virtio 1.3, 5.7.6.8: scanout).
package struct ScanoutID: Hashable, Sendable, CustomStringConvertible {
  package let rawValue: UInt32
  package init(_ rawValue: UInt32) { self.rawValue = rawValue }
  package var description: String { String(rawValue) }
}
